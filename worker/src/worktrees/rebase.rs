//! Moving a session to another base, and taking it back to a checkpoint: only while no turn runs in it. And merging a commit into it, for a turn.

use tracing::Instrument as _;

use super::{TakeError, Taking, WorktreeError, Worktrees};
use crate::{
    git::{Base, Gate, GateOf, GitError, Mirror, Rebased, Worktree},
    model::{apply::Taken, worktree::State},
    store::{reads_turns::ChangeSetRow, worktrees::WorktreeRow},
};

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moved {
    /// It is there.
    Yes,
    /// It is in use: to be tried again later.
    Later(String),
    /// It stays where it is, and why.
    No(String),
}

/// How many of a session's applies are looked at for one that a commit has.
const APPLIES_LOOKED_AT: i64 = 50;
const MOVED_AWAY: &str = "it has moved to another host";

/// A worktree that nobody else touches for now.
struct Held {
    _gate: Gate,
    row: WorktreeRow,
    mirror: Mirror,
    worktree: Worktree,
}

impl Worktrees {
    /// Measures a session against another commit from now on; what its agent changed stays, on top of it. `taken` is what
    /// that commit has of it.
    pub async fn rebase(&self, session_id: i64, onto: &Base, taken: Option<&Taken>) -> Result<Moved, WorktreeError> {
        let held = match self.hold(session_id).await? {
            Ok(held) => held,
            Err(not) => return Ok(not),
        };
        match self.git.rebase_worktree(&held.mirror, &held.worktree, onto, taken).await? {
            Rebased::Stays(why) => Ok(Moved::No(why)),
            Rebased::Yes => match self.store.move_base(session_id, held.row.id, &self.host_id, &onto.commit).await? {
                true => Ok(Moved::Yes),
                false => Ok(Moved::No(MOVED_AWAY.to_owned())),
            },
        }
    }

    /// Takes the files of a session back to the tree of a change set, for its next turn, and opens that change set again. A kill in between
    /// leaves the files anywhere on the way, and an entry that says so: the same call, made again, finishes.
    pub async fn roll_back(
        &self,
        session_id: i64,
        task_id: i64,
        set: &ChangeSetRow,
        who: &str,
    ) -> Result<Moved, WorktreeError> {
        let held = match self.hold(session_id).await? {
            Ok(held) => held,
            Err(not) => return Ok(not),
        };
        let begun = self.store.begin_rollback(session_id, task_id, &set.project, who, &self.host_id).await?;
        let Some(entry) = begun else { return Ok(Moved::No(MOVED_AWAY.to_owned())) };
        let taken_back =
            self.git.roll_back_worktree(&held.mirror, &held.worktree, &set.base_commit, &set.tree_id).await?;
        Ok(match taken_back {
            Rebased::Yes => {
                self.store.end_rollback(session_id, set.id).await?;
                Moved::Yes
            }
            Rebased::Stays(why) => {
                self.store.forget_rollback(entry).await?;
                Moved::No(why)
            }
        })
    }

    /// What a commit has of a session already: what the newest of its applies took that is in the commit's history.
    pub async fn taken(&self, mirror: &Mirror, session_id: i64, tip: &str) -> Result<Option<Taken>, WorktreeError> {
        for (commit, taken) in self.store.taken(session_id, APPLIES_LOOKED_AT).await? {
            if self.git.is_in_history(mirror, &commit, tip).await? {
                return Ok(Some(taken));
            }
        }
        Ok(None)
    }

    /// Merges a commit into the worktree of a turn, conflicts and all, and measures the session against it from then on.
    ///
    /// Whoever stops waiting for it stops only that: what was begun on disk is finished, with the gate held.
    pub async fn merge(
        &self,
        taking: Taking,
        mirror: &Mirror,
        worktree: &Worktree,
        onto: &Base,
    ) -> Result<Worktree, TakeError> {
        let (worktrees, mirror, worktree, onto) = (self.clone(), mirror.clone(), worktree.clone(), onto.clone());
        let merged = async move { worktrees.merge_whole(taking, &mirror, worktree, &onto).await };
        let merged = tokio::spawn(merged.in_current_span()).await;
        merged.map_err(|error| GitError::Interrupted(error.to_string()))?
    }

    async fn merge_whole(
        &self,
        taking: Taking,
        mirror: &Mirror,
        worktree: Worktree,
        onto: &Base,
    ) -> Result<Worktree, TakeError> {
        let Taking { token, session_id } = taking;
        let _gate = self.git.gate(GateOf::Session(session_id)).await?;
        // Whoever had the gate before may have had the session, too.
        if !self.store.holds_lease(token).await? {
            return Err(TakeError::Fenced);
        }
        if worktree.base_commit != onto.commit {
            let taken = self.taken(mirror, session_id, &onto.commit).await?;
            if let Rebased::Stays(why) = self.git.merge_into_worktree(mirror, session_id, onto, taken.as_ref()).await? {
                return Err(
                    GitError::refused(format!("{} cannot be merged into its worktree: {why}", onto.commit)).into()
                );
            }
        }
        match self.store.move_base_on_lease(token, &self.host_id, &onto.commit).await? {
            true => Ok(Worktree { base_commit: onto.commit.clone(), ..worktree }),
            false => Err(TakeError::Fenced),
        }
    }

    /// A turn takes its lease first and the gate second: whoever has the gate, and sees no lease, is alone.
    async fn hold(&self, session_id: i64) -> Result<Result<Held, Moved>, WorktreeError> {
        let Some(gate) = self.git.try_gate(GateOf::Session(session_id)).await? else {
            return Ok(Err(Moved::Later("its worktree is in use".to_owned())));
        };
        let Some(row) = self.store.worktree_of_session(session_id, &self.host_id).await? else {
            return Ok(Err(Moved::No("it has no worktree".to_owned())));
        };
        if row.host_id != self.host_id {
            let host = self.store.name_of_host(&row.host_id).await?;
            return Ok(Err(Moved::No(format!("its worktree is on another host, {host}"))));
        }
        if row.session_id != Some(session_id) {
            // It went on elsewhere: what is here is nobody's, and not what the session is measured by.
            return Ok(Err(Moved::No(MOVED_AWAY.to_owned())));
        }
        if row.facts.leased {
            return Ok(Err(Moved::Later("a turn runs in it".to_owned())));
        }
        if self.store.has_lost_turn(session_id).await? {
            return Ok(Err(Moved::Later("a turn of it is about to go on, and its agent may be at work".to_owned())));
        }
        if !matches!(row.facts.state, State::Ready | State::InUse) {
            return Ok(Err(Moved::No(format!("its worktree is {}", row.state))));
        }
        let place = self.place(&row).await?;
        let worktree = Worktree {
            session_id,
            path: row.path.clone().into(),
            branch: row.branch.clone(),
            base_commit: row.base_commit.clone(),
        };
        Ok(Ok(Held { _gate: gate, row, mirror: place.mirror, worktree }))
    }
}
