//! A session's worktree for a turn: the one it has, brought back if it was reaped; else one of the pool; else a new one.

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
    pub async fn take(&self, taking: Taking, mirror: &Mirror, base: &Base) -> Result<Worktree, TakeError> {
        let Taking { token, session_id } = taking;
        let path = self.home.worktree(mirror.project_id, session_id);
        let path = path.to_string_lossy();
        let branch = format!("millhand/s{session_id}");
        let _gate = self.git.gate(GateOf::Session(session_id)).await?;
        let begun = self.store.begin_worktree(token, &self.host_id, &path, &branch, &base.commit).await?;
        let begun = begun.ok_or(TakeError::Fenced)?;
        let worktree = if begun.is_new {
            self.first(mirror, session_id, base).await?
        } else {
            self.again(&begun, mirror, session_id, base).await?
        };
        let base_branch = base.branch.as_deref();
        let settled =
            self.store.settle_session(token, base_branch, &base.commit, &self.host_id, &path, &worktree.branch).await?;
        if settled { Ok(worktree) } else { Err(TakeError::Fenced) }
    }

    /// A session's first worktree.
    async fn first(&self, mirror: &Mirror, session_id: i64, base: &Base) -> Result<Worktree, TakeError> {
        match self.take_from_pool(mirror, session_id, base).await? {
            Some(worktree) => Ok(worktree),
            None => Ok(self.git.create_worktree(mirror, session_id, base).await?),
        }
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
                if let Some(slot) = slot.filter(|slot| is_pool_slot(slot)) {
                    self.git.drop_pooled(mirror, slot).await?;
                }
                let slot = slot.filter(|slot| !is_pool_slot(slot) && !is_spoilt(slot));
                Ok(self.git.restore_worktree(mirror, session_id, base, slot, begun.checkpoint.as_deref()).await?)
            }
        }
    }
}
