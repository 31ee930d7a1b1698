//! Lets go of worktrees that nobody needs, and of what has been in the trash for long enough.
//!
//! It is only ever about this host's folders, and decides nothing itself: `model::worktree` does, `worktrees` acts.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Rounds, Trouble};
use crate::{
    agent::Backend,
    store::StoreError,
    worktrees::{WorktreeError, Worktrees},
};

/// What the reaper needs.
pub struct Reaper {
    /// The worktrees of this host.
    pub worktrees: Worktrees,
    /// The agent, which lets go of a folder before it is moved.
    pub backend: Arc<dyn Backend>,
    /// A session was closed, or somebody asked.
    pub wake: Arc<Notify>,
}

impl Reaper {
    /// Reaps until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut trouble = Trouble::new("reaping worktrees");
        let mut rounds = Rounds::every(self.worktrees.timings.reap, &stop);
        while rounds.next_or(&self.wake).await {
            let round = self.worktrees.round(Some(&*self.backend), &stop).await;
            trouble.note(round.map(drop).map_err(|error| match error {
                WorktreeError::Store(error) => error,
                other => StoreError::Unexpected(other.to_string()),
            }));
        }
    }
}
