//! The session's index as a memory of what files looked like when they were last read.
//!
//! A file whose stat data is the same is not read again, except where the clock is too coarse to tell ("racily clean", as git calls
//! it): changed in the same tick as the index was written, a file can have new content and an old time.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use git2::{Index, IndexEntry, IndexTime, Oid};
use rustix::fs::Stat;

use super::{GitError, error::Context};

/// Mode of a submodule's entry.
pub(super) const GITLINK: u32 = 0o160_000;

/// What was known after the last checkpoint, or checkout.
pub(super) struct StatCache {
    entries: Vec<IndexEntry>,
    written: (i64, i64),
}

impl StatCache {
    /// Reads an index; one that is missing knows nothing.
    pub(super) fn read(path: &Path) -> Result<Self, GitError> {
        let written = rustix::fs::stat(path).map_or((0, 0), |found| (found.st_mtime, nanoseconds(found.st_mtime_nsec)));
        let index = Index::open(path).doing("read the session's index")?;
        Ok(Self { entries: index.iter().collect(), written })
    }

    /// From now on, no file is surely what its entry says.
    pub(super) fn distrust(&mut self) {
        self.written = (0, 0);
    }

    /// Everything known, in the order of an index.
    pub(super) fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// The entry of a path.
    pub(super) fn get(&self, path: &[u8]) -> Option<&IndexEntry> {
        self.entries.binary_search_by(|entry| entry.path.as_slice().cmp(path)).ok().map(|at| &self.entries[at])
    }

    /// The entries in a folder, at any depth.
    pub(super) fn below(&self, folder: &[u8]) -> &[IndexEntry] {
        let mut prefix = folder.to_owned();
        prefix.push(b'/');
        let from = self.entries.partition_point(|entry| entry.path.as_slice() < prefix.as_slice());
        let count = self.entries[from..].partition_point(|entry| entry.path.starts_with(&prefix));
        &self.entries[from..from + count]
    }

    /// The file is surely what the entry says.
    pub(super) fn is_current(&self, entry: &IndexEntry, found: &Stat) -> bool {
        let fresh = entry_of(found, entry.mode, entry.id, Vec::new());
        let same = entry.mtime == fresh.mtime
            && entry.ctime == fresh.ctime
            && entry.file_size == fresh.file_size
            && entry.ino == fresh.ino;
        same && (found.st_mtime, nanoseconds(found.st_mtime_nsec)) < self.written
    }
}

/// An index entry with a file's stat data, cut as the format cuts it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the index keeps the low 32 bits of each number"
)]
pub(super) fn entry_of(found: &Stat, mode: u32, id: Oid, path: Vec<u8>) -> IndexEntry {
    IndexEntry {
        ctime: IndexTime::new(found.st_ctime as i32, nanoseconds(found.st_ctime_nsec) as u32),
        mtime: IndexTime::new(found.st_mtime as i32, nanoseconds(found.st_mtime_nsec) as u32),
        dev: found.st_dev as u32,
        ino: found.st_ino as u32,
        mode,
        uid: found.st_uid,
        gid: found.st_gid,
        file_size: found.st_size as u32,
        id,
        flags: 0,
        flags_extended: 0,
        path,
    }
}

#[expect(clippy::cast_possible_wrap, reason = "nanoseconds are below 10^9; their type differs by platform")]
fn nanoseconds(value: u64) -> i64 {
    value as i64
}

/// The moment before which a file's time proves that it was not changed since it was read.
#[derive(Clone, Copy)]
pub(super) struct Horizon(SystemTime);

impl Horizon {
    /// Taken before the first file is read.
    pub(super) fn now() -> Self {
        Self(SystemTime::now())
    }

    /// Makes an entry that is too new to be trusted never match again, so that the file is read next time.
    ///
    /// The margin is a tick of the kernel's clock; two seconds where the file system has no finer times.
    pub(super) fn distrust_if_new(self, entry: &mut IndexEntry) {
        let margin = if entry.mtime.nanoseconds() == 0 { 2_000 } else { 20 };
        let limit = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let limit = limit.saturating_sub(std::time::Duration::from_millis(margin));
        let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
        let time = (i64::from(entry.mtime.seconds()), i64::from(entry.mtime.nanoseconds()));
        if time >= (seconds, i64::from(limit.subsec_nanos())) {
            entry.mtime = IndexTime::new(0, 0);
            entry.file_size = 0;
        }
    }
}
