//! Webhooks: what is told, where to, how it is signed, and what comes of an answer.

use std::{fmt, net::IpAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use url::{Host, Url};

use super::address::private_kind;

/// Posts of one delivery after which it is given up.
pub const MAX_TRIES: i32 = 10;
/// What a secret begins with.
const SECRET_PREFIX: &str = "whsec_";
/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Each wait is up to so many times as long as the one before.
const GROWTH: u32 = 4;

/// Kinds of items that a webhook can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A task failed for good.
    TaskFailed,
    /// A task is blocked until a person has looked.
    TaskBlocked,
    /// Something else in the inbox.
    TaskNeedsYou,
    /// Tasks wait for a host that has had no worker for a while.
    HostGone,
    /// A task completed.
    TaskCompleted,
    /// A completed task changed files, which are ready for review.
    ChangeSetReady,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::TaskFailed,
        Self::TaskBlocked,
        Self::TaskNeedsYou,
        Self::HostGone,
        Self::TaskCompleted,
        Self::ChangeSetReady,
    ];
    /// Those that a webhook is told if nothing else is said: what needs a person.
    pub const DEFAULT: [Self; 4] = [Self::TaskFailed, Self::TaskBlocked, Self::TaskNeedsYou, Self::HostGone];

    /// As the database, payloads and people name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TaskFailed => "task.failed",
            Self::TaskBlocked => "task.blocked",
            Self::TaskNeedsYou => "task.needs_you",
            Self::HostGone => "host.gone",
            Self::TaskCompleted => "task.completed",
            Self::ChangeSetReady => "change_set.ready",
        }
    }
}

/// Where a webhook's posts go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The URL, without a fragment.
    pub url: Url,
    /// Its host.
    pub host: Host<String>,
    /// Its port.
    pub port: u16,
    /// Whether it is encrypted.
    pub is_encrypted: bool,
    /// Whether addresses of this machine and private networks will do.
    pub allow_private: bool,
}

impl Target {
    /// Reads a URL; says in words why it cannot be posted to. The words do not repeat it: it may hold a secret.
    pub fn parse(text: &str, allow_private: bool) -> Result<Self, String> {
        let mut url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
        url.set_fragment(None);
        let is_encrypted = match url.scheme() {
            "https" => true,
            "http" if allow_private => false,
            "http" => return Err("http is not encrypted: use https".to_owned()),
            other => return Err(format!("{other} is not https")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a user name or password in the URL is not sent: leave it out".to_owned());
        }
        let host = url.host().ok_or_else(|| "no host in the URL".to_owned())?.to_owned();
        let port = url.port_or_known_default().ok_or_else(|| "no port in the URL".to_owned())?;
        let target = Self { url, host, port, is_encrypted, allow_private };
        match &target.host {
            Host::Ipv4(address) => target.check((*address).into())?,
            Host::Ipv6(address) => target.check((*address).into())?,
            Host::Domain(_) => {}
        }
        Ok(target)
    }

    /// Whether it may be posted to this address.
    pub fn check(&self, address: IpAddr) -> Result<(), String> {
        match private_kind(address) {
            Some(kind) if !self.allow_private => {
                Err(format!("{address} is {kind}, where this webhook was not allowed to go"))
            }
            _ => Ok(()),
        }
    }
}

/// The key that posts are signed with. Never printed.
#[derive(Clone)]
pub struct Key(Vec<u8>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// A key of these random bytes.
    pub fn new(random: [u8; KEY_BYTES]) -> Self {
        Self(random.to_vec())
    }

    /// Reads a secret; none: it is not one.
    pub fn parse(secret: &str) -> Option<Self> {
        BASE64.decode(secret.strip_prefix(SECRET_PREFIX)?).ok().filter(|key| !key.is_empty()).map(Self)
    }

    /// As receivers are given it.
    pub fn secret(&self) -> String {
        format!("{SECRET_PREFIX}{}", BASE64.encode(&self.0))
    }

    /// The header `webhook-signature` of a post.
    pub fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        // HMAC takes keys of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).unwrap_or_else(|_| unreachable!("any length will do"));
        for part in [id, ".", &timestamp.to_string(), ".", body] {
            mac.update(part.as_bytes());
        }
        format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
    }
}

/// What came of a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The receiver answered.
    Status {
        /// With this HTTP status.
        status: u16,
        /// And this `Retry-After`.
        retry_after: Option<Duration>,
        /// And began so.
        says: String,
    },
    /// It did not, or was not asked.
    Nothing {
        /// Why.
        why: String,
    },
}

/// What becomes of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver has it.
    Delivered,
    /// It is posted again.
    Again {
        /// After this long.
        wait: Duration,
    },
    /// It is given up.
    Dead,
    /// It is given up, and nothing is posted to this receiver any more: it said so.
    Gone,
}

/// How long deliveries wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Upper bound of the first wait.
    pub base: Duration,
    /// Upper bound of every wait, a receiver's own wish included.
    pub cap: Duration,
}

/// Decides what becomes of a delivery that was posted `tries` times. `jitter` is a random number in `0.0..1.0`: a wait is
/// at least half of its bound, which grows fourfold from one to the next.
pub fn decide(answer: &Answer, tries: i32, backoff: Backoff, jitter: f64) -> Verdict {
    let asked = match answer {
        Answer::Status { status: 200..=299, .. } => return Verdict::Delivered,
        Answer::Status { status: 410, .. } => return Verdict::Gone,
        Answer::Status { retry_after, .. } => retry_after.unwrap_or_default(),
        Answer::Nothing { .. } => Duration::ZERO,
    };
    if tries >= MAX_TRIES {
        return Verdict::Dead;
    }
    let doublings = tries.saturating_sub(1).clamp(0, MAX_TRIES).unsigned_abs();
    let bound = backoff.base.saturating_mul(GROWTH.saturating_pow(doublings)).min(backoff.cap);
    let wait = bound.mul_f64(f64::midpoint(1.0, jitter.clamp(0.0, 1.0)));
    Verdict::Again { wait: wait.max(asked).min(backoff.cap) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_secs(10), cap: Duration::from_secs(6 * 3600) };

    fn status(status: u16, retry_after: Option<u64>) -> Answer {
        Answer::Status { status, retry_after: retry_after.map(Duration::from_secs), says: String::new() }
    }

    #[test]
    fn waits_grow_to_a_cap_and_end() {
        let nothing = Answer::Nothing { why: "refused".to_owned() };
        let wait = |tries, jitter| match decide(&nothing, tries, BACKOFF, jitter) {
            Verdict::Again { wait } => wait.as_secs(),
            other => panic!("{other:?}"),
        };
        let bounds: Vec<_> = (1..MAX_TRIES).map(|tries| wait(tries, 1.0)).collect();
        assert_eq!(bounds, [10, 40, 160, 640, 2560, 10_240, 21_600, 21_600, 21_600]);
        assert_eq!(wait(2, 0.0), 20, "at least half of it");
        assert_eq!(decide(&nothing, MAX_TRIES, BACKOFF, 0.5), Verdict::Dead);
        assert_eq!(decide(&nothing, i32::MAX, BACKOFF, 0.5), Verdict::Dead);
    }

    #[test]
    fn only_a_2xx_is_delivered_and_a_redirect_is_none() {
        for code in [200, 204, 299] {
            assert_eq!(decide(&status(code, None), 1, BACKOFF, 0.5), Verdict::Delivered);
        }
        for code in [100, 301, 302, 307, 400, 401, 404, 429, 500, 503] {
            assert!(matches!(decide(&status(code, None), 1, BACKOFF, 0.5), Verdict::Again { .. }), "{code}");
            assert_eq!(decide(&status(code, None), MAX_TRIES, BACKOFF, 0.5), Verdict::Dead, "{code}");
        }
        assert_eq!(decide(&status(410, None), 1, BACKOFF, 0.5), Verdict::Gone);
    }

    #[test]
    fn a_receiver_may_ask_for_longer_but_not_for_ever_nor_for_less() {
        for (asked, expected) in [(60, 60), (1, 10), (1_000_000, 6 * 3600)] {
            let verdict = decide(&status(429, Some(asked)), 1, BACKOFF, 1.0);
            assert_eq!(verdict, Verdict::Again { wait: Duration::from_secs(expected) });
        }
    }

    #[test]
    fn the_signature_is_the_one_of_the_standard() {
        // The example of the Standard Webhooks libraries.
        let key = Key::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("secret");
        let signature = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}");
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(Key::parse(&key.secret()).expect("secret").secret(), key.secret());
        assert_eq!(format!("{key:?}"), "Key(..)");
        assert!(Key::parse("whsec_").is_none() && Key::parse("MfKQ").is_none() && Key::parse("whsec_!").is_none());
    }

    #[test]
    fn urls_that_lead_inside_or_hold_credentials_are_refused() {
        let refused = [
            ("http://example.com/", "not encrypted"),
            ("ftp://example.com/", "not https"),
            ("https://ada:geheim@example.com/", "user name"),
            ("https://ada@example.com/", "user name"),
            ("https://127.0.0.1/", "loopback"),
            ("https://127.1/", "loopback"),
            ("https://2130706433/", "loopback"),
            ("https://0x7f.0.0.1/", "loopback"),
            ("https://0/", "unspecified"),
            ("https://169.254.169.254/latest/meta-data", "link-local"),
            ("https://[::1]:8443/", "loopback"),
            ("https://[::ffff:10.0.0.1]/", "private"),
            ("https://[64:ff9b::7f00:1]/", "loopback"),
            ("https://[fd00::1]/", "private"),
            ("nonsense", "not a URL"),
            ("https://", "not a URL"),
        ];
        for (url, why) in refused {
            let words = Target::parse(url, false).expect_err(url);
            assert!(words.contains(why), "{url}: {words}");
            assert!(!words.contains("geheim"), "{words}");
        }
        let target = Target::parse("http://localhost:8080/x?y#z", true).expect("allowed");
        assert_eq!((target.port, target.is_encrypted, target.url.as_str()), (8080, false, "http://localhost:8080/x?y"));
        let target = Target::parse("https://example.com/", false).expect("public");
        assert_eq!((target.port, target.is_encrypted), (443, true));
        assert!(target.check("10.0.0.1".parse().expect("address")).is_err(), "what its name leads to counts");
    }
}
