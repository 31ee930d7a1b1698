//! Going through folders that an agent can write: one name at a time, never through a link.

use std::{
    ffi::{CStr, OsStr},
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::PermissionsExt},
    },
    path::{Component, Path},
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, renameat, statat, unlinkat};

use super::{GitError, error::PathContext};

/// How deep folders are followed: each step holds a descriptor and a stack frame.
pub(super) const DEEPEST: usize = 200;

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);

/// Opens `path`, which lies below `root`; no part of it below `root` may be a link.
pub(super) fn open_beneath(root: &Path, path: &Path) -> Result<OwnedFd, GitError> {
    let planted = || GitError::Planted { path: path.to_owned() };
    let below = path.strip_prefix(root).map_err(|_| planted())?;
    let mut folder: OwnedFd = fs::File::open(root).on("open", root)?.into();
    for part in below.components() {
        let Component::Normal(name) = part else { return Err(planted()) };
        folder = match open_even_if_closed(folder.as_fd(), name.as_bytes()) {
            Ok(next) => next,
            Err(error) => {
                return match rustix::io::Errno::from_io_error(&error) {
                    Some(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => Err(planted()),
                    _ => Err(error).on("open", path),
                };
            }
        };
    }
    Ok(folder)
}

/// Opens a folder in a folder, not through a link.
pub(super) fn open_folder(parent: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    openat(parent, name, FOLDER, Mode::empty())
}

/// Whether two descriptors are of one folder.
pub(super) fn are_same(one: impl AsFd, other: impl AsFd) -> rustix::io::Result<bool> {
    let (one, other) = (fstat(one)?, fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// Names in a folder, without `.` and `..`. One that was opened and is closed to us otherwise is unlocked.
pub(super) fn names(folder: impl AsFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let entries = match Dir::read_from(&folder) {
        Err(rustix::io::Errno::ACCESS) if unlock(&folder).is_ok() => Dir::read_from(&folder)?,
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_bytes().to_owned());
        }
    }
    Ok(names)
}

/// Removes a name and all below it, through no link. Not being there is fine.
pub(super) fn remove(parent: impl AsFd, name: &[u8]) -> io::Result<()> {
    let mut removal = Removal { top: parent.as_fd(), lifted: vec![name.to_owned()], count: 0 };
    while let Some(name) = removal.lifted.pop() {
        removal.remove_at(removal.top, &name, 0)?;
    }
    Ok(())
}

struct Removal<'a> {
    top: BorrowedFd<'a>,
    /// Folders that were too deep, moved up to be removed from there.
    lifted: Vec<Vec<u8>>,
    count: usize,
}

impl Removal<'_> {
    fn remove_at(&mut self, parent: BorrowedFd<'_>, name: &[u8], depth: usize) -> io::Result<()> {
        let found = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
            return unlinkat(parent, name, AtFlags::empty()).or_else(gone_is_fine);
        }
        if depth > DEEPEST {
            self.count += 1;
            let lifted = format!(".millhand-removing-{}-{}", found.st_ino, self.count).into_bytes();
            renameat(parent, name, self.top, &lifted)?;
            self.lifted.push(lifted);
            return Ok(());
        }
        let folder = open_even_if_closed(parent, name)?;
        let names = names(&folder)?;
        if !names.is_empty() && found.st_mode & 0o300 != 0o300 {
            rustix::fs::fchmod(&folder, Mode::RWXU)?;
        }
        for inner in names {
            self.remove_at(folder.as_fd(), &inner, depth + 1)?;
        }
        unlinkat(parent, name, AtFlags::REMOVEDIR).or_else(gone_is_fine)
    }
}

/// Opens a folder, and gives us permissions on it first if it has none.
pub(super) fn open_even_if_closed(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    match open_folder(parent, name) {
        Err(rustix::io::Errno::ACCESS) => {
            // By descriptor: a name could have become a link by now.
            unlock(&handle_of(parent, name)?)?;
            Ok(open_folder(parent, name)?)
        }
        other => Ok(other?),
    }
}

/// Whoever moves a folder elsewhere writes its `..`: gives us permission for that. What is no folder needs none.
pub(super) fn make_movable(parent: impl AsFd, name: &[u8]) -> io::Result<()> {
    match handle_of(parent, name) {
        Ok(handle) => unlock(&handle),
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR | rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A descriptor for a folder that may be closed to us.
fn handle_of(parent: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    openat(parent, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Lets us list, write and go through a folder, if it does not already.
pub(super) fn unlock(folder: impl AsFd) -> io::Result<()> {
    let mode = fstat(&folder)?.st_mode & 0o7777;
    if mode & 0o700 == 0o700 {
        return Ok(());
    }
    let by_descriptor = format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd());
    fs::set_permissions(by_descriptor, fs::Permissions::from_mode(mode | 0o700))
}

fn gone_is_fine(error: rustix::io::Errno) -> io::Result<()> {
    if error == rustix::io::Errno::NOENT { Ok(()) } else { Err(error.into()) }
}

/// Whether there is a plain folder of that name.
pub(super) fn is_folder(parent: impl AsFd, name: impl AsRef<OsStr>) -> bool {
    statat(parent, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

/// Whether there is a plain file of that name.
pub(super) fn is_file(parent: impl AsFd, name: impl AsRef<OsStr>) -> bool {
    statat(parent, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::RegularFile)
}
