//! Keeps the leases of this worker alive, and learns from the answer what was cancelled or lost.
//!
//! A heartbeat that fails is "unknown", not "lost". What counts is the worker's own clock: a turn whose lease can no longer
//! be trusted is stopped before the lease can expire.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Rounds, Trouble};
use crate::{
    config::Timings,
    store::{Store, StoreError},
    turn::lease::{Leases, Sent, StopReason},
};

/// What the heartbeat needs.
pub struct Heartbeat {
    /// The queue.
    pub store: Store,
    /// This worker.
    pub worker: Uuid,
    /// Leases of this worker.
    pub leases: Leases,
    /// A task may have been cancelled.
    pub cancels: Arc<Notify>,
    /// Intervals.
    pub timings: Timings,
}

impl Heartbeat {
    /// Beats until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let watchdog = tokio::spawn(watch(self.leases.clone(), self.timings.heartbeat / 4, stop.clone()));
        let mut trouble = Trouble::new("renewing leases");
        let mut rounds = Rounds::every(self.timings.heartbeat, &stop);
        while rounds.next_or(&self.cancels).await {
            trouble.note(self.beat().await);
        }
        let _ = watchdog.await;
    }

    /// Longest wait for an answer, so that a connection that hangs costs one beat and not the lease.
    fn bound(&self) -> Duration {
        self.timings.heartbeat.max(Duration::from_millis(100))
    }

    async fn beat(&self) -> Result<(), StoreError> {
        let tokens = self.leases.tokens();
        let sent = Sent::now();
        let states = self.store.heartbeat(self.worker, &tokens, self.timings.lease, self.bound()).await?;
        for state in &states {
            if state.renewed {
                self.leases.confirm(state.token, sent.at);
            }
            if state.cancelled {
                self.leases.stop(state.token, StopReason::Cancelled);
            }
        }
        for token in tokens {
            if !states.iter().any(|state| state.token == token) {
                self.leases.stop(token, StopReason::LeaseLost);
            }
        }
        self.leases.renewed(sent);
        self.look_at_budgets().await
    }

    /// Stops turns that have reached a limit: by what others have spent, or as it was lowered. Their leases have nothing to do with it.
    async fn look_at_budgets(&self) -> Result<(), StoreError> {
        let over = self.store.leases_over_budget(&self.leases.tokens(), self.bound()).await?;
        self.leases.meter(over.is_some());
        for (token, limit) in over.unwrap_or_default() {
            self.leases.stop_over_budget(token, limit);
        }
        Ok(())
    }
}

async fn watch(leases: Leases, every: Duration, stop: CancellationToken) {
    let mut rounds = Rounds::every(every, &stop);
    while rounds.next().await {
        let stopped = leases.stop_untrusted(Instant::now());
        if stopped > 0 {
            tracing::warn!(
                turns = stopped,
                "no heartbeat got through in time: stopping turns before their leases expire"
            );
        }
    }
}
