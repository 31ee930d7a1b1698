//! A cluster on disk: where its parts are, how it is made, and which binaries may run on it.

use std::{
    ffi::OsString,
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{PrivateError, user::ServerUser};
use crate::{
    config::{Home, prepare_home, private_folder},
    supervise::FAMILY_VARIABLE,
    tools::{self, PostgresBinaries},
};

/// The database's user.
pub(super) const USER: &str = "millhand";
/// The database.
pub(super) const DATABASE: &str = "millhand";
/// The name of the socket in its folder. The port is a name only: nothing listens on the network.
const SOCKET: &str = ".s.PGSQL.5432";
/// Longest path of a socket; the kernel takes 107 bytes.
const SOCKET_PATH_BYTES: usize = 100;
/// Begins the name of what `initdb` works in, before the result takes its place.
const UNFINISHED: &str = "data.new-";
/// Where the socket is when the home lies too deep. Not from the environment: all processes must find the same.
const SHORT_FOLDERS: &str = "/tmp";

/// What is written down about a cluster.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Major version of the data.
    major: u32,
    /// The folder of the binaries that it last ran with.
    binaries: PathBuf,
}

/// The cluster of a home.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    home: Home,
    pub(super) user: ServerUser,
}

impl Cluster {
    /// The cluster of a home, which need not be made yet. Makes the folders around it.
    pub(super) fn open(home: &Home) -> Result<Self, PrivateError> {
        let cluster = Self { home: home.clone(), user: ServerUser::find()? };
        prepare_home(home).map_err(PrivateError::io(home.root()))?;
        for folder in [home.postgres_private(), home.logs()] {
            private_folder(&folder).map_err(PrivateError::io(&folder))?;
        }
        let root = home.root().canonicalize().map_err(PrivateError::io(home.root()))?;
        cluster.user.check_reaches(&root)?;
        cluster.own_folder(&home.postgres())?;
        cluster.own_folder(&cluster.socket_folder()?)?;
        Ok(cluster)
    }

    pub(super) fn data(&self) -> PathBuf {
        self.home.postgres().join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.home.logs().join("postgres.log")
    }

    /// A lock file.
    pub(super) fn lock(&self, name: &str) -> PathBuf {
        self.home.postgres_private().join(name)
    }

    fn password_file(&self) -> PathBuf {
        self.home.postgres_private().join("password")
    }

    fn record_file(&self) -> PathBuf {
        self.home.postgres_private().join("cluster.json")
    }

    /// The folder of the socket: in the home, or if that makes too long a path, or one with characters that have a meaning
    /// in Postgres's settings, in a folder of our own elsewhere, found by a hash of the home's path.
    pub(super) fn socket_folder(&self) -> Result<PathBuf, PrivateError> {
        let root = self.home.root().canonicalize().map_err(PrivateError::io(self.home.root()))?;
        Ok(socket_folder(&root))
    }

    /// What the family of an `initdb` for this home is marked with.
    pub(super) fn initdb_scope(&self) -> Result<String, PrivateError> {
        let root = self.home.root().canonicalize().map_err(PrivateError::io(self.home.root()))?;
        Ok(format!("initdb-{}", short_hash(&root)))
    }

    /// A folder that only the server's user (and root) may enter. One that is someone else's is refused.
    fn own_folder(&self, folder: &Path) -> Result<(), PrivateError> {
        let made = fs::DirBuilder::new().mode(0o700).create(folder);
        match made {
            Ok(()) => self.user.own(folder).map_err(PrivateError::io(folder))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(PrivateError::io(folder)(error)),
        }
        let found = fs::symlink_metadata(folder).map_err(PrivateError::io(folder))?;
        // Root may have been killed between making it and handing it over.
        if found.is_dir() && found.uid() == 0 && self.user.uid() != 0 && rustix::process::geteuid().is_root() {
            self.user.own(folder).map_err(PrivateError::io(folder))?;
        } else if !found.is_dir() || found.uid() != self.user.uid() {
            let error = io::Error::other("it belongs to someone else; move it away, or choose another MILLHAND_HOME");
            return Err(PrivateError::io(folder)(error));
        }
        if found.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(PrivateError::io(folder))?;
        }
        Ok(())
    }

    /// The password, made on first use.
    pub(super) fn password(&self) -> Result<String, PrivateError> {
        let path = self.password_file();
        match fs::read_to_string(&path) {
            Ok(password) if !password.trim().is_empty() => return Ok(password.trim().to_owned()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(PrivateError::io(path)(error)),
        }
        if self.data().exists() {
            return Err(PrivateError::NoPassword { password: path, data: self.data() });
        }
        let mut bytes = [0_u8; 32];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .map_err(|error| PrivateError::io(&path)(error.into()))?;
        }
        let password: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        write_durably(&path, password.as_bytes()).map_err(PrivateError::io(&path))?;
        Ok(password)
    }

    /// The binaries to run with: those found, or, for data of another major version, those that it last ran with.
    pub(super) fn choose(&self, found: &PostgresBinaries) -> Result<PostgresBinaries, PrivateError> {
        let chosen = match self.major()? {
            Some(major) if major != found.version.major => {
                self.recorded(major).ok_or_else(|| PrivateError::OtherMajor {
                    data: self.data(),
                    cluster: major,
                    found: found.version.major,
                    binaries: found.folder.clone(),
                })?
            }
            _ => found.clone(),
        };
        self.user.check_reaches(&chosen.folder)?;
        Ok(chosen)
    }

    /// The major version of the data; none if there is no data yet.
    fn major(&self) -> Result<Option<u32>, PrivateError> {
        let path = self.data().join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map(Some).map_err(|error| PrivateError::io(path)(io::Error::other(error))),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.data().exists() => Ok(None),
            Err(error) => Err(PrivateError::io(path)(error)),
        }
    }

    fn recorded(&self, major: u32) -> Option<PostgresBinaries> {
        let record: Record = serde_json::from_slice(&fs::read(self.record_file()).ok()?).ok()?;
        let search = tools::Search { setting: Some(record.binaries), ..tools::Search::default() };
        tools::find_postgres(&search).ok().filter(|binaries| binaries.version.major == major)
    }

    /// Makes the cluster if there is none. Only a keeper does this, and there is one at a time.
    pub(super) fn make(&self, binaries: &PostgresBinaries) -> Result<(), PrivateError> {
        if !self.data().exists() {
            self.initdb(binaries)?;
        }
        let record = Record { major: binaries.version.major, binaries: binaries.folder.clone() };
        let record = serde_json::to_vec_pretty(&record).unwrap_or_default();
        write_durably(&self.record_file(), &record).map_err(PrivateError::io(self.record_file()))
    }

    /// Removes what killed keepers left. What cannot be removed now, as someone still writes there, goes the next time.
    fn remove_unfinished(&self) {
        for entry in self.home.postgres().read_dir().into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED)
                && let Err(error) = fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()))
            {
                tracing::debug!(path = %entry.path().display(), %error, "stays for now");
            }
        }
    }

    /// Makes the data in a folder beside, which takes its place by a rename: half-made data is never run.
    fn initdb(&self, binaries: &PostgresBinaries) -> Result<(), PrivateError> {
        let failed = |message: String| PrivateError::Start { message, log: self.log() };
        self.remove_unfinished();
        // A name of its own, should the initdb of a keeper that was killed still be at work in the other one.
        let unfinished = self.home.postgres().join(format!("{UNFINISHED}{}", Uuid::new_v4().simple()));
        let io_error = || PrivateError::io(&unfinished);
        // Not over a descriptor: another user cannot open ours.
        let password_file = unfinished.with_extension("password");
        write_durably(&password_file, self.password()?.as_bytes()).map_err(PrivateError::io(&password_file))?;
        self.user.own(&password_file).map_err(PrivateError::io(&password_file))?;
        let option = |name: &str, value: &Path| [OsString::from(name), value.into()];
        let mut command = Command::new(binaries.initdb());
        command
            .args(option("--pgdata", &unfinished))
            .args(option("--pwfile", &password_file))
            .args(["--username", USER, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"])
            .env_clear()
            .env("LC_ALL", "C")
            .env(FAMILY_VARIABLE, format!("{}.0", self.initdb_scope()?))
            .current_dir(self.home.postgres())
            .stdin(Stdio::null());
        self.user.run(&mut command);
        let output = command.output().map_err(|error| failed(format!("initdb: {error}")));
        let _ = fs::remove_file(&password_file);
        let output = output?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(failed(format!("initdb ended with {}: {}", output.status, last_words(&said))));
        }
        fs::rename(&unfinished, self.data()).map_err(io_error())?;
        sync_folder(&self.home.postgres()).map_err(io_error())
    }
}

/// The end of what a program said, short enough for an error message.
pub(super) fn last_words(said: &str) -> String {
    let lines: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(6)..].join("; ").chars().take(1000).collect()
}

/// The folder of a home's socket that does not lie in the home, if there is one.
pub(super) fn folder_outside(home: &Home) -> Option<PathBuf> {
    let root = home.root().canonicalize().ok()?;
    let folder = socket_folder(&root);
    (!folder.starts_with(&root) && folder.is_dir()).then_some(folder)
}

fn socket_folder(root: &Path) -> PathBuf {
    let inside = root.join("postgres/run");
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let bytes = inside.as_os_str().as_encoded_bytes();
    if bytes.len() + 1 + SOCKET.len() <= SOCKET_PATH_BYTES && bytes.iter().copied().all(plain) {
        return inside;
    }
    Path::new(SHORT_FOLDERS).join(format!("millhand-{}", short_hash(root)))
}

/// Tells one home from another in a few letters.
fn short_hash(root: &Path) -> String {
    let hash = Sha256::digest(root.as_os_str().as_encoded_bytes());
    hash.iter().take(10).map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file for its owner alone, whole or not at all.
fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    // What a killed process left may have other permissions.
    let _ = fs::remove_file(&temporary);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_has_a_short_plain_path_that_differs_by_home() {
        assert_eq!(socket_folder(Path::new("/home/ada/.millhand")), Path::new("/home/ada/.millhand/postgres/run"));
        let deep = |name: &str| socket_folder(&Path::new("/").join("deep/".repeat(40)).join(name));
        let odd = socket_folder(Path::new("/home/ada, o'neill/x"));
        for folder in [deep("a"), deep("b"), odd] {
            assert!(folder.starts_with("/tmp") && folder.as_os_str().len() < 50, "{}", folder.display());
        }
        assert_ne!(deep("a"), deep("b"));
        assert_eq!(deep("a"), deep("a"));
    }
}
