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
    stat_cache::{GITLINK, StatCache},
};

/// Removes what the index does not know, and tracked files that a checkout would not have made so: with a second name elsewhere, or with
/// odd permissions. Content is not looked at: the checkout that follows mends it.
pub(super) fn sweep(folder: impl AsFd, known: &StatCache) -> io::Result<()> {
    sweep_below(folder.as_fd(), known, &mut Vec::new(), 0)
}

fn sweep_below(folder: BorrowedFd<'_>, known: &StatCache, path: &mut Vec<u8>, depth: usize) -> io::Result<()> {
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
            sweep_below(inner.as_fd(), known, path, depth + 1)?;
        } else if is_folder || entry.is_none() || is_odd(&found) {
            folder::remove(folder, &name)?;
        }
        path.truncate(length);
    }
    Ok(())
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
