//! The leases that this worker holds, and why a turn has to stop.
//!
//! A lease is trusted by this process's own clock, counted from when the last confirmed heartbeat was *sent*: a turn is told to
//! stop before anybody else may start its task.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::supervise::{Alive, BootTime, Lifeline};

/// Why a turn has to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A person cancelled the task.
    Cancelled,
    /// The lease is lost, or cannot be proven in time: nothing more may be written.
    LeaseLost,
    /// The worker stops; the task is handed back.
    Shutdown,
    /// A limit is reached: what may be spent is spent.
    OverBudget,
}

#[derive(Debug)]
struct Held {
    stop: CancellationToken,
    reason: Option<StopReason>,
    /// The limit that was reached, in words.
    limit: Option<String>,
    trusted_until: Instant,
    /// The turn is over and only its result is to be written, which the database fences by itself.
    settling: bool,
}

impl Held {
    /// Whether its turn runs on a lease that may be somebody else's when it is over.
    fn runs(&self) -> bool {
        !self.settling && self.reason != Some(StopReason::LeaseLost)
    }
}

/// All leases of this worker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leases {
    held: Arc<Mutex<HashMap<Uuid, Held>>>,
    lease: Duration,
    lifeline: Lifeline,
    /// Limits hold, so that nothing may be spent which nobody counts.
    metered: Arc<AtomicBool>,
}

/// When something was sent to the database, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// By the clock that this process counts by.
    pub at: Instant,
    boot: BootTime,
}

impl Sent {
    /// This moment.
    pub fn now() -> Self {
        Self { at: Instant::now(), boot: BootTime::now() }
    }
}

/// The lease of one attempt, as its turn sees it. Dropping it ends the heartbeats for it.
#[derive(Debug)]
pub struct Lease {
    leases: Leases,
    token: Uuid,
    stop: CancellationToken,
}

/// Stops one turn when a limit is reached.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    leases: Leases,
    token: Uuid,
}

impl Meter {
    /// Stops it.
    pub(super) fn stop(&self, limit: String) {
        self.leases.stop_over_budget(self.token, limit);
    }
}

impl Leases {
    /// None yet. `lease` is how long one lives without a heartbeat.
    pub fn new(lease: Duration) -> Self {
        let lifeline = Lifeline::new(Alive::new(BootTime::now().plus(lease), lease / 16));
        Self { held: Arc::default(), lease, lifeline, metered: Arc::default() }
    }

    /// Says whether there are budgets. While there are, agents' servers with turns end with this process instead of going on until the
    /// next one comes: nobody would count what they spend.
    pub fn meter(&self, metered: bool) {
        self.metered.store(metered, Ordering::Relaxed);
    }

    /// Ends the agents' servers if this process is stopped: see [`Leases::renewed`].
    pub fn lifeline(&self) -> Lifeline {
        self.lifeline.clone()
    }

    /// A heartbeat was confirmed, and all that it says is noted. Servers with turns may live until shortly before the first of the
    /// leases runs out: later than the turns are told to stop, and early enough to be gone by then.
    pub fn renewed(&self, sent: Sent) {
        let held = self.lock();
        let ends = held.values().filter(|held| held.runs()).map(|held| held.trusted_until);
        self.lifeline.set(self.alive(sent, ends.fold(sent.at + self.lease, Instant::min)));
    }

    /// How long servers live whose turns have leases until `lease_end`.
    fn alive(&self, sent: Sent, lease_end: Instant) -> Alive {
        let end = sent.boot.plus(self.lease).minus((sent.at + self.lease).saturating_duration_since(lease_end));
        let alive = Alive::new(end.minus(self.lease / 8), self.lease / 16);
        if self.metered.load(Ordering::Relaxed) { alive.with_worker() } else { alive }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Held>> {
        // A panic elsewhere leaves the map whole: each change is one assignment.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much of a lease is kept as a margin for stopping the turn.
    fn margin(&self) -> Duration {
        self.lease / 5
    }

    /// Takes charge of a lease that was claimed by a statement sent at `sent`.
    pub fn hold(&self, token: Uuid, sent: Instant) -> Lease {
        let stop = CancellationToken::new();
        let held =
            Held { stop: stop.clone(), reason: None, limit: None, trusted_until: sent + self.lease, settling: false };
        let alive = self.alive(Sent::now(), sent + self.lease);
        let mut all = self.lock();
        // What others let live longer than this lease lives no longer now; with no others, it is for this turn alone to say.
        let told = self.lifeline.get();
        if !all.values().any(Held::runs)
            || alive.until < told.until
            || alive.ends_with_worker() != told.ends_with_worker()
        {
            self.lifeline.set(alive);
        }
        all.insert(token, held);
        drop(all);
        Lease { leases: self.clone(), token, stop }
    }

    /// The tokens of all leases held.
    pub fn tokens(&self) -> Vec<Uuid> {
        self.lock().keys().copied().collect()
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A heartbeat sent at `sent` was confirmed.
    pub fn confirm(&self, token: Uuid, sent: Instant) {
        if let Some(held) = self.lock().get_mut(&token) {
            held.trusted_until = sent + self.lease;
        }
    }

    /// Tells the turn of a lease to stop. The first reason stays, but a lost lease outweighs any other.
    pub fn stop(&self, token: Uuid, reason: StopReason) {
        if let Some(held) = self.lock().get_mut(&token) {
            if held.reason.is_none() || reason == StopReason::LeaseLost {
                held.reason = Some(reason);
            }
            held.stop.cancel();
        }
    }

    /// Tells the turn of a lease to stop as a limit is reached, which is said in words.
    pub fn stop_over_budget(&self, token: Uuid, limit: String) {
        if let Some(held) = self.lock().get_mut(&token)
            && held.reason.is_none()
        {
            held.reason = Some(StopReason::OverBudget);
            held.limit = Some(limit);
            held.stop.cancel();
        }
    }

    /// Tells every turn to stop.
    pub fn stop_all(&self, reason: StopReason) {
        for token in self.tokens() {
            self.stop(token, reason);
        }
    }

    /// Stops the turns whose lease cannot be trusted for longer than the margin. Returns how many it stopped now.
    pub fn stop_untrusted(&self, now: Instant) -> usize {
        let margin = self.margin();
        let due: Vec<Uuid> = self
            .lock()
            .iter()
            .filter(|(_, held)| {
                !held.settling && held.reason != Some(StopReason::LeaseLost) && held.trusted_until < now + margin
            })
            .map(|(token, _)| *token)
            .collect();
        for token in &due {
            self.stop(*token, StopReason::LeaseLost);
        }
        due.len()
    }
}

impl Lease {
    /// The token.
    pub fn token(&self) -> Uuid {
        self.token
    }

    /// Cancelled when the turn has to stop.
    pub fn stopped(&self) -> &CancellationToken {
        &self.stop
    }

    /// Why, once it was stopped.
    pub fn reason(&self) -> Option<StopReason> {
        self.leases.lock().get(&self.token).and_then(|held| held.reason)
    }

    /// The limit that was reached, in words, if that is why it was stopped.
    pub fn limit(&self) -> Option<String> {
        self.leases.lock().get(&self.token).and_then(|held| held.limit.clone())
    }

    /// Where what the turn spends is held against its limits.
    pub(super) fn meter(&self) -> Meter {
        Meter { leases: self.leases.clone(), token: self.token }
    }

    /// Whether the turn is over and only its result is to be written.
    pub fn is_settling(&self) -> bool {
        self.leases.lock().get(&self.token).is_some_and(|held| held.settling)
    }

    /// The turn is over; from here on only the database decides whether its result counts.
    pub fn settle(&self) {
        if let Some(held) = self.leases.lock().get_mut(&self.token) {
            held.settling = true;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.lock().remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_is_stopped_before_its_lease_can_expire_unless_a_heartbeat_is_confirmed() {
        let leases = Leases::new(Duration::from_secs(20));
        let sent = Instant::now();
        let (a, b) = (leases.hold(Uuid::from_u128(1), sent), leases.hold(Uuid::from_u128(2), sent));
        assert_eq!(leases.stop_untrusted(sent + Duration::from_secs(15)), 0);
        leases.confirm(b.token(), sent + Duration::from_secs(10));
        assert_eq!(leases.stop_untrusted(sent + Duration::from_secs(17)), 1);
        assert!(a.stopped().is_cancelled() && a.reason() == Some(StopReason::LeaseLost));
        assert!(!b.stopped().is_cancelled());
    }

    #[tokio::test]
    async fn servers_live_until_shortly_before_the_first_lease_runs_out() {
        let leases = Leases::new(Duration::from_secs(16));
        let until = |leases: &Leases| leases.lifeline().get().until;
        let seconds = |sent: Sent, seconds| sent.boot.plus(Duration::from_secs(seconds));
        let sent = Sent::now();
        leases.renewed(sent);
        assert_eq!(until(&leases), seconds(sent, 14));
        let later = |by| Sent { at: sent.at + Duration::from_secs(by), boot: seconds(sent, by) };
        let (a, b) = (leases.hold(Uuid::from_u128(1), sent.at), leases.hold(Uuid::from_u128(2), sent.at));
        leases.confirm(a.token(), later(5).at);
        leases.renewed(later(5));
        assert_eq!(until(&leases), seconds(sent, 14), "the other one was not renewed");
        leases.stop(b.token(), StopReason::LeaseLost);
        leases.renewed(later(5));
        assert_eq!(until(&leases), seconds(sent, 19), "a lost one has nothing to say");
    }

    #[tokio::test]
    async fn a_result_that_only_has_to_be_written_is_left_to_the_fence() {
        let leases = Leases::new(Duration::from_secs(20));
        let lease = leases.hold(Uuid::from_u128(1), Instant::now());
        lease.settle();
        assert_eq!(leases.stop_untrusted(Instant::now() + Duration::from_secs(60)), 0);
    }

    #[tokio::test]
    async fn a_lost_lease_outweighs_a_cancel_and_a_dropped_one_is_forgotten() {
        let leases = Leases::new(Duration::from_secs(20));
        let lease = leases.hold(Uuid::from_u128(1), Instant::now());
        leases.stop(lease.token(), StopReason::Cancelled);
        leases.stop(lease.token(), StopReason::Shutdown);
        assert_eq!(lease.reason(), Some(StopReason::Cancelled));
        leases.stop(lease.token(), StopReason::LeaseLost);
        assert_eq!(lease.reason(), Some(StopReason::LeaseLost));
        drop(lease);
        assert!(leases.is_empty());
    }
}
