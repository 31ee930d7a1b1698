//! The user that agents run as, where the worker is root and another one was named; and giving files to it.
//!
//! What the worker makes in the agents' folders belongs to root first, and is handed over before an agent is to work with it. An agent of
//! the same user may be at work beside: nothing is followed, and nothing is given that has another name somewhere else.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt},
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, openat, statat},
    io::Errno,
};

use super::RunAs;

/// How deep folders are followed: each step holds a descriptor and a stack frame.
const DEEPEST: usize = 200;
const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);

/// Another user than ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentUser {
    /// Its name.
    pub name: String,
    /// Its ids.
    pub run_as: RunAs,
    /// Its home, with its logins, its configuration, its toolchains.
    pub home: PathBuf,
}

/// Why a user cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// We are not root.
    #[error("only a worker that runs as root can run agents as another user")]
    NotRoot,
    /// There is no such user.
    #[error("there is no user {0} in /etc/passwd: add one, such as with useradd --create-home {0}")]
    Unknown(String),
    /// That is root.
    #[error("{0} is root: name a user without rights of its own")]
    Root(String),
    /// It cannot get to where it is to work.
    #[error("{user} cannot enter {}: let it through (chmod o+x)", folder.display())]
    Closed {
        /// The user.
        user: String,
        /// The folder.
        folder: PathBuf,
    },
    /// The users cannot be read.
    #[error("/etc/passwd: {0}")]
    Io(#[from] io::Error),
}

impl AgentUser {
    /// Finds one by its name.
    pub fn find(name: &str) -> Result<Self, UserError> {
        if !rustix::process::geteuid().is_root() {
            return Err(UserError::NotRoot);
        }
        Self::in_passwd(&fs::read_to_string("/etc/passwd")?, name)
    }

    fn in_passwd(users: &str, name: &str) -> Result<Self, UserError> {
        let unknown = || UserError::Unknown(name.to_owned());
        let line = users.lines().find(|line| line.split(':').next() == Some(name)).ok_or_else(unknown)?;
        let fields: Vec<_> = line.split(':').collect();
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u32>().ok()).ok_or_else(unknown);
        let run_as = RunAs { uid: number(2)?, gid: number(3)? };
        if run_as.uid == 0 {
            return Err(UserError::Root(name.to_owned()));
        }
        let home = fields.get(5).filter(|home| !home.is_empty()).map_or_else(|| PathBuf::from("/"), PathBuf::from);
        Ok(Self { name: name.to_owned(), run_as, home })
    }

    /// An environment as it would be this user's: what leads into the home of whoever started us is left out.
    pub fn environment(&self, ours: &BTreeMap<OsString, OsString>) -> BTreeMap<OsString, OsString> {
        let old = ours.get(OsStr::new("HOME")).map(PathBuf::from).filter(|home| home.parent().is_some());
        let leads_home = |value: &OsStr| old.as_ref().is_some_and(|old| Path::new(value).starts_with(old));
        // Of a list, such as PATH, the rest stays.
        let rest = |value: &OsStr| {
            let parts: Vec<_> = value.as_bytes().split(|byte| *byte == b':').map(OsStr::from_bytes).collect();
            let rest: Vec<_> = parts.iter().filter(|part| !leads_home(part)).copied().collect();
            (!rest.is_empty()).then(|| rest.join(OsStr::new(":")))
        };
        let is_ours = |name: &OsStr| {
            name == "SHELL" || name == "MAIL" || name.to_str().is_some_and(|name| name.starts_with("XDG_"))
        };
        let kept = ours.iter().filter(|(name, _)| !is_ours(name));
        let mut environment: BTreeMap<_, _> =
            kept.filter_map(|(name, value)| Some((name.clone(), rest(value)?))).collect();
        environment.insert("HOME".into(), self.home.clone().into());
        for name in ["USER", "LOGNAME"] {
            environment.insert(name.into(), self.name.clone().into());
        }
        environment
    }

    /// Fails at the first folder of a path, itself included if it is one, that this user cannot pass.
    pub fn check_reaches(&self, path: &Path) -> Result<(), UserError> {
        let mut folders: Vec<_> = path.ancestors().filter(|folder| folder.is_dir()).collect();
        folders.reverse();
        for folder in folders {
            let metadata = fs::metadata(folder)?;
            let bit = if metadata.uid() == self.run_as.uid {
                0o100
            } else if metadata.gid() == self.run_as.gid {
                0o010
            } else {
                0o001
            };
            if metadata.mode() & bit == 0 {
                return Err(UserError::Closed { user: self.name.clone(), folder: folder.to_owned() });
            }
        }
        Ok(())
    }
}

/// Gives a folder below `root`, and all that is in it, to the agents' user; to ourselves if none is named any more. Only root can, and
/// has to: for others it does nothing.
pub fn hand_over(root: &Path, folder: &Path, to: Option<RunAs>) -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if !uid.is_root() {
        return Ok(());
    }
    let folder = open_beneath(root, folder)?;
    let ourselves = RunAs { uid: uid.as_raw(), gid: gid.as_raw() };
    if to.is_none() && fstat(&folder)?.st_uid == ourselves.uid {
        return Ok(());
    }
    give_folder(folder.as_fd(), to.unwrap_or(ourselves), 0)
}

fn open_beneath(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let outside = || io::Error::other(format!("{} is not below {}", path.display(), root.display()));
    let mut folder: OwnedFd = fs::File::open(root)?.into();
    for part in path.strip_prefix(root).map_err(|_| outside())?.components() {
        let Component::Normal(name) = part else { return Err(outside()) };
        folder = openat(&folder, name, FOLDER, Mode::empty())?;
    }
    Ok(folder)
}

fn give_folder(folder: BorrowedFd<'_>, to: RunAs, depth: usize) -> io::Result<()> {
    let own = fstat(folder)?;
    if own.st_uid != to.uid {
        chown(folder, to)?;
    }
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // What is gone, or has become something else, since it was looked at is the agent's own by now.
        match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if found.st_dev != own.st_dev => {}
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
                match openat(folder, name, FOLDER, Mode::empty()) {
                    Ok(inner) if depth < DEEPEST => give_folder(inner.as_fd(), to, depth + 1)?,
                    Ok(_) | Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(found) if found.st_uid != to.uid => {
                let how = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match openat(folder, name, how, Mode::empty()) {
                    Ok(file) => give_file(&file, to)?,
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// By descriptor, so that what is given is what was looked at.
fn give_file(file: &OwnedFd, to: RunAs) -> io::Result<()> {
    let found = fstat(file)?;
    let is_folder = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
    if is_folder || found.st_nlink != 1 || found.st_uid == to.uid {
        return Ok(());
    }
    chown(file.as_fd(), to)
}

fn chown(what: BorrowedFd<'_>, to: RunAs) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(to.uid), Gid::from_raw(to.gid));
    Ok(chownat(what, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const USERS: &str = "root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\ncoder:x:1001:1002::/home/coder:/bin/sh\n";

    #[test]
    fn a_user_is_found_by_its_name_and_is_never_root() {
        let coder = AgentUser::in_passwd(USERS, "coder").expect("a user");
        assert_eq!((coder.run_as, coder.home), (RunAs { uid: 1001, gid: 1002 }, PathBuf::from("/home/coder")));
        assert!(matches!(AgentUser::in_passwd(USERS, "toor"), Err(UserError::Root(_))));
        assert!(matches!(AgentUser::in_passwd(USERS, "code"), Err(UserError::Unknown(_))));
    }

    #[test]
    fn its_environment_leads_to_its_own_home() {
        let ours = [
            ("HOME", "/root"),
            ("PATH", "/root/.cargo/bin:/usr/bin"),
            ("CARGO_HOME", "/root/.cargo"),
            ("GOROOT", "/usr/lib/go"),
            ("XDG_CONFIG_HOME", "/etc/xdg"),
            ("USER", "root"),
        ];
        let ours = ours.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let theirs = AgentUser::in_passwd(USERS, "coder").expect("a user").environment(&ours);
        let theirs: Vec<_> =
            theirs.iter().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect();
        assert_eq!(theirs, ["GOROOT=/usr/lib/go", "HOME=/home/coder", "LOGNAME=coder", "PATH=/usr/bin", "USER=coder"]);
    }

    #[test]
    fn what_is_handed_over_is_all_in_the_folder_and_nothing_that_a_link_leads_to() -> io::Result<()> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let place = tempfile::tempdir()?;
        let root = place.path();
        fs::create_dir_all(root.join("own/deep"))?;
        fs::create_dir(root.join("other"))?;
        for file in ["own/deep/file", "other/file", "other/linked"] {
            fs::write(root.join(file), "x")?;
        }
        symlink(root.join("other"), root.join("own/link"))?;
        fs::hard_link(root.join("other/linked"), root.join("own/linked"))?;
        let owner = |path: &str| fs::symlink_metadata(root.join(path)).map(|found| found.uid());
        hand_over(root, &root.join("own"), Some(RunAs { uid: 65_534, gid: 65_534 }))?;
        for path in ["own", "own/deep", "own/deep/file", "own/link"] {
            assert_eq!(owner(path)?, 65_534, "{path}");
        }
        for path in ["other", "other/file", "own/linked"] {
            assert_eq!(owner(path)?, 0, "{path}");
        }
        assert!(hand_over(root, &root.join("own/link/x"), None).is_err(), "no way through a link");
        hand_over(root, &root.join("own"), None)?;
        assert_eq!(owner("own/deep/file")?, 0);
        Ok(())
    }
}
