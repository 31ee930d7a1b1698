//! Runs the checks of what turns of this host's sessions changed, and sends failed ones back where the project says so.
//!
//! Outside every lease: the session's next task need not wait, as a check works on a checkout of its own. What came of it is written under
//! a token. A worker that dies takes its checks with it; the next one of the host finds them begun under a token that nobody holds,
//! and runs them again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Trouble;
use crate::{
    actions,
    agent::command::{Commands, Order},
    config::Timings,
    git::{Checked, Checkout, Git},
    model::{
        check::{Recorded, not_run, record},
        command::{Ended, setup_failure},
    },
    store::{
        Store, StoreError,
        checks::{BegunCheck, Unchecked},
    },
    worktrees::read_copied,
};

/// Between looks for failed checks that nobody has sent back: mostly that is done as soon as they are over.
const FEEDBACK_EVERY: Duration = Duration::from_secs(30);
/// Change sets whose failed checks are sent back in a round.
const FEEDBACK_AT_ONCE: i64 = 50;
/// Between tries of recording a result while the database cannot be reached.
const RECORD_AGAIN: Duration = Duration::from_millis(500);

/// What the checker needs.
pub struct Checker {
    /// The database.
    pub store: Store,
    /// Checkouts.
    pub git: Git,
    /// Runs them.
    pub commands: Commands,
    /// This host.
    pub host_id: String,
    /// Change sets checked at once.
    pub at_once: usize,
    /// How long things may take.
    pub timings: Timings,
}

/// Why the checks of a change set cannot be run.
enum NotReady {
    /// It is to be recorded.
    Problem(String, String),
    /// The worker stops.
    Stopped,
}

/// The change sets that are being checked, and under which token.
type Held = Arc<Mutex<HashMap<i64, Uuid>>>;

fn lock(held: &Held) -> MutexGuard<'_, HashMap<i64, Uuid>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Checker {
    /// Checks until `stop`; then ends what runs, and hands it back.
    pub async fn run(self, stop: CancellationToken) {
        if let Err(error) = self.git.clear_checkouts().await {
            tracing::warn!(%error, "what is left of earlier checks cannot be removed");
        }
        let checker = Arc::new(self);
        let held = Held::default();
        let mut running = JoinSet::new();
        let mut trouble = Trouble::new("checking changes");
        let mut ticks = tokio::time::interval(checker.timings.check_poll.max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut feedback_at = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
                Some(_) = running.join_next() => feedback_at = Instant::now(),
            }
            let round = checker.round(&held, &mut running, &stop);
            trouble.note(stop.run_until_cancelled(round).await.unwrap_or(Ok(())));
            if feedback_at <= Instant::now() {
                feedback_at = Instant::now() + FEEDBACK_EVERY;
                trouble.note(stop.run_until_cancelled(checker.send_back()).await.unwrap_or(Ok(())));
            }
        }
        while running.join_next().await.is_some() {}
    }

    async fn round(
        self: &Arc<Self>,
        held: &Held,
        running: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let tokens: Vec<Uuid> = lock(held).values().copied().collect();
        let released = self.store.release_checks(&self.host_id, &tokens).await?;
        if released > 0 {
            tracing::warn!(checks = released, "checks of an earlier worker are taken back");
        }
        self.store.skip_checks().await?;
        let room = self.at_once.saturating_sub(tokens.len());
        if room == 0 {
            return Ok(());
        }
        let under_way: Vec<i64> = lock(held).keys().copied().collect();
        let room = i64::try_from(room).unwrap_or(i64::MAX);
        for set in self.store.unchecked(&self.host_id, &under_way, room).await? {
            let token = Uuid::new_v4();
            lock(held).insert(set.change_set_id, token);
            let (checker, held, stop) = (Arc::clone(self), Arc::clone(held), stop.clone());
            running.spawn(async move {
                checker.check(&set, token, &stop).await;
                lock(&held).remove(&set.change_set_id);
            });
        }
        Ok(())
    }

    /// All that is to be checked of a change set, one check after another on one checkout.
    async fn check(&self, set: &Unchecked, token: Uuid, stop: &CancellationToken) {
        let Some(mut begun) = self.begin(set, token).await else { return };
        let prepared = self.prepare(set, stop).await;
        loop {
            let recorded = match &prepared {
                Ok(checkout) => self.run_one(set, checkout, &begun, stop).await,
                Err(NotReady::Problem(problem, output)) => Some(not_run(problem.clone(), output.clone())),
                Err(NotReady::Stopped) => None,
            };
            match recorded {
                Some(recorded) => self.finish(set, &begun, token, &recorded, stop).await,
                // What was stopped on purpose counts as not begun; what was lost is released with the token.
                None if stop.is_cancelled() => {
                    if let Err(error) = self.store.hand_back_check(begun.id, token).await {
                        tracing::debug!(%error, "a check that was stopped is run again by the next worker");
                    }
                    break;
                }
                None => break,
            }
            match self.begin(set, token).await {
                Some(next) if !stop.is_cancelled() => begun = next,
                _ => break,
            }
        }
        if let Err(error) = self.git.remove_checkout(set.project_id, set.change_set_id).await {
            tracing::warn!(%error, "a checkout cannot be removed; the next start tries again");
        }
    }

    async fn begin(&self, set: &Unchecked, token: Uuid) -> Option<BegunCheck> {
        match self.store.begin_check(set.change_set_id, &self.host_id, token).await {
            Ok(begun) => begun,
            Err(error) => {
                tracing::debug!(%error, "a check cannot be begun yet");
                None
            }
        }
    }

    /// The checkout, set up as a worktree is.
    async fn prepare(&self, set: &Unchecked, stop: &CancellationToken) -> Result<Checkout, NotReady> {
        let problem = |error: &dyn std::fmt::Display| NotReady::Problem(error.to_string(), String::new());
        let setup = self.store.setup(set.project_id).await.map_err(|error| problem(&error))?;
        let files = read_copied(&self.commands, setup.files).await.map_err(|error| problem(&error))?;
        let mirror = self.git.mirror_with(set.project_id, &set.base_commit).await.map_err(|error| problem(&error))?;
        let mirror =
            mirror.ok_or_else(|| problem(&"this host's clone of the project does not have its base commit"))?;
        let checked = Checked {
            change_set_id: set.change_set_id,
            tree: &set.tree_id,
            base_commit: &set.base_commit,
            base_branch: set.base_branch.as_deref(),
        };
        let checkout = self.git.check_out_result(&mirror, &checked, files).await.map_err(|error| problem(&error))?;
        let Some(command) = &setup.command else { return Ok(checkout) };
        let order = self.order(set, &checkout, "setup", command, self.timings.setup);
        let ran = self.commands.run(&order, stop).await.map_err(|error| problem(&error))?;
        match ran.ended {
            Ended::Code(0) => Ok(checkout),
            Ended::Stopped => Err(NotReady::Stopped),
            _ => Err(NotReady::Problem(
                "it could not be run: the project's setup failed".to_owned(),
                setup_failure(command, &ran),
            )),
        }
    }

    fn order<'a>(
        &self,
        set: &'a Unchecked,
        checkout: &Checkout,
        name: &str,
        command: &'a str,
        limit: Duration,
    ) -> Order<'a> {
        Order {
            name: format!("check-c{}-{name}", set.change_set_id),
            command,
            project_id: set.project_id,
            cwd: checkout.tree.clone(),
            folder: checkout.folder.clone(),
            shared: self.commands.home.checks(set.project_id),
            env_pass: &set.env_pass,
            limit,
            on_lease: false,
        }
    }

    /// Runs a check; none if it did not come to its own end.
    async fn run_one(
        &self,
        set: &Unchecked,
        checkout: &Checkout,
        begun: &BegunCheck,
        stop: &CancellationToken,
    ) -> Option<Recorded> {
        let limit = begun.limit_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let limit = limit.map_or(self.timings.check, Duration::from_secs);
        let order = self.order(set, checkout, &begun.name, &begun.command, limit);
        match self.commands.run(&order, stop).await {
            Ok(ran) => record(ran),
            Err(error) => Some(not_run(format!("it could not be run: {error}"), String::new())),
        }
    }

    async fn finish(
        &self,
        set: &Unchecked,
        begun: &BegunCheck,
        token: Uuid,
        recorded: &Recorded,
        stop: &CancellationToken,
    ) {
        loop {
            match self.store.finish_check(begun.id, token, recorded).await {
                Ok(true) => {
                    tracing::info!(session = set.session_id, check = begun.name, state = recorded.state, "checked");
                    return;
                }
                Ok(false) => {
                    tracing::warn!(
                        session = set.session_id,
                        check = begun.name,
                        "somebody else has this check: discarded"
                    );
                    return;
                }
                Err(error) if error.is_unreachable() && !stop.is_cancelled() => {
                    tracing::debug!(%error, "a check could not be recorded yet");
                    tokio::time::sleep(RECORD_AGAIN).await;
                }
                Err(error) => {
                    tracing::warn!(%error, check = begun.name, "a check could not be recorded; it is run again");
                    return;
                }
            }
        }
    }

    async fn send_back(&self) -> Result<(), StoreError> {
        for due in self.store.due_feedback(&self.host_id, FEEDBACK_AT_ONCE).await? {
            match actions::send_back(&self.store, &due).await {
                Ok(Some(task)) => tracing::info!(task, round = due.round, "failed checks were sent back"),
                Ok(None) => {}
                Err(StoreError::Refused { message, .. }) => {
                    tracing::debug!(message, "failed checks were not sent back");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
