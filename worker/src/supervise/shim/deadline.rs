//! The shim's side of the dead-man's switch: a timer by the clock that goes on while the machine sleeps.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::supervise::Alive;

/// Passes when the worker was not heard of in time. Not set: never.
pub(super) struct Deadline {
    timer: AsyncFd<OwnedFd>,
    grace: Duration,
    is_set: bool,
}

impl Deadline {
    #[expect(unsafe_code, reason = "tokio wants to be told that a descriptor stays what it is")]
    pub(super) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // SAFETY: an owned descriptor answers with the same number as long as it lives, and is closed when it is dropped only.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?;
        Ok(Self { timer, grace: Duration::ZERO, is_set: false })
    }

    /// Sets it anew.
    pub(super) fn set(&mut self, alive: Alive) -> io::Result<()> {
        self.grace = Duration::from_millis(alive.grace_ms);
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: alive.until.to_timespec() };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        self.is_set = true;
        Ok(())
    }

    /// Whether it will ever pass.
    pub(super) fn is_set(&self) -> bool {
        self.is_set
    }

    /// Waits until it has passed; gives the time that the family has from being asked to being killed.
    pub(super) async fn passed(&self) -> Duration {
        loop {
            let Ok(mut ready) = self.timer.readable().await else { return std::future::pending().await };
            let mut count = [0; 8];
            // Set anew meanwhile, it has nothing to read.
            match ready.try_io(|timer| Ok(rustix::io::read(timer, &mut count)?)) {
                Ok(Ok(_)) => return self.grace,
                Ok(Err(_)) => return std::future::pending().await,
                Err(_) => {}
            }
        }
    }
}
