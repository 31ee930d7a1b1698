//! The dead-man's switch, as the worker holds it: until when what runs on its leases may run without another word from it.
//!
//! Each shim is told, and ends its child when that moment passes, so that a worker which was stopped (not killed: its pipes stay
//! open) has no turn running by the time that somebody else may start it again.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// A moment by the clock that goes on while the machine sleeps, as the leases' clock does; in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BootTime(u64);

impl BootTime {
    /// This moment.
    pub fn now() -> Self {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Boottime);
        let (seconds, nanoseconds) = (u64::try_from(tv_sec).unwrap_or(0), u64::try_from(tv_nsec).unwrap_or(0));
        Self(seconds * 1000 + nanoseconds / 1_000_000)
    }

    /// Later by this much.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(super::wire::millis(duration)))
    }

    /// Earlier by this much.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(super::wire::millis(duration)))
    }

    /// As the kernel's timers have it. Never zero, which would mean "no time".
    pub(super) fn to_timespec(self) -> Timespec {
        let milliseconds = self.0.max(1);
        let seconds = i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX);
        Timespec { tv_sec: seconds, tv_nsec: (milliseconds % 1000 * 1_000_000) as _ }
    }
}

/// How long a family may live on without a word from its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// Until then.
    pub until: BootTime,
    /// From asking to killing after that, in milliseconds.
    pub grace_ms: u64,
    /// It ends at once when its worker does, whoever may come after.
    #[serde(default)]
    ends_with_worker: bool,
}

impl Alive {
    /// Until a moment, and how long it may take after that.
    pub fn new(until: BootTime, grace: Duration) -> Self {
        Self { until, grace_ms: super::wire::millis(grace), ends_with_worker: false }
    }

    /// The same, but no longer than its worker, whoever may come after.
    #[must_use]
    pub fn with_worker(self) -> Self {
        Self { ends_with_worker: true, ..self }
    }

    /// Whether it ends with its worker.
    pub fn ends_with_worker(self) -> bool {
        self.ends_with_worker
    }
}

/// What the shims of a worker are told. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lifeline {
    turns: watch::Sender<Alive>,
    idle: Duration,
}

/// How long a child without turns may live without a word from its worker, unless told otherwise.
const IDLE: Duration = Duration::from_secs(60);

impl Lifeline {
    /// A lifeline that holds for so long.
    pub fn new(turns: Alive) -> Self {
        Self { turns: watch::Sender::new(turns), idle: IDLE }
    }

    /// The same, whose children without turns live for so long without a word from this process.
    #[must_use]
    pub fn with_idle(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }

    pub(super) fn idle(&self) -> Duration {
        self.idle
    }

    /// Until when children with turns may live.
    pub fn get(&self) -> Alive {
        *self.turns.borrow()
    }

    /// Tells all shims anew.
    pub fn set(&self, turns: Alive) {
        self.turns.send_replace(turns);
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Alive> {
        self.turns.subscribe()
    }
}
