//! Makes the tables of the coming days' transcripts, and takes away what is kept long enough: old transcripts, and, where that is
//! wanted, old tasks of closed sessions.
//!
//! One worker at a time takes tasks away, a few at once, so that nobody waits for it. What was paid stays.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Rounds, Trouble};
use crate::{
    config::RetentionSettings,
    model::counters::Count,
    store::{Store, StoreError},
};

/// Days whose tables are made ahead of time.
const AHEAD: i32 = 3;
/// Tasks taken away at once.
const AT_MOST: i64 = 500;
/// Between batches: a long way to go leaves room for others.
const BREATH: Duration = Duration::from_millis(20);

/// What the pruner needs.
pub struct Pruner {
    /// Where from.
    pub store: Store,
    /// How long things are kept.
    pub retention: RetentionSettings,
    /// Between rounds.
    pub every: Duration,
}

impl Pruner {
    /// Prunes until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut trouble = Trouble::new("taking away what is old");
        let mut rounds = Rounds::every(self.every, &stop);
        while rounds.next().await {
            let Some(round) = rounds.unless_stopped(self.round()).await else { return };
            trouble.note(round);
        }
    }

    async fn round(&self) -> Result<(), StoreError> {
        self.store.make_event_days(AHEAD).await?;
        let days = match self.retention.events_days {
            0 => 0,
            kept => self.store.drop_event_days(kept).await?,
        };
        let (mut tasks, mut sessions) = (0, 0);
        if self.retention.tasks_days > 0 {
            while let Some(pruned) = self.store.prune(self.retention.tasks_days, AT_MOST).await? {
                tasks += pruned.tasks.unsigned_abs();
                sessions += pruned.sessions.unsigned_abs();
                if pruned.tasks < AT_MOST && pruned.sessions < AT_MOST {
                    break;
                }
                tokio::time::sleep(BREATH).await;
            }
        }
        let deliveries = self.prune_deliveries().await?;
        if days + tasks + sessions + deliveries > 0 {
            tracing::info!(event_days = days, tasks, sessions, deliveries, "took away what was kept long enough");
        }
        let counters = self.store.counters();
        counters.add(Count::EventDaysDropped, days);
        counters.add(Count::TasksPruned, tasks);
        counters.add(Count::SessionsPruned, sessions);
        counters.add(Count::DeliveriesPruned, deliveries);
        Ok(())
    }

    async fn prune_deliveries(&self) -> Result<u64, StoreError> {
        let mut deliveries = 0;
        if self.retention.deliveries_days == 0 {
            return Ok(deliveries);
        }
        loop {
            let pruned = self.store.prune_deliveries(self.retention.deliveries_days, AT_MOST).await?;
            deliveries += pruned.unsigned_abs();
            if pruned < AT_MOST {
                return Ok(deliveries);
            }
            tokio::time::sleep(BREATH).await;
        }
    }
}
