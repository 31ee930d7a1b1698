//! A session's worktree for a turn: the one it has, brought back if it was reaped; else one of the pool; else a new one.

use tracing::Instrument as _;
use uuid::Uuid;

use super::{WorktreeError, Worktrees, pool::is_pool_slot, reap::is_spoilt};
use crate::{
    git::{Base, GateOf, GitError, Mirror, Worktree},
    model::worktree::State,
    store::{StoreError, worktrees::BegunWorktree},
};

/// Who takes a worktree.
#[derive(Clone, Copy, Debug)]
pub struct Taking {
    /// Proof of holding the session's lease.
    pub token: Uuid,
    /// The session.
    pub session_id: i64,
}

/// Why a turn got no worktree.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The lease is not held any more.
    #[error("the lease is lost")]
    Fenced,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// git, or the disk.
    #[error(transparent)]
    Git(#[from] GitError),
}

impl From<WorktreeError> for TakeError {
    fn from(error: WorktreeError) -> Self {
        match error {
            WorktreeError::Store(error) => Self::Store(error),
            WorktreeError::Git(error) => Self::Git(error),
            WorktreeError::Problem(problem) => Self::Git(GitError::Interrupted(problem)),
        }
    }
}

impl Worktrees {
    /// Gives a session its worktree, and records that it is in use.
    ///
    /// Whoever stops waiting for it stops only that: what was begun on disk is finished, with the gate held.
    pub async fn take(&self, taking: Taking, mirror: &Mirror, base: &Base) -> Result<Worktree, TakeError> {
        let (worktrees, mirror, base) = (self.clone(), mirror.clone(), base.clone());
        let taken = async move { worktrees.take_whole(taking, &mirror, &base).await };
        let taken = tokio::spawn(taken.in_current_span()).await;
        taken.map_err(|error| GitError::Interrupted(error.to_string()))?
    }

    async fn take_whole(&self, taking: Taking, mirror: &Mirror, base: &Base) -> Result<Worktree, TakeError> {
        let Taking { token, session_id } = taking;
        let path = self.home.worktree(mirror.project_id, session_id);
        let path = path.to_string_lossy();
        let branch = format!("millhand/s{session_id}");
        let _gate = self.git.gate(GateOf::Session(session_id)).await?;
        let begun = self.store.begin_worktree(token, &self.host_id, &path, &branch, &base.commit).await?;
        let begun = begun.ok_or(TakeError::Fenced)?;
        let worktree = if begun.is_new {
            self.first(&begun, mirror, session_id, base).await?
        } else {
            self.again(&begun, mirror, session_id, base).await?
        };
        let base_branch = base.branch.as_deref();
        let base_commit = &worktree.base_commit;
        let settled =
            self.store.settle_session(token, base_branch, base_commit, &self.host_id, &path, &worktree.branch).await?;
        if settled { Ok(worktree) } else { Err(TakeError::Fenced) }
    }

    /// A session's first worktree on this host.
    async fn first(
        &self,
        begun: &BegunWorktree,
        mirror: &Mirror,
        session_id: i64,
        base: &Base,
    ) -> Result<Worktree, TakeError> {
        // The row is made before the folder. What is there without one was somebody else's, such as before the database was replaced.
        if let Some(aside) = self.git.set_aside(mirror, session_id, !begun.has_base).await? {
            tracing::warn!(session_id, aside = %aside.display(), "a folder that the database does not know was moved to the trash");
        }
        // One that was begun elsewhere, or before, goes on from its last checkpoint, if it has one here.
        if !begun.has_base
            && let Some(worktree) = self.take_from_pool(mirror, session_id, base).await?
        {
            return Ok(worktree);
        }
        Ok(self.git.create_worktree(mirror, session_id, base).await?)
    }

    /// The one that a session has, or had.
    async fn again(
        &self,
        begun: &BegunWorktree,
        mirror: &Mirror,
        session_id: i64,
        base: &Base,
    ) -> Result<Worktree, TakeError> {
        match begun.state {
            State::Ready | State::InUse | State::Pooled => {
                Ok(self.git.create_worktree(mirror, session_id, base).await?)
            }
            State::Reaping | State::Trashed | State::Gone => {
                tracing::info!(worktree = begun.id, "bringing back a worktree that was reaped");
                let slot = begun.slot.as_deref();
                if let Some(slot) = slot.filter(|slot| begun.state == State::Reaping && is_pool_slot(slot)) {
                    self.clear_pool_slot(mirror, session_id, slot).await?;
                }
                let slot = slot.filter(|slot| !is_pool_slot(slot) && !is_spoilt(slot));
                let checkpoint = match &begun.checkpoint {
                    Some(commit) => Some(commit.clone()),
                    None => self.git.last_checkpoint(mirror, session_id).await?,
                };
                Ok(self.git.restore_worktree(mirror, session_id, base, slot, checkpoint.as_deref()).await?)
            }
        }
    }
}
