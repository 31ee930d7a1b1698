//! Whether somebody has set the database's clock.
//!
//! Leases end by the database's clock. Set forward, it would end all of them at once although their workers are well; so after a
//! jump nobody is rescued until every live worker has had the time to renew its leases.

use std::time::Duration;

/// How many heartbeats live workers get after a jump.
const HEARTBEATS: u32 = 2;

/// Compares two clocks from look to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockWatch {
    /// A difference of less than this is no jump.
    tolerance: Duration,
    heartbeat: Duration,
    /// The database's time and ours at the last look.
    last: Option<(Duration, Duration)>,
    /// In our time: nobody is rescued before.
    hold_until: Option<Duration>,
}

impl ClockWatch {
    /// No look yet.
    pub fn new(lease: Duration, heartbeat: Duration) -> Self {
        Self { tolerance: lease / 4, heartbeat, last: None, hold_until: None }
    }

    /// Notes a look: the database's time, since whenever, and ours, of a clock that nobody can set. Answers whether leases that have ended
    /// may be taken for lost.
    pub fn may_rescue(&mut self, database: Duration, ours: Duration) -> bool {
        let jumped = match self.last {
            // Whether it has jumped before we came cannot be known.
            None => true,
            Some((then, our_then)) => match database.checked_sub(then) {
                Some(passed) => passed > ours.saturating_sub(our_then) + self.tolerance,
                // Set back: leases last longer, which is seen to elsewhere.
                None => false,
            },
        };
        self.last = Some((database, ours));
        if jumped {
            self.hold_until = Some(ours + self.heartbeat * HEARTBEATS);
        }
        self.hold_until.is_none_or(|until| ours >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn after_a_jump_forward_live_workers_get_time_to_renew() {
        let mut watch = ClockWatch::new(s(20), s(5));
        assert!(!watch.may_rescue(s(1000), s(0)), "at first nothing is known");
        assert!(!watch.may_rescue(s(1005), s(5)));
        assert!(watch.may_rescue(s(1010), s(10)));
        assert!(watch.may_rescue(s(1019), s(15)), "within the tolerance");
        assert!(!watch.may_rescue(s(4624), s(20)), "an hour ahead");
        assert!(!watch.may_rescue(s(4629), s(25)));
        assert!(watch.may_rescue(s(4634), s(30)));
    }

    #[test]
    fn a_jump_back_holds_nobody_up() {
        let mut watch = ClockWatch::new(s(20), s(5));
        watch.may_rescue(s(10_000), s(0));
        assert!(watch.may_rescue(s(10_010), s(10)));
        assert!(watch.may_rescue(s(6_410), s(15)));
    }
}
