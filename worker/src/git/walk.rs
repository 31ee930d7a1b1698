//! One walk over a worktree, file by file, that gives a tree and an index.
//!
//! Why not git's own `add`: it runs filters, makes nested repositories into links to commits that nobody has, and gives up on one bad path.
//! Every name is opened relative to its folder and never through a link, so what is swapped while we look cannot lead us outside; pipes and
//! devices are not opened. One bad path becomes a note.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use git2::{IndexEntry, ObjectType, Oid};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat},
    io::Errno,
};
use sha2::Digest;

use super::{
    GitError,
    error::PathContext,
    folder,
    names::is_valid_name,
    normalise::{self, POINTER_LIMIT},
    rules::{Attributes, Rules},
    stat_cache::{GITLINK, Horizon, StatCache, entry_of},
    store_object::Objects,
};

/// Files above this are stored in pieces, unless their bytes change on the way.
const STREAM_ABOVE: u64 = 16 << 20;
/// Files above this are stored as they are, whatever the attributes say.
const NORMALISE_UP_TO: u64 = 512 << 20;
/// Ignore and attribute files above this are not read.
const RULES_UP_TO: u64 = 4 << 20;
/// How often a file that changes while it is read is tried.
const TRIES: usize = 3;
/// Notes are for people: more of one kind say nothing new.
const NOTES_LIMIT: usize = 200;

const FOLDER_MODE: u32 = 0o040_000;
const LINK_MODE: u32 = 0o120_000;

/// The bytes that a checkout of this blob would write at this path.
pub(super) type CheckoutBytes<'a> = dyn Fn(&[u8], Oid) -> Option<Vec<u8>> + 'a;

/// What a walk found.
pub(super) struct Walked<'a> {
    pub(super) tree: Oid,
    /// All files, in the order of an index.
    pub(super) entries: Vec<Entry<'a>>,
    /// Some entry is not as it was known.
    pub(super) changed: bool,
    pub(super) notes: Vec<String>,
    /// Paths with a flag for the reviewer.
    pub(super) flagged: Vec<(Vec<u8>, &'static str)>,
}

/// A file that was found.
pub(super) enum Entry<'a> {
    /// As it was known.
    Known(&'a IndexEntry),
    /// New, or read again.
    New(IndexEntry),
}

impl Entry<'_> {
    /// It, known or new.
    pub(super) fn get(&self) -> &IndexEntry {
        match self {
            Self::Known(entry) => entry,
            Self::New(entry) => entry,
        }
    }
}

/// A walk that is under way.
pub(super) struct Walk<'a> {
    objects: &'a Objects<'a>,
    known: &'a StatCache,
    checkout_bytes: &'a CheckoutBytes<'a>,
    lfs: &'a Path,
    /// Paths that are nobody's work: what was copied in.
    left_out: &'a BTreeSet<Vec<u8>>,
    horizon: Horizon,
    rules: Rules,
    path: Vec<u8>,
    out: Walked<'a>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        objects: &'a Objects<'a>,
        known: &'a StatCache,
        lfs: &'a Path,
        left_out: &'a BTreeSet<Vec<u8>>,
        checkout_bytes: &'a CheckoutBytes<'a>,
    ) -> Self {
        let out = Walked {
            tree: Oid::ZERO_SHA1,
            entries: Vec::new(),
            changed: false,
            notes: Vec::new(),
            flagged: Vec::new(),
        };
        let rules = Rules::new();
        Self { objects, known, checkout_bytes, lfs, left_out, horizon: Horizon::now(), rules, path: Vec::new(), out }
    }

    /// Walks the folder.
    pub(super) fn run(mut self, top: BorrowedFd<'_>) -> Result<Walked<'a>, GitError> {
        let entries = self.folder(top, false, 0)?;
        self.out.tree = self.objects.put_tree(&entries)?;
        self.out.changed |= self.out.entries.len() != self.known.entries().len();
        Ok(self.out)
    }

    /// The tree entries of a folder. In an ignored one, only tracked files count.
    fn folder(&mut self, folder: BorrowedFd<'_>, ignored: bool, depth: usize) -> Result<Vec<TreeEntry>, GitError> {
        let mut found: Vec<(Vec<u8>, Option<Stat>)> = Vec::new();
        for name in folder::names(folder).on("list", self.shown())? {
            if name == b".git" {
                if depth > 0 {
                    self.note("nested repository, its files taken as plain files:");
                }
            } else {
                match look_at(folder, &name) {
                    Err(Errno::NOENT) => {}
                    looked => found.push((name, looked.ok())),
                }
            }
        }
        // A folder sorts as if its name ended in a slash, but not where a submodule is.
        let separator: &[u8] = if self.path.is_empty() { b"" } else { b"/" };
        let order = |(name, stat): &(Vec<u8>, Option<Stat>)| {
            let path = [self.path.as_slice(), separator, name].concat();
            let known = self.known.get(&path);
            let is_folder = match stat {
                Some(stat) => is_folder(stat) && known.is_none_or(|entry| entry.mode != GITLINK),
                None => known.is_none(),
            };
            let mut order = name.clone();
            order.extend(is_folder.then_some(b'/'));
            order
        };
        found.sort_by_cached_key(order);
        let mut rules_of = |name: &[u8]| {
            let (_, stat) = found.iter().find(|(found, _)| found == name)?;
            let stat = stat.as_ref()?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || size_of(stat) > RULES_UP_TO {
                self.note("rules not read, no plain file or too large:");
                return None;
            }
            rules_in(folder, name)
        };
        let (ignore, attributes) = (rules_of(b".gitignore"), rules_of(b".gitattributes"));
        let entered = self.rules.enter(&self.path, ignore.as_deref(), attributes.as_deref());
        let mut tree = Vec::with_capacity(found.len());
        for (name, stat) in found {
            let length = self.path.len();
            if length > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&name);
            let kept = match stat {
                Some(stat) => self.name(folder, &name, &stat, ignored, depth)?,
                None => self.unseen()?,
            };
            if let Some((mode, id)) = kept {
                tree.push((name, mode, id));
            }
            self.path.truncate(length);
        }
        self.rules.leave(&entered);
        Ok(tree)
    }

    /// What one name becomes in the tree, if anything.
    fn name(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        ignored: bool,
        depth: usize,
    ) -> Result<Option<(u32, Oid)>, GitError> {
        if !is_valid_name(name) {
            self.note("skipped, a name that git does not allow:");
            return Ok(None);
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let known = self.known.get(&self.path);
        if kind == FileType::Directory {
            if let Some(entry) = known.filter(|entry| entry.mode == GITLINK) {
                return Ok(Some(self.submodule(parent, name, entry)));
            }
            return self.inner_folder(parent, name, ignored, depth);
        }
        let is_copy = || self.left_out.contains(&self.path);
        if known.is_none() && (ignored || is_copy() || self.rules.is_ignored(&self.path, false)) {
            return Ok(None);
        }
        match kind {
            FileType::RegularFile => self.file(parent, name, stat),
            FileType::Symlink => self.link(parent, name, stat),
            _ => {
                self.note("skipped, neither file nor link nor folder:");
                Ok(None)
            }
        }
    }

    fn inner_folder(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        ignored: bool,
        depth: usize,
    ) -> Result<Option<(u32, Oid)>, GitError> {
        let ignored = ignored || self.rules.is_ignored(&self.path, true);
        if ignored && self.known.below(&self.path).is_empty() {
            return Ok(None);
        }
        let entries = if depth >= folder::DEEPEST {
            self.note("skipped, nested too deeply:");
            Vec::new()
        } else {
            match folder::open_even_if_closed(parent, name) {
                Ok(inner) => self.folder(inner.as_fd(), ignored, depth + 1)?,
                Err(_) => {
                    self.note("could not be opened, so taken as it was before:");
                    self.known_below()?
                }
            }
        };
        // git has no empty folders.
        if entries.is_empty() {
            return Ok(None);
        }
        Ok(Some((FOLDER_MODE, self.objects.put_tree(&entries)?)))
    }

    /// A name that is there and cannot be looked at: what was known of it is better than a deletion.
    fn unseen(&mut self) -> Result<Option<(u32, Oid)>, GitError> {
        self.note("could not be looked at, so taken as it was before:");
        if let Some(entry) = self.known.get(&self.path) {
            self.out.entries.push(Entry::Known(entry));
            return Ok(Some((entry.mode, entry.id)));
        }
        let entries = self.known_below()?;
        Ok(if entries.is_empty() { None } else { Some((FOLDER_MODE, self.objects.put_tree(&entries)?)) })
    }

    /// The tree entries of this folder as it was known.
    fn known_below(&mut self) -> Result<Vec<TreeEntry>, GitError> {
        let below = self.known.below(&self.path);
        let entries = self.known_tree(below, self.path.len() + 1)?;
        self.out.entries.extend(below.iter().map(Entry::Known));
        Ok(entries)
    }

    /// The tree entries of a folder as the index knows it: `below` are its files, `skip` the length of the folder's path with its slash.
    fn known_tree(&self, below: &[IndexEntry], skip: usize) -> Result<Vec<TreeEntry>, GitError> {
        let mut tree = Vec::new();
        let mut rest = below;
        while let Some(first) = rest.first() {
            let name = &first.path[skip..];
            if let Some(slash) = name.iter().position(|byte| *byte == b'/') {
                let prefix = &first.path[..=skip + slash];
                let count = rest.partition_point(|entry| entry.path.starts_with(prefix));
                let inner = self.known_tree(&rest[..count], prefix.len())?;
                tree.push((name[..slash].to_owned(), FOLDER_MODE, self.objects.put_tree(&inner)?));
                rest = &rest[count..];
            } else {
                tree.push((name.to_owned(), first.mode, first.id));
                rest = &rest[1..];
            }
        }
        Ok(tree)
    }

    /// Stays the commit that it was. Looking for another would mean to read what an agent wrote as a repository.
    fn submodule(&mut self, parent: BorrowedFd<'_>, name: &[u8], entry: &'a IndexEntry) -> (u32, Oid) {
        let is_empty = folder::open_folder(parent, name).and_then(folder::names).is_ok_and(|names| names.is_empty());
        if !is_empty {
            self.note("submodule with files in it: its commit stays the same, its files are not in the change set:");
        }
        self.out.entries.push(Entry::Known(entry));
        (entry.mode, entry.id)
    }

    fn link(&mut self, parent: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<Option<(u32, Oid)>, GitError> {
        if name.eq_ignore_ascii_case(b".gitmodules") {
            self.note("skipped, git does not allow this to be a link:");
            return Ok(None);
        }
        if let Some(entry) = self.unchanged(LINK_MODE, stat) {
            return Ok(Some(entry));
        }
        let target = match readlinkat(parent, name, Vec::new()) {
            Ok(target) => target,
            // Gone, or no link any more.
            Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
            Err(_) => return self.unseen(),
        };
        let id = self.objects.put(ObjectType::Blob, target.as_bytes())?;
        Ok(Some(self.push(stat, LINK_MODE, id)))
    }

    fn file(&mut self, parent: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<Option<(u32, Oid)>, GitError> {
        if let Some(entry) = self.unchanged(file_mode(stat), stat) {
            return Ok(Some(entry));
        }
        let attributes = self.rules.attributes(&self.path);
        for _ in 0..TRIES {
            let Some((file, stat)) = open_file(parent, name) else { break };
            if let Some(id) = self.store(file, &stat, &attributes)? {
                return Ok(Some(self.push(&stat, file_mode(&stat), id)));
            }
        }
        // Gone, replaced, closed to us, or changing all the time. What was known is better than a deletion.
        if look_at(parent, name).is_err_and(|error| error == Errno::NOENT) {
            return Ok(None);
        }
        self.note("could not be read whole, so taken as it was before:");
        let Some(known) = self.known.get(&self.path).filter(|entry| entry.mode & 0o170_000 == 0o100_000) else {
            return Ok(None);
        };
        self.out.entries.push(Entry::Known(known));
        Ok(Some((known.mode, known.id)))
    }

    /// The file's blob; `None` if it changed while it was read.
    fn store(&mut self, mut file: File, stat: &Stat, attributes: &Attributes) -> Result<Option<Oid>, GitError> {
        let size = size_of(stat);
        match attributes.filter.as_deref() {
            Some(b"lfs") if self.is_as_stored(&mut file, size)? => {
                return Ok(self.known.get(&self.path).map(|entry| entry.id));
            }
            Some(b"lfs") => return self.store_lfs(file, size),
            Some(_) => self.flag("attributes", "has an external filter, which is not run; stored as it is:"),
            None => {}
        }
        let special = normalise::changes_bytes(attributes) || attributes.encoding.is_some();
        if size > NORMALISE_UP_TO || (size > STREAM_ABOVE && !special) {
            if special {
                self.flag("attributes", "too large to be normalised, stored as it is:");
            }
            return self.objects.put_stream(size, file);
        }
        let Some(bytes) = read_exactly(&mut file, size) else { return Ok(None) };
        let known = self.known.get(&self.path).map(|entry| entry.id);
        if attributes.encoding.is_some() {
            if let Some(id) = known
                && (self.checkout_bytes)(&self.path, id).is_some_and(|expected| expected == bytes)
            {
                return Ok(Some(id));
            }
            self.flag("encoding", "has a working-tree-encoding, stored as it is:");
            return self.objects.put(ObjectType::Blob, &bytes).map(Some);
        }
        if special && known.is_some() && Oid::hash_object(ObjectType::Blob, &bytes).ok() == known {
            // Touched, not changed: a project may hold files that its own attributes would have otherwise.
            return Ok(known);
        }
        let bytes = normalise::normalise(attributes, bytes, || self.objects.blob(known?).ok());
        self.objects.put(ObjectType::Blob, &bytes).map(Some)
    }

    /// The file is, byte for byte, the blob that it was: a project may hold content that its own attributes want in LFS.
    fn is_as_stored(&self, file: &mut File, size: u64) -> Result<bool, GitError> {
        let Some(known) = self.known.get(&self.path).filter(|entry| entry.mode != GITLINK) else { return Ok(false) };
        if self.objects.size(known.id) != Some(size) {
            return Ok(false);
        }
        let id = if size > STREAM_ABOVE {
            self.objects.put_stream(size, &*file)?
        } else {
            read_exactly(file, size).and_then(|bytes| Oid::hash_object(ObjectType::Blob, &bytes).ok())
        };
        file.seek(SeekFrom::Start(0)).on("read", self.shown())?;
        Ok(id == Some(known.id))
    }

    /// A pointer stays one; content goes to the mirror's LFS store, and a pointer takes its place.
    fn store_lfs(&mut self, mut file: File, size: u64) -> Result<Option<Oid>, GitError> {
        if size < POINTER_LIMIT as u64 {
            let Some(bytes) = read_exactly(&mut file, size) else { return Ok(None) };
            if normalise::is_lfs_pointer(&bytes) {
                return self.objects.put(ObjectType::Blob, &bytes).map(Some);
            }
            file.seek(SeekFrom::Start(0)).on("read", self.shown())?;
        }
        std::fs::create_dir_all(self.lfs).on("create", self.lfs)?;
        let mut kept = tempfile::NamedTempFile::new_in(self.lfs).on("write into", self.lfs)?;
        let (mut hash, mut buffer, mut total) = (normalise::lfs_hash(), vec![0; 256 << 10], 0_u64);
        loop {
            let Ok(count) = file.read(&mut buffer) else { return Ok(None) };
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            kept.write_all(&buffer[..count]).on("write into", self.lfs)?;
            total += count as u64;
            if total > size {
                return Ok(None);
            }
        }
        if total != size {
            return Ok(None);
        }
        let name = normalise::hex(&hash.finalize());
        let folder = self.lfs.join("objects").join(&name[..2]).join(&name[2..4]);
        std::fs::create_dir_all(&folder).on("create", &folder)?;
        kept.persist(folder.join(&name)).map_err(|error| error.error).on("write into", &folder)?;
        self.objects.put(ObjectType::Blob, &normalise::lfs_pointer(&name, size)).map(Some)
    }

    fn unchanged(&mut self, mode: u32, stat: &Stat) -> Option<(u32, Oid)> {
        let entry = self.known.get(&self.path)?;
        (entry.mode == mode && self.known.is_current(entry, stat)).then(|| {
            self.out.entries.push(Entry::Known(entry));
            (entry.mode, entry.id)
        })
    }

    fn push(&mut self, stat: &Stat, mode: u32, id: Oid) -> (u32, Oid) {
        let mut entry = entry_of(stat, mode, id, self.path.clone());
        self.horizon.distrust_if_new(&mut entry);
        self.out.changed = true;
        self.out.entries.push(Entry::New(entry));
        (mode, id)
    }

    fn flag(&mut self, flag: &'static str, why: &str) {
        self.out.flagged.push((self.path.clone(), flag));
        self.note(why);
    }

    fn note(&mut self, what: &str) {
        if self.out.notes.len() < NOTES_LIMIT {
            let shown = self.path.escape_ascii().to_string();
            self.out.notes.push(format!("{what} {}", if shown.is_empty() { "." } else { &shown }));
        } else if self.out.notes.len() == NOTES_LIMIT {
            self.out.notes.push("more paths like these are not listed".to_owned());
        }
    }

    fn shown(&self) -> std::path::PathBuf {
        String::from_utf8_lossy(&self.path).into_owned().into()
    }
}

type TreeEntry = (Vec<u8>, u32, Oid);

/// The bytes of a file with rules.
pub(super) fn rules_in(folder: BorrowedFd<'_>, name: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut file, stat) = open_file(folder, name)?;
    Read::by_ref(&mut file).take(size_of(&stat).min(RULES_UP_TO)).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// What is under a name. A folder whose names can be listed but not looked at is opened for us first.
fn look_at(folder: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Stat> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::ACCESS) if folder::unlock(folder).is_ok() => statat(folder, name, AtFlags::SYMLINK_NOFOLLOW),
        looked => looked,
    }
}

fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn file_mode(stat: &Stat) -> u32 {
    if stat.st_mode & 0o100 != 0 { 0o100_755 } else { 0o100_644 }
}

/// Opens a plain file, without waiting on a pipe that took its place.
fn open_file(parent: BorrowedFd<'_>, name: &[u8]) -> Option<(File, Stat)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(parent, name, flags, Mode::empty()).ok()?;
    let stat = fstat(&file).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then(|| (file.into(), stat))
}

/// Exactly `size` bytes; `None` if there are more or fewer.
fn read_exactly(file: &mut File, size: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).ok()?);
    file.take(size + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 == size).then_some(bytes)
}
