//! When a loop does its rounds.

use std::time::Duration;

use tokio::{
    sync::Notify,
    time::{Interval, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

/// No loop goes round faster than this, whatever is configured.
const SHORTEST: Duration = Duration::from_millis(10);

/// The rounds of a loop: one at once, then one after each interval, until it is to stop.
#[derive(Debug)]
pub struct Rounds {
    ticks: Interval,
    stop: CancellationToken,
}

impl Rounds {
    /// Rounds at this interval. One that takes longer puts the next one off.
    pub fn every(interval: Duration, stop: &CancellationToken) -> Self {
        let mut ticks = tokio::time::interval(interval.max(SHORTEST));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, stop: stop.clone() }
    }

    /// Waits for the next round. False: there is none any more.
    pub async fn next(&mut self) -> bool {
        self.stop.run_until_cancelled(self.ticks.tick()).await.is_some()
    }

    /// The same; the round is due at once where somebody asks for it.
    pub async fn next_or(&mut self, wake: &Notify) -> bool {
        let due = async {
            tokio::select! {
                _ = self.ticks.tick() => {}
                () = wake.notified() => {}
            }
        };
        self.stop.run_until_cancelled(due).await.is_some()
    }

    /// Does something that may be broken off. None: it was, since the loop is to stop.
    pub async fn unless_stopped<T>(&self, round: impl Future<Output = T>) -> Option<T> {
        self.stop.run_until_cancelled(round).await
    }
}
