//! Where a project comes from, as it may be shown.

/// A URL without what may be a secret: its password, and its user name, which over HTTP may be a token.
pub fn without_password(source: &str) -> String {
    let Ok(mut url) = url::Url::parse(source) else {
        return source.to_owned();
    };
    let hides_user = matches!(url.scheme(), "http" | "https") && !url.username().is_empty();
    if url.password().is_none() && !hides_user {
        return source.to_owned();
    }
    // Setting them fails only for URLs without a host, which have neither.
    let _ = url.set_password(None);
    let _ = url.set_username("***");
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_not_shown() {
        assert_eq!(without_password("https://ada:geheim@host/x.git"), "https://***@host/x.git");
        assert_eq!(without_password("https://ghp_token@host/x.git"), "https://***@host/x.git");
        for plain in ["/srv/x", "git@host:x", "https://host/x", "ssh://git@host/x"] {
            assert_eq!(without_password(plain), plain);
        }
    }
}
