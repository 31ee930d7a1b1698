//! Notices that the database's schema has moved on under this worker: a newer Millhand has migrated it.
//!
//! Where the worker can go on, it says so once. Where it cannot, it takes no more tasks, lets its turns end, and stops.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Rounds, Trouble};
use crate::store::{Store, StoreError, migrate::SchemaState};

/// What the lookout needs.
pub struct Lookout {
    /// Whose schema.
    pub store: Store,
    /// This worker.
    pub worker: Uuid,
    /// Cancelled where this worker cannot go on.
    pub stop_claiming: CancellationToken,
    /// Cancelled with it: the worker is to be stopped.
    pub outdated: CancellationToken,
    /// Between looks.
    pub every: Duration,
}

impl Lookout {
    /// Looks until `stop_claiming`.
    pub async fn run(self) {
        let mut trouble = Trouble::new("looking at the schema's version");
        let mut rounds = Rounds::every(self.every, &self.stop_claiming);
        let mut said = None;
        while rounds.next().await {
            trouble.note(self.look(&mut said).await);
        }
    }

    async fn look(&self, said: &mut Option<i32>) -> Result<(), StoreError> {
        match self.store.schema_state().await? {
            SchemaState::Current | SchemaState::Older { .. } => {}
            SchemaState::Compatible { database, program } => {
                if said.replace(database) != Some(database) {
                    tracing::info!(
                        database,
                        program,
                        "the database has a newer schema, which this worker can work with"
                    );
                }
            }
            SchemaState::Newer { database, program } => {
                tracing::warn!(
                    database,
                    program,
                    "the database has a newer schema than this worker knows: it takes no more tasks; upgrade millhand and start it again"
                );
                self.stop_claiming.cancel();
                self.outdated.cancel();
                self.store.drain_worker(self.worker).await?;
            }
        }
        Ok(())
    }
}
