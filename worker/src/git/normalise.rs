//! What `git add` would make of a file's bytes, as far as that is safe: line ends, `$Id$`, LFS pointers. No external filter is run.
//!
//! Follows git's convert.c without configuration (`core.autocrlf` unset).

use sha2::{Digest, Sha256};

use super::rules::{Attributes, Text};

/// The first line of an LFS pointer.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\n";
/// A pointer is shorter than this.
pub(super) const POINTER_LIMIT: usize = 1024;

/// Whether the bytes must be seen as a whole before they are stored.
pub(super) fn changes_bytes(attributes: &Attributes) -> bool {
    attributes.text != Text::No || attributes.ident
}

/// Line ends and `$Id$`. `stored` gives the blob that the path has now: text with CRLF in it stays so under `text=auto`.
pub(super) fn normalise(attributes: &Attributes, bytes: Vec<u8>, stored: impl FnOnce() -> Option<Vec<u8>>) -> Vec<u8> {
    let mut bytes = bytes;
    let converts = match attributes.text {
        Text::No => false,
        Text::Yes => true,
        Text::Auto => {
            let seen = Statistics::of(&bytes);
            seen.crlf > 0 && !seen.looks_binary() && !stored().is_some_and(|old| has_crlf(&old))
        }
    };
    if converts && bytes.contains(&b'\r') {
        let mut out = Vec::with_capacity(bytes.len());
        for (at, byte) in bytes.iter().enumerate() {
            if *byte != b'\r' || bytes.get(at + 1) != Some(&b'\n') {
                out.push(*byte);
            }
        }
        bytes = out;
    }
    if attributes.ident { collapse_ident(&bytes) } else { bytes }
}

fn has_crlf(bytes: &[u8]) -> bool {
    let seen = Statistics::of(bytes);
    seen.crlf > 0 && !seen.looks_binary()
}

#[derive(Default)]
struct Statistics {
    nul: usize,
    lone_cr: usize,
    crlf: usize,
    printable: usize,
    not_printable: usize,
}

impl Statistics {
    fn of(bytes: &[u8]) -> Self {
        let mut seen = Self::default();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'\r' if bytes.get(at + 1) == Some(&b'\n') => {
                    seen.crlf += 1;
                    at += 1;
                }
                b'\r' => seen.lone_cr += 1,
                b'\n' => {}
                0x08 | b'\t' | 0x1b | 0x0c => seen.printable += 1,
                0 => {
                    seen.nul += 1;
                    seen.not_printable += 1;
                }
                0x01..=0x1f | 0x7f => seen.not_printable += 1,
                _ => seen.printable += 1,
            }
            at += 1;
        }
        // The end-of-file character of old systems.
        if bytes.last() == Some(&0x1a) {
            seen.not_printable -= 1;
        }
        seen
    }

    fn looks_binary(&self) -> bool {
        self.lone_cr > 0 || self.nul > 0 || (self.printable >> 7) < self.not_printable
    }
}

/// `$Id: anything $` becomes `$Id$`.
fn collapse_ident(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(4).position(|window| window == b"$Id:") {
        let after = &rest[at + 4..];
        let line = after.iter().position(|byte| *byte == b'\n').unwrap_or(after.len());
        out.extend_from_slice(&rest[..at + 3]);
        match after[..line].iter().position(|byte| *byte == b'$') {
            Some(end) => {
                out.push(b'$');
                rest = &after[end + 1..];
            }
            None => rest = &rest[at + 3..],
        }
    }
    out.extend_from_slice(rest);
    out
}

/// Whether the bytes are an LFS pointer, which is stored as it is. So is nothing at all.
pub(super) fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.is_empty()
        || (bytes.len() < POINTER_LIMIT
            && bytes.starts_with(POINTER)
            && bytes.windows(11).any(|window| window == b"oid sha256:"))
}

/// The SHA-256 of LFS content, as hex digits.
pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The pointer to content with this hash.
pub(super) fn lfs_pointer(hash: &str, size: u64) -> Vec<u8> {
    [POINTER, format!("oid sha256:{hash}\nsize {size}\n").as_bytes()].concat()
}

/// The running hash of LFS content.
pub(super) fn lfs_hash() -> Sha256 {
    Sha256::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_text(text: Text) -> Attributes {
        Attributes { text, ..Attributes::default() }
    }

    #[test]
    fn auto_leaves_binary_and_text_that_was_stored_with_crlf() {
        let auto = with_text(Text::Auto);
        assert_eq!(normalise(&auto, b"a\r\nb\r\n".to_vec(), || None), b"a\nb\n");
        assert_eq!(normalise(&auto, b"a\r\n\0".to_vec(), || None), b"a\r\n\0");
        assert_eq!(normalise(&auto, b"a\r\nb\rc".to_vec(), || None), b"a\r\nb\rc");
        assert_eq!(normalise(&auto, b"a\r\n".to_vec(), || Some(b"x\r\n".to_vec())), b"a\r\n");
        assert_eq!(normalise(&with_text(Text::Yes), b"a\r\nb\rc\r\r\n".to_vec(), || None), b"a\nb\rc\r\n");
    }

    #[test]
    fn ident_collapses_within_a_line() {
        let collapse = |text: &str| String::from_utf8_lossy(&collapse_ident(text.as_bytes())).into_owned();
        assert_eq!(collapse("x $Id: 0123 $ y $Id$\n"), "x $Id$ y $Id$\n");
        assert_eq!(collapse("$Id: open\n$Id: a$$Id:$"), "$Id: open\n$Id$$Id$");
    }
}
