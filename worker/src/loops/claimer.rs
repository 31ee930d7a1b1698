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
    agent::{Backend, Seat},
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
    /// Nudged when a turn is over: it may be worth telling.
    pub notifier: Arc<Notify>,
    /// Leases of this worker.
    pub leases: Leases,
    /// Does the turns.
    pub runner: Arc<dyn Runner>,
    /// Says which projects a turn can begin in now; none: all.
    pub backend: Option<Arc<dyn Backend>>,
    /// The turns under way.
    pub turns: TaskTracker,
    /// Infrastructure losses after which a person is asked.
    pub max_infra_losses: i32,
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
        // Since a claim got no answer: it may have been committed all the same, now or in a moment.
        let mut unanswered: Option<Instant> = None;
        loop {
            let nudged = self.wake.notified();
            let permit = tokio::select! {
                () = stop.cancelled() => return,
                permit = self.slots.clone().acquire_owned() => permit,
            };
            let Ok(permit) = permit else { return };
            let round = trouble.note(self.round(permit, &mut unanswered, &stop).await);
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

    async fn round(
        &self,
        first: OwnedSemaphorePermit,
        unanswered: &mut Option<Instant>,
        stop: &CancellationToken,
    ) -> Result<Round, StoreError> {
        if let Some(since) = *unanswered {
            self.release_unheld().await?;
            if since.elapsed() > self.timings.lease {
                *unanswered = None;
            }
        }
        let mut permits = vec![first];
        while let Ok(permit) = self.slots.clone().try_acquire_owned() {
            permits.push(permit);
        }
        let (promoted, lanes, budgets) = self.store.advance_and_list_lanes().await?;
        let may_run = |lane: &Lane<'_>| lane.runs_on(&self.host_id, &self.agents) && budgets.lets(lane.project_id);
        let mut runnable: Vec<String> =
            lanes.into_iter().filter(|lane| Lane::parse(lane).is_some_and(|lane| may_run(&lane))).collect();
        self.leases.meter(budgets.is_metered());
        if budgets.has_own_limits() && !runnable.is_empty() {
            self.block_over_budget(&runnable, permits.len()).await?;
        }
        let seats = self.reserve(&runnable, permits.len());
        runnable.retain(|lane| Lane::parse(lane).is_some_and(|lane| seats.contains(lane.project_id)));
        if stop.is_cancelled() {
            return Ok(Round { claimed: 0, more: false });
        }
        let wanted = permits.len();
        let sent = Instant::now();
        let claimed = self.store.claim(&runnable, wanted, self.worker, &self.host_id, self.timings.lease).await;
        if claimed.is_err() {
            *unanswered = Some(Instant::now());
        }
        let claimed = claimed?;
        let count = claimed.len();
        for (claimed, permit) in claimed.into_iter().zip(permits) {
            let seat = seats.of(claimed.project_id);
            self.start(claimed, permit, seat, sent);
        }
        if usize::try_from(promoted).unwrap_or(0) > count {
            // Made claimable, but not by us: others may want to know.
            self.store.announce().await?;
        }
        Ok(Round { claimed: count, more: count == wanted })
    }

    /// Takes heads that have reached a limit of their own out of the way of the claim.
    async fn block_over_budget(&self, lanes: &[String], at_most: usize) -> Result<(), StoreError> {
        loop {
            let blocked = self.store.block_over_budget(lanes, at_most).await?;
            if blocked == 0 {
                return Ok(());
            }
            tracing::info!(tasks = blocked, "over budget: not begun");
        }
    }

    /// Takes a seat for each project of these lanes, before anything of it is claimed: what could not run is not taken.
    fn reserve(&self, lanes: &[String], turns: usize) -> Seats {
        let Some(backend) = &self.backend else { return Seats(None) };
        let mut projects: Vec<i64> = lanes.iter().filter_map(|lane| Some(Lane::parse(lane)?.project_id)).collect();
        projects.sort_unstable();
        projects.dedup();
        Seats(Some(backend.reserve(&projects, turns)))
    }

    /// Gives back what was claimed without an answer.
    async fn release_unheld(&self) -> Result<(), StoreError> {
        let held = self.leases.tokens();
        for task in self.store.release_unheld(self.worker, &held, self.max_infra_losses).await? {
            tracing::warn!(task = task.task_id, state = task.state, "given back: the answer to its claim was lost");
        }
        Ok(())
    }

    fn start(&self, claimed: Claimed, permit: OwnedSemaphorePermit, seat: Option<Seat>, sent: Instant) {
        let lease = self.leases.hold(claimed.token, sent);
        let runner = self.runner.clone();
        let (wake, notifier) = (self.wake.clone(), self.notifier.clone());
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
                drop((permit, seat));
                wake.notify_one();
                notifier.notify_one();
            }
            .instrument(span),
        );
    }
}

/// Seats that were taken for a round; none: seats do not matter.
struct Seats(Option<Vec<Seat>>);

impl Seats {
    fn contains(&self, project_id: i64) -> bool {
        self.0.as_ref().is_none_or(|seats| seats.iter().any(|seat| seat.project_id() == project_id))
    }

    fn of(&self, project_id: i64) -> Option<Seat> {
        self.0.as_ref()?.iter().find(|seat| seat.project_id() == project_id).cloned()
    }
}
