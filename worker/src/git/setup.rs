//! What a project puts into a new worktree: files of the operator's, and what its setup command makes there.
//!
//! Copied files are secrets as often as not, and never part of a checkpoint: which they are is written down in `private/`, before the
//! first byte is copied. That the setup is done is noted with what the mirror knows of the worktree, so that it comes and goes with the files.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fmt, fs,
    io::Write as _,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use git2::{Oid, Repository};
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, renameat, unlinkat};

use super::{
    Git, GitError, Mirror, blocking,
    error::{Context as _, PathContext},
    folder,
    stat_cache::StatCache,
    worktree::Place,
    write_whole,
};

/// The setup was done in this worktree.
const SET_UP: &str = "millhand-set-up";
/// What a file is called until it is whole.
const BESIDE: &[u8] = b".millhand-copying";

/// A file to be copied in. Its content is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct CopiedFile {
    /// Where in the worktree.
    pub path: String,
    /// What it holds.
    pub bytes: Vec<u8>,
    /// It is a program.
    pub executable: bool,
}

impl fmt::Debug for CopiedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopiedFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Git {
    /// Whether the setup was done in a session's worktree as it is now.
    pub async fn is_set_up(&self, mirror: &Mirror, session_id: i64) -> Result<bool, GitError> {
        let place = Place::of(self, mirror, session_id);
        blocking(move || Ok(place.meta.join(SET_UP).exists())).await
    }

    /// Notes that it was done. What it made is on the disk by then.
    pub async fn mark_set_up(&self, mirror: &Mirror, session_id: i64) -> Result<(), GitError> {
        let place = Place::of(self, mirror, session_id);
        blocking(move || {
            rustix::fs::syncfs(place.open()?).on("flush", &place.path)?;
            write_whole(&place.meta.join(SET_UP), b"")
        })
        .await
    }

    /// Copies files into a session's worktree, through no link, and over what has their names there, unless that is part of the session's
    /// work. From now on they are in no checkpoint.
    pub async fn copy_in(&self, mirror: &Mirror, session_id: i64, files: Vec<CopiedFile>) -> Result<(), GitError> {
        let (place, record) = (Place::of(self, mirror, session_id), self.copied_record(session_id));
        let _lock = self.lock_session(session_id).await?;
        blocking(move || {
            let known = StatCache::read(&place.meta.join("index"))?;
            for file in &files {
                let path = file.path.as_bytes();
                if known.get(path).is_some() || !known.below(path).is_empty() {
                    return Err(GitError::refused(format!(
                        "{} is part of the repository, or of the session's work: no file can be copied there",
                        file.path
                    )));
                }
            }
            let mut paths = read_record(&record)?;
            paths.extend(files.iter().flat_map(|file| [file.path.clone().into_bytes(), beside(file)]));
            write_record(&record, &paths)?;
            let folder = place.open()?;
            files.iter().try_for_each(|file| put(&folder, file).on("copy to", place.path.join(&file.path)))
        })
        .await
    }

    /// Where it is written down what was copied into a session's worktree: it must survive the mirror, as the files do.
    pub(super) fn copied_record(&self, session_id: i64) -> PathBuf {
        self.private().join("copied").join(format!("s{session_id}"))
    }
}

/// Copies files into a folder below `home` that nobody works in yet and that becomes no checkpoint.
pub(super) fn copy_to(home: &Path, to: &Path, files: &[CopiedFile]) -> Result<(), GitError> {
    let folder = folder::open_beneath(home, to)?;
    files.iter().try_for_each(|file| put(&folder, file).on("copy to", to.join(&file.path)))
}

/// Paths that were copied into a worktree and are no part of the commit that it is measured against.
pub(super) fn left_out(record: &Path, repository: &Repository, base: &str) -> Result<BTreeSet<Vec<u8>>, GitError> {
    let mut paths = read_record(record)?;
    if !paths.is_empty() {
        let tree = || repository.find_commit(Oid::from_str(base)?)?.tree();
        let tree = tree().doing("read the base")?;
        paths.retain(|path| tree.get_path(Path::new(OsStr::from_bytes(path))).is_err());
    }
    Ok(paths)
}

/// Takes what was copied out of a worktree again.
pub(super) fn take_out(record: &Path, top: &OwnedFd) -> Result<(), GitError> {
    for path in read_record(record)? {
        let mut parts = path.split(|byte| *byte == b'/').peekable();
        let mut parent = rustix::io::dup(top).on("open", record)?;
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                folder::remove(&parent, part).on("remove a copied file, listed in", record)?;
                break;
            }
            // What is not there, or is a link by now, holds nothing that was copied.
            let Ok(next) = folder::open_even_if_closed(parent.as_fd(), part) else { break };
            parent = next;
        }
    }
    forget_record(record)
}

pub(super) fn forget_record(record: &Path) -> Result<(), GitError> {
    match fs::remove_file(record) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).on("remove", record),
        _ => Ok(()),
    }
}

impl Place {
    /// Its next session sets it up anew.
    pub(super) fn forget_setup(&self) -> Result<(), GitError> {
        forget_record(&self.meta.join(SET_UP))
    }
}

fn read_record(record: &Path) -> Result<BTreeSet<Vec<u8>>, GitError> {
    match fs::read(record) {
        Ok(bytes) => Ok(bytes.split(|byte| *byte == 0).filter(|path| !path.is_empty()).map(<[u8]>::to_vec).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error).on("read", record),
    }
}

/// Written and flushed before anything is copied.
fn write_record(record: &Path, paths: &BTreeSet<Vec<u8>>) -> Result<(), GitError> {
    let parent = record.parent().unwrap_or(record);
    fs::create_dir_all(parent).on("create", parent)?;
    let beside = record.with_extension("new");
    let bytes: Vec<u8> = paths.iter().flat_map(|path| [path.as_slice(), b"\0"].concat()).collect();
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside).on("write", &beside)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).on("write", &beside)?;
    fs::rename(&beside, record).on("put in place", record)?;
    fs::File::open(parent).and_then(|parent| parent.sync_all()).on("flush", parent)
}

/// The path of the file that it is while it is written.
fn beside(file: &CopiedFile) -> Vec<u8> {
    let folder = file.path.rsplit_once('/').map(|(folder, _)| format!("{folder}/")).unwrap_or_default();
    [folder.as_bytes(), BESIDE].concat()
}

/// Writes one file, beside its place and then by a rename: what has its name is replaced, never followed.
fn put(top: &OwnedFd, file: &CopiedFile) -> std::io::Result<()> {
    let parts: Vec<&[u8]> = file.path.as_bytes().split(|byte| *byte == b'/').collect();
    let Some((name, folders)) = parts.split_last() else { return Ok(()) };
    let mut parent = rustix::io::dup(top)?;
    for part in folders {
        match mkdirat(&parent, *part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        parent = folder::open_folder(&parent, part)?;
    }
    if folder::is_folder(&parent, OsStr::from_bytes(name)) {
        return Err(std::io::Error::other("a folder has its name"));
    }
    // Left by a kill.
    folder::remove(&parent, BESIDE)?;
    let mode = if file.executable { 0o700 } else { 0o600 };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut made = fs::File::from(openat(&parent, BESIDE, flags, Mode::from_raw_mode(mode))?);
    let done = made.write_all(&file.bytes).and_then(|()| Ok(renameat(&parent, BESIDE, &parent, *name)?));
    if done.is_err() {
        // What is left of it would be a secret in a checkpoint.
        let _ = unlinkat(&parent, BESIDE, AtFlags::empty());
    }
    done
}
