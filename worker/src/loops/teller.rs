//! Tells the database which servers of agents run in this worker, whenever that has changed.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Rounds, Trouble};
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
        let mut rounds = Rounds::every(self.every, &stop);
        let mut told = Vec::new();
        while rounds.next().await {
            let servers = self.backend.servers();
            if servers == told {
                continue;
            }
            let telling = self.store.tell_servers(self.worker, &servers);
            let Some(done) = rounds.unless_stopped(telling).await else { return };
            if trouble.note(done).is_some() {
                told = servers;
            }
        }
    }
}
