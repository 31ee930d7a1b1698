//! Who may use the HTTP API: scopes, secrets, and what a request may be called by and come from.
//!
//! A secret has 256 random bits: its SHA-256 is kept, and there is no need for a slow hash.

use std::{fmt, net::IpAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use sha2::{Digest as _, Sha256};

/// What a token begins with, so that scanners for leaked secrets know it.
const TOKEN_PREFIX: &str = "mh_";
/// Random bytes of a secret.
pub const SECRET_BYTES: usize = 32;
/// Characters of these in base64.
const SECRET_CHARACTERS: usize = 43;

/// What one may do by the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Queue tasks.
    Enqueue,
    /// Look at everything.
    Read,
    /// Look, apply, reject, retry, answer.
    Review,
    /// Everything.
    Admin,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 4] = [Self::Enqueue, Self::Read, Self::Review, Self::Admin];

    /// As the database, the API and people name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enqueue => "enqueue",
            Self::Read => "read",
            Self::Review => "review",
            Self::Admin => "admin",
        }
    }

    /// The scope of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }

    /// Whether who has it may do what takes `wanted`.
    pub fn implies(self, wanted: Self) -> bool {
        match self {
            Self::Admin => true,
            Self::Review => matches!(wanted, Self::Review | Self::Read),
            Self::Enqueue | Self::Read => self == wanted,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether any of these scopes is enough.
pub fn may(scopes: &[Scope], wanted: Scope) -> bool {
    scopes.iter().any(|scope| scope.implies(wanted))
}

/// A token from random bytes.
pub fn token_of(random: [u8; SECRET_BYTES]) -> String {
    format!("{TOKEN_PREFIX}{}", code_of(random))
}

/// A login code, or a browser's secret, from random bytes.
pub fn code_of(random: [u8; SECRET_BYTES]) -> String {
    BASE64.encode(random)
}

/// Whether this can be a token at all.
pub fn is_token(text: &str) -> bool {
    text.strip_prefix(TOKEN_PREFIX).is_some_and(is_code)
}

/// Whether this can be a login code, or a browser's secret, at all.
pub fn is_code(text: &str) -> bool {
    text.len() == SECRET_CHARACTERS && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// What is kept of a secret.
pub fn hash_of(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// The host that a `Host` header names, in small letters and without its port; none: it is no host.
pub fn host_name(header: &str) -> Option<String> {
    let header = header.trim();
    let (name, port) = match header.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (address, port)
        }
        None => header.split_at(header.find(':').unwrap_or(header.len())),
    };
    let is_port = match port.strip_prefix(':') {
        Some(digits) => digits.parse::<u16>().is_ok() && !digits.starts_with('+'),
        None => port.is_empty(),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    (is_port && !name.is_empty() && name.chars().all(is_name)).then(|| name.to_ascii_lowercase())
}

/// Whether we are called by a name of ours. Else a page of somebody else's, whose name was made to lead here (DNS rebinding), could talk to us
/// as if it were ours. An address cannot be made to lead elsewhere: where we listen on all of this machine's, any will do.
pub fn is_own_host(name: &str, listen: IpAddr, allowed: &[String]) -> bool {
    if name == "localhost" || allowed.iter().any(|other| other.eq_ignore_ascii_case(name)) {
        return true;
    }
    match name.parse::<IpAddr>() {
        Ok(address) => address == listen || address.is_loopback() || listen.is_unspecified(),
        Err(_) => false,
    }
}

/// Where a browser says that a request comes from.
#[derive(Clone, Copy, Debug, Default)]
pub struct CameFrom<'a> {
    /// `Origin`.
    pub origin: Option<&'a str>,
    /// `Sec-Fetch-Site`.
    pub site: Option<&'a str>,
    /// `Sec-Fetch-Mode` is `navigate`.
    pub navigates: bool,
}

/// Whether a request that a cookie vouches for was made by a page of ours. A browser sends the cookie along whoever asks on this machine's name,
/// whatever the port: what changes something takes proof of where it comes from.
pub fn is_own_page(from: CameFrom<'_>, host_header: &str, is_safe: bool) -> bool {
    let own_origin = from.origin.map(|origin| {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host_header.trim()))
    });
    let own_site = from.site.map(|site| match site {
        "same-origin" => true,
        // Typed, or opened by another program; or a link, which reads.
        "none" => is_safe,
        _ => is_safe && from.navigates,
    });
    match (own_origin, own_site) {
        (Some(false), _) | (_, Some(false)) => false,
        (None, None) => is_safe,
        _ => true,
    }
}

/// So many at once, and so many a second after that: a bucket of tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Tokens that come back in a second.
    pub per_second: f64,
    /// Tokens that the bucket holds.
    pub burst: f64,
}

/// What is left in a bucket, as of a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    left: f64,
    at: Duration,
}

impl Bucket {
    /// A full one.
    pub fn full(rate: Rate, now: Duration) -> Self {
        Self { left: rate.burst, at: now }
    }

    /// Takes one out.
    ///
    /// # Errors
    ///
    /// There is none; how long until there is.
    pub fn take(&mut self, rate: Rate, now: Duration) -> Result<(), Duration> {
        self.fill(rate, now);
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64(((1.0 - self.left) / rate.per_second.max(f64::EPSILON)).min(3600.0)))
    }

    /// Whether nothing was taken for so long that it is full again.
    pub fn is_full(&mut self, rate: Rate, now: Duration) -> bool {
        self.fill(rate, now);
        self.left >= rate.burst
    }

    fn fill(&mut self, rate: Rate, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.left = (self.left + passed * rate.per_second).min(rate.burst);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_may_do_all_and_review_may_read() {
        let table = [
            (Scope::Enqueue, [true, false, false, false]),
            (Scope::Read, [false, true, false, false]),
            (Scope::Review, [false, true, true, false]),
            (Scope::Admin, [true; 4]),
        ];
        for (has, expected) in table {
            for (wanted, expected) in Scope::ALL.into_iter().zip(expected) {
                assert_eq!(may(&[has], wanted), expected, "{has} for {wanted}");
            }
            assert_eq!(Scope::named(has.as_str()), Some(has));
        }
        assert!(!may(&[], Scope::Enqueue) && may(&[Scope::Enqueue, Scope::Read], Scope::Read));
        assert_eq!(Scope::named("Admin"), None);
    }

    #[test]
    fn secrets_have_a_form_and_hashes_are_sha256() {
        let token = token_of([7; 32]);
        assert!(is_token(&token) && token.len() == 46, "{token}");
        assert!(is_code(&code_of([255; 32])) && !is_code(&token) && !is_token(&code_of([1; 32])));
        for bad in ["", "mh_", "mh_short", &format!("{token}a"), &token.replace('B', " "), "MH_", &token[1..]] {
            assert!(!is_token(bad), "{bad}");
        }
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash_of("abc").map(|byte| format!("{byte:02x}")).concat(), expected);
    }

    #[test]
    fn hosts_are_ours_by_name_or_by_address() {
        let allowed = ["mill.example.org".to_owned()];
        let loopback = "127.0.0.1".parse().expect("address");
        let everywhere = "0.0.0.0".parse().expect("address");
        for (header, on_loopback, on_all) in [
            ("localhost:7341", true, true),
            ("LOCALHOST", true, true),
            ("127.0.0.1:7341", true, true),
            ("[::1]:7341", true, true),
            ("mill.example.org", true, true),
            ("MILL.example.org:443", true, true),
            ("192.168.1.5:7341", false, true),
            ("evil.example.com:7341", false, false),
            ("localhost.evil.example.com", false, false),
            ("127.0.0.1.nip.io:7341", false, false),
            ("mill.example.org.evil.com", false, false),
            ("", false, false),
            (":7341", false, false),
            ("localhost:port", false, false),
            ("localhost:7341:1", false, false),
            ("user@localhost", false, false),
            ("localhost/", false, false),
            ("[localhost]", false, false),
            ("[::1", false, false),
        ] {
            let own = |listen| host_name(header).is_some_and(|name| is_own_host(&name, listen, &allowed));
            assert_eq!((own(loopback), own(everywhere)), (on_loopback, on_all), "{header}");
        }
    }

    #[test]
    fn a_cookie_counts_for_pages_of_ours_only() {
        let host = "127.0.0.1:7341";
        for (origin, site, navigates, safe, unsafe_) in [
            (Some("http://127.0.0.1:7341"), Some("same-origin"), false, true, true),
            (Some("https://127.0.0.1:7341"), None, false, true, true),
            (None, Some("same-origin"), false, true, true),
            // No browser: it would be asked for a token.
            (None, None, false, true, false),
            (None, Some("none"), true, true, false),
            (None, Some("cross-site"), true, true, false),
            (None, Some("cross-site"), false, false, false),
            // A server of an agent's on another port of this machine.
            (Some("http://127.0.0.1:3000"), Some("same-site"), false, false, false),
            (None, Some("same-site"), false, false, false),
            (Some("http://localhost:7341"), None, false, false, false),
            (Some("http://evil.example.com"), Some("cross-site"), false, false, false),
            (Some("null"), None, false, false, false),
            (Some("null"), Some("same-origin"), false, false, false),
            (Some("http://127.0.0.1:7341.evil.com"), None, false, false, false),
            (Some("ftp://127.0.0.1:7341"), None, false, false, false),
            (Some("http://127.0.0.1:7341"), Some("cross-site"), false, false, false),
        ] {
            let from = CameFrom { origin, site, navigates };
            assert_eq!(is_own_page(from, host, true), safe, "reads: {from:?}");
            assert_eq!(is_own_page(from, host, false), unsafe_, "writes: {from:?}");
        }
    }

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate_and_says_when() {
        let rate = Rate { per_second: 2.0, burst: 3.0 };
        let at = Duration::from_millis;
        let mut bucket = Bucket::full(rate, at(0));
        assert_eq!([0, 0, 0].map(|now| bucket.take(rate, at(now))), [Ok(()); 3]);
        assert_eq!(bucket.take(rate, at(0)), Err(at(500)));
        assert_eq!(bucket.take(rate, at(499)).map_err(|wait| wait.as_millis()), Err(1));
        assert_eq!(bucket.take(rate, at(500)), Ok(()));
        // A clock that goes back gives nothing.
        assert!(bucket.take(rate, at(0)).is_err());
        assert!(!bucket.is_full(rate, at(1000)) && bucket.is_full(rate, at(2000)));
        assert_eq!([9000; 3].map(|now| bucket.take(rate, at(now))), [Ok(()); 3]);
        assert!(bucket.take(rate, at(9000)).is_err(), "no more than the burst");
    }
}
