//! Looks after the agents' servers: idle, old and large ones end, unused worktrees are let go of.

use std::{sync::Arc, time::Duration};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

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
        let mut ticks = tokio::time::interval(self.every.max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.backend.tend() => {}
            }
        }
    }
}
