//! Looks after the agents' servers: idle, old and large ones end, unused worktrees are let go of.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::Rounds;
use crate::agent::Backend;

/// What the tender needs.
pub struct Tender {
    /// Whose servers.
    pub backend: Arc<dyn Backend>,
    /// Between looks.
    pub every: Duration,
}

impl Tender {
    /// Looks until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut rounds = Rounds::every(self.every, &stop);
        while rounds.next().await {
            rounds.unless_stopped(self.backend.tend()).await;
        }
    }
}
