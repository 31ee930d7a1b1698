//! Emptying a worktree of everything but tracked files: untracked, ignored, nested repositories.
//!
//! Our own, because `git clean` would look into nested repositories, which an agent wrote.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::fs::{AtFlags, FileType, Stat, statat};

use super::{
    folder,
    rules::{Entered, Rules},
    stat_cache::{GITLINK, StatCache},
    walk,
};

/// Removes what the index does not know, and tracked files that a checkout would not have made so: with a second name elsewhere, or with
/// odd permissions. Content is not looked at: the checkout that follows mends it.
///
/// `keep_ignored`: what the tracked ignore rules name stays, such as installed dependencies.
pub(super) fn sweep(folder: impl AsFd, known: &StatCache, keep_ignored: bool) -> io::Result<()> {
    Sweep { known, rules: keep_ignored.then(Rules::new) }.below(folder.as_fd(), &mut Vec::new(), 0)
}

struct Sweep<'a> {
    known: &'a StatCache,
    /// What is ignored, if that stays.
    rules: Option<Rules>,
}

impl Sweep<'_> {
    fn below(&mut self, folder: BorrowedFd<'_>, path: &mut Vec<u8>, depth: usize) -> io::Result<()> {
        let entered = self.enter(folder, path);
        let swept = self.names(folder, path, depth);
        if let (Some(rules), Some(entered)) = (&mut self.rules, entered) {
            rules.leave(&entered);
        }
        swept
    }

    /// The rules of a folder, if they are tracked: an agent's own say nothing here.
    fn enter(&mut self, folder: BorrowedFd<'_>, path: &[u8]) -> Option<Entered> {
        let rules = self.rules.as_mut()?;
        let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
        let is_tracked = self.known.get(&[path, separator, b".gitignore"].concat()).is_some();
        let bytes = is_tracked.then(|| walk::rules_in(folder, b".gitignore")).flatten();
        Some(rules.enter(path, bytes.as_deref(), None))
    }

    fn is_kept(&self, path: &[u8], is_folder: bool) -> bool {
        self.rules.as_ref().is_some_and(|rules| rules.is_ignored(path, is_folder))
    }

    fn names(&mut self, folder: BorrowedFd<'_>, path: &mut Vec<u8>, depth: usize) -> io::Result<()> {
        let known = self.known;
        for name in folder::names(folder)? {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let found = statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            let is_folder = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
            let entry = known.get(path);
            if is_folder && entry.is_some_and(|entry| entry.mode == GITLINK) {
                folder::remove(folder, &name)?;
                rustix::fs::mkdirat(folder, &name, rustix::fs::Mode::from_raw_mode(0o755))?;
            } else if is_folder && depth < folder::DEEPEST && !known.below(path).is_empty() {
                let inner = folder::open_even_if_closed(folder, &name)?;
                if !matches!(found.st_mode & 0o7777, 0o700 | 0o755 | 0o775) {
                    rustix::fs::fchmod(&inner, rustix::fs::Mode::from_raw_mode(0o755))?;
                }
                self.below(inner.as_fd(), path, depth + 1)?;
            } else if entry.is_none() && self.is_kept(path, is_folder) {
                // Whatever lies in there stays too.
            } else if is_folder || entry.is_none() || is_odd(&found) {
                folder::remove(folder, &name)?;
            }
            path.truncate(length);
        }
        Ok(())
    }
}

/// Whether a tracked name is more than a checkout makes of it. Links have no permissions of their own.
fn is_odd(found: &Stat) -> bool {
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => {
            found.st_nlink > 1 || !matches!(found.st_mode & 0o7777, 0o600 | 0o700 | 0o644 | 0o755 | 0o664 | 0o775)
        }
        FileType::Symlink => found.st_nlink > 1,
        _ => true,
    }
}
