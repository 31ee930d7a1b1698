//! What worktrees take on disk, and which folders there are.

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, FileType, statat};

use super::{Git, GitError, blocking, folder};

/// What a folder takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Bytes of its blocks. A file with several links counts each time.
    pub bytes: u64,
    /// Names looked at.
    pub entries: u64,
    /// There was more than was allowed to be looked at: it takes at least so much.
    pub at_least: bool,
}

impl Git {
    /// Adds up a folder, looking at so many names at most. What cannot be read counts nothing.
    pub async fn disk_use(&self, folder: &Path, most_entries: u64) -> Result<DiskUse, GitError> {
        let (home, folder) = (self.home().root().to_owned(), folder.to_owned());
        blocking(move || {
            let mut sum = DiskUse::default();
            // Never by its path alone: an agent could have put a pipe there, or a link.
            if let Ok(opened) = folder::open_beneath(&home, &folder) {
                add(opened.as_fd(), &mut sum, most_entries, 0);
            }
            Ok(sum)
        })
        .await
    }

    /// Folders of sessions on this host, whether or not any database knows them: project, session, path.
    pub async fn session_folders(&self) -> Result<Vec<(i64, i64, PathBuf)>, GitError> {
        let agents = self.home().agents();
        blocking(move || {
            let mut found = Vec::new();
            for (project, path) in numbered(&agents, "") {
                for (session, path) in numbered(&path.join("worktrees"), "s") {
                    found.push((project, session, path));
                }
            }
            found.sort();
            Ok(found)
        })
        .await
    }

    /// Names of the trash's slots.
    pub async fn trash_slots(&self) -> Result<Vec<String>, GitError> {
        let trash = self.home().trash();
        blocking(move || {
            let names = fs::read_dir(&trash).into_iter().flatten().flatten();
            Ok(names.filter_map(|entry| entry.file_name().into_string().ok()).collect())
        })
        .await
    }
}

fn numbered(folder: &Path, prefix: &str) -> Vec<(i64, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |entry: &fs::DirEntry| entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok();
    entries.filter_map(|entry| Some((number(&entry)?, entry.path()))).collect()
}

fn add(folder: BorrowedFd<'_>, sum: &mut DiskUse, most: u64, depth: usize) {
    let Ok(names) = folder::names(folder) else { return };
    for name in names {
        if sum.entries >= most || depth > folder::DEEPEST {
            sum.at_least = true;
            return;
        }
        sum.entries += 1;
        let Ok(found) = statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        sum.bytes += u64::try_from(found.st_blocks).unwrap_or(0) * 512;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory
            && let Ok(inner) = folder::open_folder(folder, &name)
        {
            add(inner.as_fd(), sum, most, depth + 1);
        }
    }
}
