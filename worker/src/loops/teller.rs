//! Tells the database which servers of agents run in this worker, whenever that has changed.

use std::{sync::Arc, time::Duration};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Trouble;
use crate::{agent::Backend, store::Store};

/// What the teller needs.
pub struct Teller {
    /// Where to tell.
    pub store: Store,
    /// This worker.
    pub worker: Uuid,
    /// Whose servers.
    pub backend: Arc<dyn Backend>,
    /// Between looks.
    pub every: Duration,
}

impl Teller {
    /// Looks until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut trouble = Trouble::new("recording agents' servers");
        let mut ticks = tokio::time::interval(self.every.max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Vec::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let servers = self.backend.servers();
            if servers == told {
                continue;
            }
            let telling = self.store.tell_servers(self.worker, &servers);
            if trouble.note(stop.run_until_cancelled(telling).await.unwrap_or(Ok(()))).is_some() {
                told = servers;
            }
        }
    }
}
