//! Versions, as programs print them.

use std::fmt;

/// A version of up to three numbers; a pre-release counts as its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number, 0 if there is none.
    pub minor: u32,
    /// Third number, 0 if there is none.
    pub patch: u32,
}

impl Version {
    /// A version.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Finds the version in what a program printed: the first word that starts with a digit and has a dot or is a number
    /// with a suffix (`15.17`, `v1.18.33`, `19beta1`).
    pub fn find_in(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(|word| Self::parse(word.strip_prefix('v').unwrap_or(word)))
    }

    fn parse(word: &str) -> Option<Self> {
        let mut numbers = [0_u32; 3];
        let mut rest = word;
        for (index, number) in numbers.iter_mut().enumerate() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 {
                if index == 0 {
                    return None;
                }
                break;
            }
            *number = rest[..digits].parse().ok()?;
            match rest[digits..].strip_prefix('.') {
                Some(after) => rest = after,
                None => break,
            }
        }
        let [major, minor, patch] = numbers;
        Some(Self { major, minor, patch })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor, patch } = self;
        // Postgres has two numbers.
        if *patch == 0 && *major >= 10 { write!(f, "{major}.{minor}") } else { write!(f, "{major}.{minor}.{patch}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        let cases = [
            ("postgres (PostgreSQL) 15.17 (Debian 15.17-0+deb12u1)\n", Some(Version::new(15, 17, 0))),
            ("initdb (PostgreSQL) 19beta1", Some(Version::new(19, 0, 0))),
            ("1.18.33\n", Some(Version::new(1, 18, 33))),
            ("opencode v1.2.3-beta.4", Some(Version::new(1, 2, 3))),
            ("99999999999.1", None),
            ("no version here", None),
            ("", None),
        ];
        for (text, version) in cases {
            assert_eq!(Version::find_in(text), version, "{text}");
        }
    }

    #[test]
    fn versions_order_by_number_not_by_letter() {
        assert!(Version::new(1, 14, 50) > Version::new(1, 9, 99));
        assert!(Version::new(9, 6, 0) < Version::new(15, 0, 0));
    }
}
