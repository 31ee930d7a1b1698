//! Letting go of worktrees that nobody needs: to the trash or the pool, and out of the trash.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    Place, WorktreeError, Worktrees, base_of,
    pool::{is_pool_slot, pool_slot},
};
use crate::{
    agent::{AgentProject, Backend},
    git::{GateOf, Whereabouts, Worktree},
    model::{
        ask::AskPolicy,
        worktree::{Decision, Limits, Reason, Space, State, Stays, decide, over_quota},
    },
    store::worktrees::{WorktreeFilter, WorktreeRow},
    supervise::end_inside,
};

/// Worktrees looked at together.
const AT_ONCE: i64 = 200;
/// How long a round measures: each worktree is a walk through a folder.
const MEASURING: Duration = Duration::from_secs(3);
/// How many are asked for at once to be measured.
const MEASURED_TOGETHER: i64 = 50;
/// The most names that are looked at to measure one.
const MEASURED_NAMES: u64 = 200_000;
/// The most worktrees of a project that are weighed against its quota at once.
const WEIGHED: i64 = 10_000;

/// What came of a worktree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It lies in the trash.
    Trashed,
    /// It was reset, and waits for the next session.
    Pooled,
    /// It was removed for good, from the trash or the pool.
    Removed,
    /// It was on its way when somebody was killed; now it is where it belongs.
    Settled,
    /// It stays, and why.
    Stays(String),
    /// It could not be done, and why; it is tried again later.
    Problem(String),
}

/// What a round did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Each worktree that was touched, or could not be.
    pub done: Vec<(i64, Outcome)>,
}

/// A slot of the trash, for a worktree as it is.
pub(super) fn trash_slot(session_id: i64) -> String {
    format!("s{session_id}-{}", uuid::Uuid::new_v4().simple())
}

/// A slot of the trash that cannot be restored: what is in it was half reset.
pub(super) fn spoilt_slot(session_id: i64) -> String {
    format!("odd-s{session_id}-{}", uuid::Uuid::new_v4().simple())
}

pub(super) fn is_spoilt(slot: &str) -> bool {
    slot.starts_with("odd-")
}

impl Worktrees {
    /// Does all that is due, a bounded number at a time, until nothing is due any more or `stop`.
    pub async fn round(&self, backend: Option<&dyn Backend>, stop: &CancellationToken) -> Result<Round, WorktreeError> {
        let mut round = Round::default();
        loop {
            let due = self
                .store
                .worktrees_due(
                    &self.host_id,
                    self.timings.reap_grace,
                    self.timings.trash_kept,
                    self.timings.reap_retry,
                    AT_ONCE,
                )
                .await?;
            let mut moved = false;
            for row in &due {
                if stop.is_cancelled() {
                    return Ok(round);
                }
                let outcome = self.reap(row, backend).await?;
                moved |= !matches!(outcome, Outcome::Stays(_) | Outcome::Problem(_));
                round.done.push((row.id, outcome));
            }
            if !moved {
                break;
            }
        }
        self.make_room(backend, stop, &mut round).await?;
        self.measure(stop).await?;
        Ok(round)
    }

    /// Decides about one worktree, and does it.
    pub async fn reap(&self, row: &WorktreeRow, backend: Option<&dyn Backend>) -> Result<Outcome, WorktreeError> {
        let decision = decide(&row.facts, &self.limits_with(self.pool_room(row.project_id).await? > 0));
        let done = match decision {
            Decision::Stay(why) => return self.leave(row, why).await,
            Decision::Settle => self.settle(row).await,
            Decision::Trash(reason) => self.let_go(row, reason, false, backend).await,
            Decision::Pool => self.let_go(row, Reason::SessionClosed, true, backend).await,
            Decision::Empty => self.empty(row).await,
            Decision::Drop => self.drop_from_pool(row).await.map(|done| match done {
                true => Outcome::Removed,
                false => Outcome::Stays("a session takes it".to_owned()),
            }),
        };
        match done {
            Err(WorktreeError::Store(error)) => Err(WorktreeError::Store(error)),
            Err(error) => {
                let problem = error.to_string();
                if row.problem.as_ref() != Some(&problem) {
                    tracing::warn!(worktree = row.id, path = row.path, problem, "this worktree cannot be reaped");
                }
                self.store.note_worktree_problem(row.id, &problem).await?;
                Ok(Outcome::Problem(problem))
            }
            Ok(outcome) => {
                tracing::info!(worktree = row.id, path = row.path, ?decision, ?outcome, "reaped");
                Ok(outcome)
            }
        }
    }

    /// The bounds of decisions.
    pub(super) fn limits_with(&self, pool_has_room: bool) -> Limits {
        Limits { grace: self.timings.reap_grace, trash_kept: self.timings.trash_kept, pool_has_room }
    }

    /// What was asked for and cannot be done is not tried again by itself; what is due and has to stay makes way for others for a while.
    async fn leave(&self, row: &WorktreeRow, why: Stays) -> Result<Outcome, WorktreeError> {
        if row.facts.asked {
            self.store.note_worktree_problem(row.id, why.as_str()).await?;
        } else {
            self.store.put_off_worktree(row.id).await?;
        }
        Ok(Outcome::Stays(why.as_str().to_owned()))
    }

    /// Checkpoint, then the trash or the pool.
    async fn let_go(
        &self,
        row: &WorktreeRow,
        reason: Reason,
        to_pool: bool,
        backend: Option<&dyn Backend>,
    ) -> Result<Outcome, WorktreeError> {
        let place = self.place(row).await?;
        let Some(_gate) = self.git.try_gate(GateOf::Session(place.session_id)).await? else {
            return Ok(Outcome::Stays("somebody else is at work on it".to_owned()));
        };
        let slot = if to_pool { pool_slot(row) } else { trash_slot(place.session_id) };
        if !self.store.begin_reaping(row.id, reason, &slot).await? {
            return Ok(Outcome::Stays("it is in use".to_owned()));
        }
        let safe = match self.make_safe(row, &place, reason, to_pool, backend).await {
            Ok(safe) => safe,
            Err(WorktreeError::Store(error)) => return Err(WorktreeError::Store(error)),
            Err(error) => {
                self.store.abandon_reaping(row.id, Some(&error.to_string())).await?;
                return Err(error);
            }
        };
        match safe {
            Safe::Claimed => {
                self.store.abandon_reaping(row.id, None).await?;
                Ok(Outcome::Stays("it was taken up again".to_owned()))
            }
            Safe::Lost => {
                self.store.mark_worktree_gone(row.id).await?;
                Ok(Outcome::Removed)
            }
            Safe::ForTrash => {
                self.store.abandon_reaping(row.id, None).await?;
                Box::pin(self.let_go_held(row, reason, &place, backend)).await
            }
            Safe::Yes if to_pool => Ok(match self.reset_into_pool(row, &place, &slot).await? {
                true => Outcome::Pooled,
                false => Outcome::Trashed,
            }),
            Safe::Yes => {
                self.git.trash_worktree(&place.mirror, place.session_id, &slot).await?;
                self.store.mark_trashed(row.id).await?;
                Ok(Outcome::Trashed)
            }
        }
    }

    /// To the trash what was meant for the pool; the caller holds the gate.
    async fn let_go_held(
        &self,
        row: &WorktreeRow,
        reason: Reason,
        place: &Place,
        backend: Option<&dyn Backend>,
    ) -> Result<Outcome, WorktreeError> {
        let slot = trash_slot(place.session_id);
        if !self.store.begin_reaping(row.id, reason, &slot).await? {
            return Ok(Outcome::Stays("it is in use".to_owned()));
        }
        match self.make_safe(row, place, reason, false, backend).await? {
            Safe::Yes | Safe::ForTrash => {
                self.git.trash_worktree(&place.mirror, place.session_id, &slot).await?;
                self.store.mark_trashed(row.id).await?;
                Ok(Outcome::Trashed)
            }
            Safe::Claimed | Safe::Lost => {
                self.store.abandon_reaping(row.id, None).await?;
                Ok(Outcome::Stays("it was taken up again".to_owned()))
            }
        }
    }

    /// All that comes before the folder is touched: the agent lets go of it, processes in it end, its work is in a checkpoint, and
    /// nobody has claimed the session meanwhile.
    async fn make_safe(
        &self,
        row: &WorktreeRow,
        place: &Place,
        reason: Reason,
        to_pool: bool,
        backend: Option<&dyn Backend>,
    ) -> Result<Safe, WorktreeError> {
        let path = self.home.worktree(place.project_id, place.session_id);
        let there = path.symlink_metadata().is_ok();
        if there {
            // Before anything is ended: a link could lead to where other sessions, or projects, work.
            let real = self.git.real_path(&place.mirror, place.session_id).await?;
            if let Some(backend) = backend
                && let Err(error) = backend.close(&self.agent_project(row, place), &path).await
            {
                tracing::debug!(worktree = row.id, %error, "the agent did not let go of the worktree");
            }
            let emptied = end_inside(&real, &self.host_id, self.timings.kill_grace).await;
            if emptied.ended > 0 {
                tracing::warn!(worktree = row.id, processes = emptied.ended, "ended processes that were left in it");
            }
            if let Some(stranger) = emptied.left.iter().find(|occupant| !occupant.is_ours) {
                let message =
                    format!("{} (process {}) is in it, which is not ours to end", stranger.name, stranger.pid);
                return Err(WorktreeError::Problem(message));
            }
            if to_pool && !emptied.left.is_empty() {
                return Ok(Safe::ForTrash);
            }
        }
        let (checkpoint, unrecorded) = if there {
            let worktree = Worktree {
                session_id: place.session_id,
                path,
                branch: row.branch.clone(),
                base_commit: base_of(row).commit,
            };
            let (checkpoint, differs) = self.git.checkpoint_before_reaping(&place.mirror, &worktree).await?;
            if to_pool && (differs || !checkpoint.notes.is_empty()) {
                return Ok(Safe::ForTrash);
            }
            (checkpoint.commit, differs)
        } else {
            let last = self.git.last_checkpoint(&place.mirror, place.session_id).await?;
            (last.unwrap_or_else(|| row.base_commit.clone()), false)
        };
        if !self.store.confirm_reaping(row.id, reason, &checkpoint, unrecorded).await? {
            return Ok(Safe::Claimed);
        }
        Ok(if there { Safe::Yes } else { Safe::Lost })
    }

    fn agent_project(&self, row: &WorktreeRow, place: &Place) -> AgentProject {
        AgentProject {
            id: place.project_id,
            name: row.project.clone(),
            folder: self.home.agent_folder(place.project_id),
            trusted: false,
            asks: AskPolicy::Reject,
            env_pass: Vec::new(),
        }
    }

    /// Finishes, or takes back, what somebody began who was killed: where the folder is says which.
    pub(super) async fn settle(&self, row: &WorktreeRow) -> Result<Outcome, WorktreeError> {
        let Some(session_id) = row.last_session_id else {
            let Some(_gate) = self.git.try_gate(GateOf::Pooled(row.id)).await? else { return Ok(busy()) };
            self.finish_dropping(row).await?;
            return Ok(Outcome::Removed);
        };
        let Some(_gate) = self.git.try_gate(GateOf::Session(session_id)).await? else { return Ok(busy()) };
        // As it is now: whoever had the gate may have finished.
        let Some(row) = self.store.worktree(row.id).await?.filter(|row| row.facts.state == State::Reaping) else {
            return Ok(Outcome::Settled);
        };
        let place = self.place(&row).await?;
        let slot = row.slot.clone().unwrap_or_default();
        if is_pool_slot(&slot) {
            self.settle_pooling(&row, &place, &slot).await?;
        } else {
            match self.git.whereabouts(&place.mirror, session_id, &slot).await? {
                Whereabouts::InTrash => {
                    self.git.trash_worktree(&place.mirror, session_id, &slot).await?;
                    self.store.mark_trashed(row.id).await?;
                }
                Whereabouts::InPlace => self.store.abandon_reaping(row.id, None).await?,
                Whereabouts::Lost => self.store.mark_worktree_gone(row.id).await?,
            }
        }
        Ok(Outcome::Settled)
    }

    async fn settle_pooling(&self, row: &WorktreeRow, place: &Place, slot: &str) -> Result<(), WorktreeError> {
        if self.git.is_pooled(&place.mirror, slot).await? {
            let path = self.home.pool(place.project_id).join(slot);
            self.store.mark_pooled(row.id, &path.to_string_lossy()).await?;
        } else if self.git.is_whole(&place.mirror, place.session_id).await? {
            self.store.abandon_reaping(row.id, None).await?;
        } else {
            self.spoil(row, place, slot).await?;
        }
        Ok(())
    }

    /// Removes a worktree from the trash for good.
    async fn empty(&self, row: &WorktreeRow) -> Result<Outcome, WorktreeError> {
        let session_id = row.last_session_id.unwrap_or_default();
        let Some(_gate) = self.git.try_gate(GateOf::Session(session_id)).await? else { return Ok(busy()) };
        let Some(row) = self.store.worktree(row.id).await?.filter(|row| row.facts.state == State::Trashed) else {
            return Ok(Outcome::Stays("it was restored".to_owned()));
        };
        if let Some(slot) = &row.slot {
            if !self.git.is_in_trash(slot).await? && self.is_back(&row, session_id).await? {
                // Whoever restored it was killed before it could say so.
                self.store.mark_in_place(row.id).await?;
                return Ok(Outcome::Settled);
            }
            self.git.empty_slot(slot).await?;
        }
        self.store.mark_worktree_gone(row.id).await?;
        Ok(Outcome::Removed)
    }

    /// Whether a worktree is whole in its place; where there is no mirror any more, none is.
    async fn is_back(&self, row: &WorktreeRow, session_id: i64) -> Result<bool, WorktreeError> {
        let Some(project_id) = row.project_id else { return Ok(false) };
        let Some(mirror) = self.git.mirror_with(project_id, &row.base_commit).await? else { return Ok(false) };
        Ok(self.git.is_whole(&mirror, session_id).await?)
    }

    /// Lets worktrees of projects go that take more space than they may.
    async fn make_room(
        &self,
        backend: Option<&dyn Backend>,
        stop: &CancellationToken,
        round: &mut Round,
    ) -> Result<(), WorktreeError> {
        let Some(quota) = self.settings.quota else { return Ok(()) };
        for project_id in self.store.projects_above(&self.host_id, quota).await? {
            let filter = WorktreeFilter {
                host_id: Some(self.host_id.clone()),
                project_id: Some(project_id),
                ..WorktreeFilter::default()
            };
            let rows = self.store.worktrees(&filter, WEIGHED).await?;
            for mut row in self.to_make_room(rows, quota) {
                if stop.is_cancelled() {
                    return Ok(());
                }
                row.facts.makes_room = true;
                let outcome = self.reap(&row, backend).await?;
                round.done.push((row.id, outcome));
            }
        }
        Ok(())
    }

    /// Which of a project's worktrees go to make room.
    pub(super) fn to_make_room(&self, rows: Vec<WorktreeRow>, quota: i64) -> Vec<WorktreeRow> {
        let spaces: Vec<Space> = rows
            .iter()
            .map(|row| Space {
                id: row.id,
                facts: row.facts,
                bytes: row.bytes.unwrap_or(0),
                idle: row.idle,
                is_safe: row.checkpoint.is_some(),
                was_tried: row.tried.is_some_and(|since| since < self.timings.reap_retry),
            })
            .collect();
        let chosen = over_quota(&spaces, quota, self.timings.reap_grace);
        let mut rows: BTreeMap<i64, WorktreeRow> = rows.into_iter().map(|row| (row.id, row)).collect();
        chosen.into_iter().filter_map(|id| rows.remove(&id)).collect()
    }

    /// Measures worktrees that were used since they were last measured, for a while.
    async fn measure(&self, stop: &CancellationToken) -> Result<(), WorktreeError> {
        let until = Instant::now() + MEASURING;
        loop {
            let rows = self.store.unmeasured_worktrees(&self.host_id, MEASURED_TOGETHER).await?;
            if rows.is_empty() {
                return Ok(());
            }
            for row in rows {
                if stop.is_cancelled() || Instant::now() > until {
                    return Ok(());
                }
                let path = match (row.facts.state, &row.slot) {
                    (State::Trashed, Some(slot)) => self.home.trash().join(slot),
                    _ => row.path.clone().into(),
                };
                let found = self.git.disk_use(&path, MEASURED_NAMES).await?;
                self.store.record_bytes(row.id, i64::try_from(found.bytes).unwrap_or(i64::MAX)).await?;
            }
        }
    }
}

fn busy() -> Outcome {
    Outcome::Stays("somebody else is at work on it".to_owned())
}

/// Whether a worktree may be moved.
enum Safe {
    /// Its work is in a checkpoint, nobody is in it, nobody has claimed it.
    Yes,
    /// There is no folder; the last checkpoint is what there is.
    Lost,
    /// Somebody has begun to use it.
    Claimed,
    /// It may, but not to the pool: a process of ours that is not to be ended has a file open in it, or there is more in it than its
    /// checkpoint or its last turn's has.
    ForTrash,
}
