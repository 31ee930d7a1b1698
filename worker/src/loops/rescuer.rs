//! Gives tasks of workers that are gone to whoever claims them next, and mends what should never have been.
//!
//! Leaderless: every worker does it, a few tasks at a time, by the database's clock.

use std::sync::Arc;

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Rounds, Trouble};
use crate::{
    config::Timings,
    model::clock::ClockWatch,
    store::{Store, StoreError},
};

/// Tasks rescued per round; the next round follows at once while there are more.
const AT_MOST: i64 = 100;
/// Rounds between sweeps for what should not be.
const SWEEP_EVERY: u32 = 12;
/// Leases that must have passed before something that may be on its way counts as left behind.
const GRACE_LEASES: u32 = 2;

/// What the rescuer needs.
pub struct Rescuer {
    /// The queue.
    pub store: Store,
    /// Something became claimable.
    pub wake: Arc<Notify>,
    /// Infrastructure losses after which a person is asked.
    pub max_infra_losses: i32,
    /// Intervals.
    pub timings: Timings,
}

impl Rescuer {
    /// Rescues until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut trouble = Trouble::new("rescuing tasks");
        let mut rounds = Rounds::every(self.timings.rescue, &stop);
        let mut count = 0_u32;
        let began = Instant::now();
        let mut clock = ClockWatch::new(self.timings.lease, self.timings.heartbeat);
        while rounds.next().await {
            count = count.wrapping_add(1);
            trouble.note(self.round(began, &mut clock, count.is_multiple_of(SWEEP_EVERY)).await);
        }
    }

    async fn round(&self, began: Instant, clock: &mut ClockWatch, sweep: bool) -> Result<(), StoreError> {
        let database = self.store.clamp_leases(self.timings.lease).await?;
        if clock.may_rescue(database, began.elapsed()) {
            self.rescue().await?;
        }
        let released = self.store.release_budget().await?;
        if released > 0 {
            tracing::info!(tasks = released, "there is a budget for them again");
            self.wake.notify_one();
        }
        if sweep {
            let repaired = self.store.repair(self.timings.lease * GRACE_LEASES, self.max_infra_losses).await?;
            for repaired in &repaired {
                tracing::warn!(what = repaired.what, count = repaired.count, "mended what should not have been");
            }
            if !repaired.is_empty() {
                self.wake.notify_one();
                self.store.announce().await?;
            }
        }
        Ok(())
    }

    async fn rescue(&self) -> Result<(), StoreError> {
        loop {
            let rescued = self.store.rescue_expired(self.timings.lease, self.max_infra_losses, AT_MOST).await?;
            for task in &rescued {
                tracing::warn!(task = task.task_id, state = task.state, "its worker stopped answering");
            }
            if rescued.is_empty() {
                return Ok(());
            }
            self.wake.notify_one();
            self.store.announce().await?;
        }
    }
}
