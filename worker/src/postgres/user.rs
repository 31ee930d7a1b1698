//! Whom Postgres runs as: us, or, as it refuses to run as root, the user `postgres` or `nobody`.

use std::{
    fs, io,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use super::PrivateError;

/// The user that Postgres runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ServerUser {
    /// The user that we are.
    Ourselves,
    /// Another, since we are root.
    Other { name: String, uid: u32, gid: u32 },
}

impl ServerUser {
    pub(super) fn find() -> Result<Self, PrivateError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Ourselves);
        }
        let users = fs::read_to_string("/etc/passwd").map_err(PrivateError::io("/etc/passwd"))?;
        Self::in_passwd(&users).ok_or(PrivateError::NoUser)
    }

    fn in_passwd(users: &str) -> Option<Self> {
        let find = |name: &str| {
            let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2);
            let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            (uid != 0).then(|| Self::Other { name: name.to_owned(), uid, gid })
        };
        find("postgres").or_else(|| find("nobody"))
    }

    /// Its id.
    pub(super) fn uid(&self) -> u32 {
        match self {
            Self::Ourselves => rustix::process::geteuid().as_raw(),
            Self::Other { uid, .. } => *uid,
        }
    }

    /// Makes a command run as it.
    pub(super) fn run(&self, command: &mut Command) {
        if let Self::Other { uid, gid, .. } = self {
            command.uid(*uid).gid(*gid);
        }
    }

    /// Hands a file or folder over to it.
    pub(super) fn own(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::Ourselves => Ok(()),
            Self::Other { uid, gid, .. } => chown(path, Some(*uid), Some(*gid)),
        }
    }

    /// Refuses a path whose folders it may not pass through.
    pub(super) fn check_reaches(&self, path: &Path) -> Result<(), PrivateError> {
        let Self::Other { name, uid, gid } = self else { return Ok(()) };
        let closed = |folder: &Path| {
            let metadata = fs::metadata(folder).map_err(PrivateError::io(folder))?;
            let bit = if metadata.uid() == *uid {
                0o100
            } else if metadata.gid() == *gid {
                0o010
            } else {
                0o001
            };
            Ok(metadata.mode() & bit == 0)
        };
        let mut folders: Vec<PathBuf> = path.ancestors().map(Path::to_owned).collect();
        folders.reverse();
        for folder in folders {
            if closed(&folder)? {
                return Err(PrivateError::Unreachable { user: name.clone(), folder });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgres_comes_before_nobody_and_never_a_name_for_root() {
        let nobody = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65533::/:/bin/false\n";
        let user = |uid, gid, name: &str| Some(ServerUser::Other { name: name.to_owned(), uid, gid });
        assert_eq!(ServerUser::in_passwd(nobody), user(65534, 65533, "nobody"));
        assert_eq!(
            ServerUser::in_passwd(&format!("{nobody}postgres:x:101:104::/:/bin/sh")),
            user(101, 104, "postgres")
        );
        assert_eq!(ServerUser::in_passwd("postgres:x:0:0::/:/bin/sh"), None);
        assert_eq!(ServerUser::in_passwd(""), None);
    }
}
