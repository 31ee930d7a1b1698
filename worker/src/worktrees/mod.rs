//! The life of worktrees on this host: where the rows of the database and the folders on disk are kept in step.
//!
//! [`take`](Worktrees::take) gives a session its worktree: the one it has, the one that lies in the trash, one of the pool, a new one. [`round`](Worktrees::round) and
//! [`reap`](Worktrees::reap) let go of those that nobody needs; [`restore`](Worktrees::restore) brings them back. [`rebase`](Worktrees::rebase) moves
//! one to another base, [`roll_back`](Worktrees::roll_back) to a checkpoint.
//!
//! What must hold:
//! - only what the database positively says is an orphan is touched (`model::worktree` decides), never a folder that it does not know;
//! - whoever makes, moves or removes a worktree holds its *gate*, a file lock, from before the first look to the last write. A turn has
//!   its lease when it takes the gate, so a reaper that comes later sees the lease, and one that came earlier is finished, and undone;
//! - the row says what is going to happen before it happens on disk: a kill between any two steps leaves a row in `reaping`, with the
//!   folder's place in it, which the next round settles by looking where the folder is;
//! - a checkpoint is recorded before anything moves, and nothing is deleted but from the trash.

mod look;
mod pool;
mod reap;
mod rebase;
mod rehome;
mod restore;
mod setup;
mod take;

use crate::{
    config::{Home, Timings, WorktreeSettings},
    git::{Base, Git, GitError, Mirror},
    store::{Store, StoreError, worktrees::WorktreeRow},
};

pub use look::{Planned, UnknownFolder};
pub use reap::{Outcome, Round};
pub use rebase::Moved;
pub use restore::Restored;
pub use setup::read_copied;
pub use take::{TakeError, Taking};

/// The worktrees of this host.
#[derive(Clone, Debug)]
pub struct Worktrees {
    /// The rows.
    pub store: Store,
    /// The folders.
    pub git: Git,
    /// Where they are.
    pub home: Home,
    /// This host, whose marker its agents' processes carry.
    pub host_id: String,
    /// Pool and quota.
    pub settings: WorktreeSettings,
    /// Grace and intervals.
    pub timings: Timings,
}

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub enum WorktreeError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// git, or the disk.
    #[error(transparent)]
    Git(#[from] GitError),
    /// It cannot be done as things are.
    #[error("{0}")]
    Problem(String),
}

/// Where a row's folder belongs.
#[derive(Clone, Debug)]
struct Place {
    project_id: i64,
    session_id: i64,
    mirror: Mirror,
}

impl Worktrees {
    /// Where a session's worktree belongs, if the row means a folder of this home and the mirror has its base.
    async fn place(&self, row: &WorktreeRow) -> Result<Place, WorktreeError> {
        let (Some(project_id), Some(session_id)) = (row.project_id, row.last_session_id) else {
            return Err(WorktreeError::Problem("its row does not say whose it is".to_owned()));
        };
        let path = self.home.worktree(project_id, session_id);
        if path.to_str() != Some(&row.path) {
            let message = format!("it is recorded at {}, which is not in this home", row.path);
            return Err(WorktreeError::Problem(message));
        }
        Ok(Place { project_id, session_id, mirror: self.mirror(project_id, &row.base_commit).await? })
    }

    async fn mirror(&self, project_id: i64, base_commit: &str) -> Result<Mirror, WorktreeError> {
        self.git.mirror_with(project_id, base_commit).await?.ok_or_else(|| {
            WorktreeError::Problem(format!("the mirror of its project does not have its base commit {base_commit}"))
        })
    }
}

fn base_of(row: &WorktreeRow) -> Base {
    Base { branch: row.base_branch.clone(), commit: row.base_commit.clone() }
}
