//! Claims tasks while there are free slots, and starts their turns.
//!
//! It sleeps until a nudge (NOTIFY, a turn that ended), the fallback poll, or the next due time, whichever comes first.
//! The nudge is armed before the query, so none is lost.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;
use uuid::Uuid;

use super::Trouble;
use crate::{
    config::Timings,
    model::lane::Lane,
    store::{Store, StoreError, queue::Claimed},
    turn::{Runner, lease::Leases},
};

/// What the claimer needs.
pub struct Claimer {
    /// The queue.
    pub store: Store,
    /// This worker.
    pub worker: Uuid,
    /// This host.
    pub host_id: String,
    /// Agents that this host can run.
    pub agents: Vec<String>,
    /// Turns at once.
    pub slots: Arc<Semaphore>,
    /// Something may be claimable.
    pub wake: Arc<Notify>,
    /// Leases of this worker.
    pub leases: Leases,
    /// Does the turns.
    pub runner: Arc<dyn Runner>,
    /// The turns under way.
    pub turns: TaskTracker,
    /// Whether a listener wakes it; without one it polls at the shortest interval.
    pub listens: bool,
    /// Intervals.
    pub timings: Timings,
}

/// What a round of claiming found.
struct Round {
    claimed: usize,
    /// There may be more that could be claimed at once.
    more: bool,
}

impl Claimer {
    /// Claims until `stop`. Turns that it started go on.
    pub async fn run(self, stop: CancellationToken) {
        let mut trouble = Trouble::new("claiming tasks");
        let mut poll = self.timings.poll_min;
        loop {
            let nudged = self.wake.notified();
            let permit = tokio::select! {
                () = stop.cancelled() => return,
                permit = self.slots.clone().acquire_owned() => permit,
            };
            let Ok(permit) = permit else { return };
            let round = trouble.note(self.round(permit, &stop).await);
            let due = match &round {
                Some(Round { more: true, .. }) => continue,
                Some(Round { claimed, .. }) => {
                    poll = if *claimed > 0 || !self.listens {
                        self.timings.poll_min
                    } else {
                        (poll * 2).min(self.timings.poll_max)
                    };
                    self.store.next_due().await.ok().flatten()
                }
                None => {
                    poll = (poll * 2).min(self.timings.poll_max);
                    None
                }
            };
            // A little late rather than early: an early wake finds nothing and sleeps again.
            let wait = due.map_or(poll, |due| (due + Duration::from_millis(2)).min(poll));
            tokio::select! {
                () = stop.cancelled() => return,
                () = nudged => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn round(&self, first: OwnedSemaphorePermit, stop: &CancellationToken) -> Result<Round, StoreError> {
        let mut permits = vec![first];
        while let Ok(permit) = self.slots.clone().try_acquire_owned() {
            permits.push(permit);
        }
        let (promoted, lanes) = self.store.advance_and_list_lanes().await?;
        let runnable: Vec<String> = lanes
            .into_iter()
            .filter(|lane| Lane::parse(lane).is_some_and(|lane| lane.runs_on(&self.host_id, &self.agents)))
            .collect();
        if stop.is_cancelled() {
            return Ok(Round { claimed: 0, more: false });
        }
        let wanted = permits.len();
        let sent = Instant::now();
        let claimed = self.store.claim(&runnable, wanted, self.worker, &self.host_id, self.timings.lease).await?;
        let count = claimed.len();
        for (claimed, permit) in claimed.into_iter().zip(permits) {
            self.start(claimed, permit, sent);
        }
        if usize::try_from(promoted).unwrap_or(0) > count {
            // Made claimable, but not by us: others may want to know.
            self.store.announce().await?;
        }
        Ok(Round { claimed: count, more: count == wanted })
    }

    fn start(&self, claimed: Claimed, permit: OwnedSemaphorePermit, sent: Instant) {
        let lease = self.leases.hold(claimed.token, sent);
        let runner = self.runner.clone();
        let wake = self.wake.clone();
        let span = tracing::info_span!(
            "turn",
            task = claimed.task_id,
            attempt = claimed.number,
            session = claimed.session_id,
            project = claimed.project
        );
        self.turns.spawn(
            async move {
                runner.run(claimed, lease).await;
                drop(permit);
                wake.notify_one();
            }
            .instrument(span),
        );
    }
}
