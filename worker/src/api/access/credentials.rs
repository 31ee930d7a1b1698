//! What a request shows of who sends it.

use axum::http::{HeaderMap, header};
use secrecy::SecretString;

use super::COOKIE;
use crate::{model::access::CameFrom, store::access::Shown};

/// A secret, and how it was shown.
pub(super) struct Credential {
    pub(super) shown: Shown,
    pub(super) secret: SecretString,
}

/// What a request shows; none: nothing. A token counts before a cookie; one that cannot be read is a wrong one.
pub(super) fn credential(headers: &HeaderMap) -> Option<Credential> {
    let mut tokens = headers.get_all(header::AUTHORIZATION).iter();
    if let Some(value) = tokens.next() {
        let words = value.to_str().unwrap_or_default().split_once(' ').filter(|_| tokens.next().is_none());
        let secret = words.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map_or("", |(_, token)| token);
        return Some(Credential { shown: Shown::Token, secret: secret.trim().into() });
    }
    cookie(headers).map(|secret| Credential { shown: Shown::Browser, secret })
}

/// The browser's secret.
pub(super) fn cookie(headers: &HeaderMap) -> Option<SecretString> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, secret)| secret.into())
}

/// Where a browser says that a request comes from.
pub(super) fn came_from(headers: &HeaderMap) -> CameFrom<'_> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("unreadable"));
    CameFrom {
        origin: text("origin"),
        site: text("sec-fetch-site"),
        navigates: text("sec-fetch-mode") == Some("navigate"),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_token_counts_before_a_cookie_and_a_broken_one_is_wrong() {
        for (lines, expected) in [
            (&[][..], None),
            (&[("authorization", "Bearer mh_x")][..], Some((Shown::Token, "mh_x"))),
            (&[("authorization", "bearer  mh_x ")], Some((Shown::Token, "mh_x"))),
            (&[("cookie", "a=b; millhand_session=s; c=d")], Some((Shown::Browser, "s"))),
            (&[("cookie", "a=b"), ("cookie", "millhand_session=s")], Some((Shown::Browser, "s"))),
            (&[("cookie", "xmillhand_session=s; millhand_session2=t")], None),
            (&[("cookie", "millhand_session=s"), ("authorization", "Bearer mh_x")], Some((Shown::Token, "mh_x"))),
            (&[("cookie", "millhand_session=s"), ("authorization", "Basic YTpi")], Some((Shown::Token, ""))),
            (&[("authorization", "mh_x")], Some((Shown::Token, ""))),
            (&[("authorization", "Bearer mh_x"), ("authorization", "Bearer mh_y")], Some((Shown::Token, ""))),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, value.parse().expect("value"));
            }
            let found = credential(&headers);
            let found = found.as_ref().map(|found| (found.shown, found.secret.expose_secret()));
            assert_eq!(found, expected, "{lines:?}");
        }
    }
}
