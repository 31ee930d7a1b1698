//! One file's part of a patch, byte for byte as `git apply --index --binary` reads it.
//!
//! The headers are ours, the hunks are libgit2's: its own headers differ from git's for odd names, mode changes and type changes.

use git2::{DiffOptions, Oid, Patch, Repository};

use super::{GitError, error::Context, normalise, stat_cache::GITLINK};

/// One side of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) path: Vec<u8>,
    pub(super) mode: u32,
    pub(super) id: Oid,
}

/// A rendered part.
pub(super) struct Part {
    pub(super) bytes: Vec<u8>,
    pub(super) is_binary: bool,
    pub(super) additions: usize,
    pub(super) deletions: usize,
    /// One of the sides is an LFS pointer.
    pub(super) is_lfs: bool,
}

/// Text above this is written as a binary patch: a line-by-line comparison would take too long for what a person can read.
const TEXT_UP_TO: i64 = 16 << 20;
/// Above this there is no patch: Postgres and git cannot take it. The checkpoint has the file.
pub(super) const PATCH_UP_TO: usize = 256 << 20;

/// Renders one change; at least one side is there. `None` if it is too large for a patch.
pub(super) fn render(
    repository: &Repository,
    old: Option<&Side>,
    new: Option<&Side>,
) -> Result<Option<Part>, GitError> {
    let mut part = Part { bytes: header(old, new), is_binary: false, additions: 0, deletions: 0, is_lfs: false };
    let (old_id, new_id) = (old.map_or(Oid::ZERO_SHA1, |side| side.id), new.map_or(Oid::ZERO_SHA1, |side| side.id));
    if old_id == new_id {
        return Ok(Some(part));
    }
    let content = |side: Option<&Side>| match side {
        None => Ok(Content::Bytes(Vec::new())),
        Some(side) if side.mode == GITLINK => {
            Ok(Content::Bytes(format!("Subproject commit {}\n", side.id).into_bytes()))
        }
        Some(side) => repository.find_blob(side.id).doing("read a changed file").map(Content::Blob),
    };
    let (before, after) = (content(old)?, content(new)?);
    let (before, after) = (before.bytes(), after.bytes());
    if before.len() > PATCH_UP_TO || after.len() > PATCH_UP_TO {
        return Ok(None);
    }
    part.is_lfs = [before, after].into_iter().any(|side| !side.is_empty() && normalise::is_lfs_pointer(side));
    let mut options = DiffOptions::new();
    options.context_lines(3).show_binary(true).max_size(TEXT_UP_TO).id_abbrev(40);
    let mut patch = Patch::from_buffers(before, None, after, None, Some(&mut options)).doing("compare a file")?;
    part.is_binary = patch.delta().flags().is_binary();
    let whole = patch.to_buf().doing("write a patch")?;
    let (_, additions, deletions) = patch.line_stats().doing("count a patch")?;
    (part.additions, part.deletions) = (additions, deletions);
    let marker: &[u8] = if part.is_binary { b"GIT binary patch\n" } else { b"@@ " };
    let Some(start) = start_of_line(&whole, marker) else { return Ok(Some(part)) };
    if !part.is_binary {
        part.bytes.extend(file_line(b"--- ", b"a/", old));
        part.bytes.extend(file_line(b"+++ ", b"b/", new));
    }
    part.bytes.extend_from_slice(&whole[start..]);
    Ok(Some(part))
}

enum Content<'r> {
    Bytes(Vec<u8>),
    Blob(git2::Blob<'r>),
}

impl Content<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Blob(blob) => blob.content(),
        }
    }
}

fn start_of_line(text: &[u8], marker: &[u8]) -> Option<usize> {
    let mut at = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(marker) {
            return Some(at);
        }
        at += line.len();
    }
    None
}

/// The headers in a patch, without what follows them: paths, modes, and the blobs before and after.
pub fn headers_of(patch: &[u8]) -> Vec<u8> {
    let (mut headers, mut inside) = (Vec::new(), false);
    for line in patch.split_inclusive(|byte| *byte == b'\n') {
        // Content never starts a line with this: text has a marker before it, binary data no spaces.
        inside |= line.starts_with(b"diff --git ");
        inside &= ![b"--- ".as_slice(), b"@@ ", b"GIT binary patch"].iter().any(|start| line.starts_with(start));
        if inside {
            headers.extend_from_slice(line);
        }
    }
    headers
}

pub(super) fn header(old: Option<&Side>, new: Option<&Side>) -> Vec<u8> {
    let (Some(first), Some(second)) = (old.or(new), new.or(old)) else { return Vec::new() };
    let mut text = b"diff --git ".to_vec();
    text.extend(quote(b"a/", &first.path));
    text.push(b' ');
    text.extend(quote(b"b/", &second.path));
    text.push(b'\n');
    let mut line = |parts: &[&[u8]]| {
        parts.iter().for_each(|part| text.extend_from_slice(part));
        text.push(b'\n');
    };
    let mode = |side: &Side| format!("{:06o}", side.mode).into_bytes();
    let id = |side: Option<&Side>| side.map_or(Oid::ZERO_SHA1, |side| side.id).to_string().into_bytes();
    let mut suffix = Vec::new();
    match (old, new) {
        (None, Some(new)) => line(&[b"new file mode ", &mode(new)]),
        (Some(old), None) => line(&[b"deleted file mode ", &mode(old)]),
        (Some(old), Some(new)) => {
            if old.mode == new.mode {
                suffix = [b" ".as_slice(), &mode(new)].concat();
            } else {
                line(&[b"old mode ", &mode(old)]);
                line(&[b"new mode ", &mode(new)]);
            }
            if old.path != new.path {
                line(&[b"rename from ", &quote(b"", &old.path)]);
                line(&[b"rename to ", &quote(b"", &new.path)]);
            }
        }
        (None, None) => {}
    }
    if id(old) != id(new) {
        line(&[b"index ", &id(old), b"..", &id(new), &suffix]);
    }
    text
}

fn file_line(marker: &[u8], prefix: &[u8], side: Option<&Side>) -> Vec<u8> {
    let mut line = marker.to_vec();
    match side {
        None => line.extend_from_slice(b"/dev/null"),
        Some(side) => {
            let name = quote(prefix, &side.path);
            let ends_early = name.contains(&b' ') && !name.starts_with(b"\"");
            line.extend(name);
            // A tab says where a name with spaces ends.
            line.extend(ends_early.then_some(b'\t'));
        }
    }
    line.push(b'\n');
    line
}

/// git's C-style quoting, with `core.quotePath` on.
fn quote(prefix: &[u8], path: &[u8]) -> Vec<u8> {
    let is_plain = |byte: &u8| (0x20..0x7f).contains(byte) && !matches!(byte, b'"' | b'\\');
    if path.iter().all(is_plain) {
        return [prefix, path].concat();
    }
    let mut quoted = b"\"".to_vec();
    quoted.extend_from_slice(prefix);
    for byte in path {
        match byte {
            b'\n' => quoted.extend_from_slice(b"\\n"),
            b'\t' => quoted.extend_from_slice(b"\\t"),
            b'\r' => quoted.extend_from_slice(b"\\r"),
            b'"' | b'\\' => quoted.extend_from_slice(&[b'\\', *byte]),
            byte if is_plain(byte) => quoted.push(*byte),
            byte => quoted.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
        }
    }
    quoted.push(b'"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_told_from_content_that_looks_like_them() {
        let patch = b"diff --git a/x b/x\nindex 1..2 100644\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-diff --git a/y b/y\n+++ b/z\n \
                      diff --git a/q b/q\n\\ No newline at end of file\ndiff --git a/b b/b\nold mode 100644\nnew mode 100755\n";
        let headers = b"diff --git a/x b/x\nindex 1..2 100644\ndiff --git a/b b/b\nold mode 100644\nnew mode 100755\n";
        assert_eq!(headers_of(patch), headers);
        assert_eq!(headers_of(b""), b"");
    }

    #[test]
    fn names_are_quoted_as_git_does() {
        assert_eq!(quote(b"a/", b"plain name"), b"a/plain name");
        assert_eq!(quote(b"a/", b"new\nline \"x\" \\ \xff\x01"), b"\"a/new\\nline \\\"x\\\" \\\\ \\377\\001\"");
    }
}
