//! The two forms of a connection string, taken apart into words, as libpq does it.

use std::collections::BTreeMap;

use super::url::AddressError;

/// Settings by name. Values are bytes: a password need not be text. No `Debug`: one of them is a secret.
#[derive(Default)]
pub(super) struct Words(BTreeMap<String, Vec<u8>>);

impl Words {
    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// A value that must be text; an empty one counts as none.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, AddressError> {
        let Some(value) = self.get(key).filter(|value| !value.is_empty()) else { return Ok(None) };
        let text = std::str::from_utf8(value).ok().filter(|text| !text.contains('\0'));
        text.map(Some)
            .ok_or_else(|| AddressError::Invalid { key: key.to_owned(), expected: "it is not text".to_owned() })
    }

    /// Names of what has a value.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, value)| !value.is_empty()).map(|(key, _)| key.as_str())
    }

    pub(super) fn add_default(&mut self, key: &str, value: &[u8]) {
        if self.get(key).is_none_or(<[u8]>::is_empty) {
            self.set(key, value.to_vec());
        }
    }

    /// The last one counts.
    fn set(&mut self, key: &str, value: Vec<u8>) {
        self.0.insert(key.to_owned(), value);
    }
}

/// Takes a URL or `key=value` words apart.
pub(super) fn parse(text: &str) -> Result<Words, AddressError> {
    let text = text.trim();
    match text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
        Some(rest) => parse_url(rest),
        None if text.contains("://") => Err(AddressError::Syntax("the URL does not start with postgres://")),
        None => parse_pairs(text),
    }
}

fn parse_url(rest: &str) -> Result<Words, AddressError> {
    let mut words = Words::default();
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, database) = rest.split_once('/').map_or((rest, None), |(authority, name)| (authority, Some(name)));
    let hosts = match authority.rsplit_once('@') {
        Some((login, hosts)) => {
            let (user, password) = login.split_once(':').map_or((login, None), |(user, pass)| (user, Some(pass)));
            words.set("user", decode(user)?);
            if let Some(password) = password {
                words.set("password", decode(password)?);
            }
            hosts
        }
        None => authority,
    };
    set_hosts(&mut words, hosts)?;
    if let Some(name) = database {
        words.set("dbname", decode(name)?);
    }
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or(AddressError::Syntax("the URL has a setting without ="))?;
        let key = String::from_utf8(decode(key)?).map_err(|_| AddressError::Syntax("a setting's name is not text"))?;
        words.set(&key, decode(value)?);
    }
    Ok(words)
}

fn set_hosts(words: &mut Words, hosts: &str) -> Result<(), AddressError> {
    if hosts.is_empty() {
        return Ok(());
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = if let Some(rest) = host.strip_prefix('[') {
            let (name, rest) = rest.split_once(']').ok_or(AddressError::Syntax("an IPv6 address lacks its ]"))?;
            match rest.strip_prefix(':') {
                Some(port) => (name, port),
                None if rest.is_empty() => (name, ""),
                None => return Err(AddressError::Syntax("something other than a port follows an IPv6 address")),
            }
        } else {
            host.split_once(':').unwrap_or((host, ""))
        };
        names.push(decode(name)?);
        ports.push(decode(port)?);
    }
    words.set("host", names.join(&b','));
    if ports.iter().any(|port| !port.is_empty()) {
        words.set("port", ports.join(&b','));
    }
    Ok(())
}

fn decode(text: &str) -> Result<Vec<u8>, AddressError> {
    const WRONG: AddressError = AddressError::Syntax("a % in the URL is not followed by two hexadecimal digits");
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16)).ok_or(WRONG);
        let value = digit()? * 16 + digit()?;
        decoded.push(u8::try_from(value).map_err(|_| WRONG)?);
    }
    Ok(decoded)
}

fn parse_pairs(text: &str) -> Result<Words, AddressError> {
    let mut words = Words::default();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or(AddressError::Syntax("a word without = stands there"))?;
        let key = key.trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(AddressError::Syntax("a word without = stands there"));
        }
        let (value, after) = pair_value(after.trim_start())?;
        words.set(key, value.into_bytes());
        rest = after.trim_start();
    }
    Ok(words)
}

/// A value, quoted or up to a blank, and what follows it.
fn pair_value(text: &str) -> Result<(String, &str), AddressError> {
    let quoted = text.strip_prefix('\'');
    let text = quoted.unwrap_or(text);
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted.is_some() => return Ok((value, &text[at + 1..])),
            c if quoted.is_none() && c.is_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if quoted.is_some() { Err(AddressError::Syntax("a quoted value has no end")) } else { Ok((value, "")) }
}
