//! How often who may ask.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::model::access::{Bucket, Rate};

/// Wrong secrets of one address: a person mistypes, a program is set up wrongly; who goes on is told to wait.
const WRONG: Rate = Rate { per_second: 1.0, burst: 20.0 };
/// How many seconds' worth of requests may come at once: a page asks for many things.
const BURST_SECONDS: f64 = 4.0;
/// Buckets that are kept; beyond, full ones go.
const MOST: usize = 10_000;

/// Buckets of those who asked lately.
#[derive(Debug)]
pub(super) struct Limits {
    began: Instant,
    rate: Rate,
    principals: Mutex<HashMap<i64, Bucket>>,
    strangers: Mutex<HashMap<IpAddr, Bucket>>,
}

impl Limits {
    /// So many requests a second for each token or browser.
    pub(super) fn new(per_second: i32) -> Self {
        let per_second = f64::from(per_second.max(1));
        Self {
            began: Instant::now(),
            rate: Rate { per_second, burst: per_second * BURST_SECONDS },
            principals: Mutex::default(),
            strangers: Mutex::default(),
        }
    }

    /// A request of a token or browser; else how long it has to wait.
    pub(super) fn request(&self, of: i64) -> Result<(), Duration> {
        take(&self.principals, of, self.rate, self.began.elapsed())
    }

    /// A wrong secret from an address; how long to wait where there were too many.
    pub(super) fn wrong_secret(&self, from: IpAddr) -> Result<(), Duration> {
        take(&self.strangers, network(from), WRONG, self.began.elapsed())
    }
}

/// Whoever has an address of version 6 has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        address @ IpAddr::V4(_) => address,
    }
}

fn take<K: Eq + Hash>(buckets: &Mutex<HashMap<K, Bucket>>, key: K, rate: Rate, now: Duration) -> Result<(), Duration> {
    let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
    if buckets.len() >= MOST {
        buckets.retain(|_, bucket| !bucket.is_full(rate, now));
        if buckets.len() >= MOST {
            // So many who all ask too often: nobody new is counted apart until some have stopped.
            buckets.clear();
        }
    }
    buckets.entry(key).or_insert_with(|| Bucket::full(rate, now)).take(rate, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_bucket_of_their_own_and_a_network_of_version_6_is_one() {
        let limits = Limits::new(1);
        assert_eq!((0..4).map(|_| limits.request(1)).filter(Result::is_ok).count(), 4);
        assert!(limits.request(1).is_err() && limits.request(2).is_ok());
        let at = |text: &str| text.parse::<IpAddr>().expect("address");
        for n in 0..20 {
            assert!(limits.wrong_secret(at(&format!("2001:db8::{n:x}"))).is_ok());
        }
        assert!(limits.wrong_secret(at("2001:db8::ffff")).is_err());
        assert!(limits.wrong_secret(at("2001:db8:0:1::1")).is_ok());
        assert_eq!(network(at("::ffff:10.0.0.7")), at("10.0.0.7"));
    }

    #[test]
    fn buckets_of_strangers_do_not_pile_up() {
        let limits = Limits::new(1);
        for n in 0..3 * u32::try_from(MOST).expect("small") {
            let _ = limits.wrong_secret(IpAddr::V4(n.into()));
        }
        assert!(limits.strangers.lock().expect("not poisoned").len() <= MOST);
    }
}
