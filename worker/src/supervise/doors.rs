//! The worker's side of adoption: finding the shims of a worker that is gone, and taking one over.
//!
//! Each shim of a home that wants it has a socket in a folder that agents cannot enter, and asks whoever comes for the home's key.
//! Knowing the path is not enough: Landlock does not keep a process from connecting to a socket.

use std::{
    fmt, fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{Mode, OFlags};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};
use uuid::Uuid;

use super::{
    Alive,
    wire::{self, Door, Event, Knock, Left, PROTOCOL, Request},
};

/// The file with the key.
const KEY_FILE: &str = "key";
/// How long a shim may take to open, and to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The doors of a home's shims, and the key to them. Cheap to clone.
#[derive(Clone)]
pub struct Doors {
    folder: PathBuf,
    key: SecretString,
}

impl fmt::Debug for Doors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doors").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Doors {
    /// The doors in a folder, with the key that lies there; both are made where they are missing. The folder must be for this user
    /// alone.
    ///
    /// # Errors
    ///
    /// The folder or the key cannot be made or read.
    pub fn open(folder: &Path) -> io::Result<Self> {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let path = folder.join(KEY_FILE);
        let key = match fs::read_to_string(&path) {
            Ok(key) if key.len() >= 64 => key,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {
                let key: String = rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect();
                let fresh = folder.join("key.new");
                let _ = fs::remove_file(&fresh);
                let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
                io::Write::write_all(&mut file, key.as_bytes())?;
                fs::rename(fresh, path)?;
                key
            }
        };
        Ok(Self { folder: folder.to_owned(), key: SecretString::from(key) })
    }

    /// A door for a new shim. Its name is nowhere else: the family's marker is known to the family.
    pub(super) fn new_door(&self, hand_over: SecretString) -> Door {
        Door {
            folder: self.folder.clone(),
            name: Uuid::new_v4().simple().to_string(),
            key: self.key.expose_secret().to_owned(),
            hand_over: hand_over.expose_secret().to_owned(),
        }
    }

    /// Knocks at every door. Sockets that nobody listens on any more are removed.
    pub(super) async fn knock_at_all(&self) -> Vec<Leftover> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let names = names.filter(|name| !name.starts_with(KEY_FILE));
        let knocks = names.map(|name| async move {
            match timeout(ANSWER_WITHIN, self.knock(&name)).await {
                Ok(Ok(leftover)) => leftover,
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    let _ = fs::remove_file(self.folder.join(&name));
                    None
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a shim of an earlier worker does not open");
                    None
                }
                Err(_) => {
                    tracing::debug!("a shim of an earlier worker does not answer");
                    None
                }
            }
        });
        futures::future::join_all(knocks).await.into_iter().flatten().collect()
    }

    async fn knock(&self, name: &str) -> io::Result<Option<Leftover>> {
        let folder = open_folder(&self.folder)?;
        let stream = UnixStream::connect(short_path(&folder, name)).await?;
        let (reader, mut writer) = stream.into_split();
        let knock = Knock { protocol: PROTOCOL, key: self.key.expose_secret().to_owned() };
        writer.write_all(&wire::line(&knock)?).await?;
        let mut reader = BufReader::new(reader);
        let mut answer = String::new();
        reader.read_line(&mut answer).await?;
        // Nothing, or something else: one of another version.
        let Ok(Event::Left(left)) = serde_json::from_str(&answer) else { return Ok(None) };
        Ok(Some(Leftover { left: *left, reader, writer }))
    }
}

/// A socket's path has a length of at most 107 bytes, and a home may be deep: so it is reached through its folder.
pub(super) fn open_folder(folder: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

pub(super) fn short_path(folder: &OwnedFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name)
}

/// A child that a worker left, found through its shim's door.
pub struct Leftover {
    left: Left,
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl fmt::Debug for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leftover").field("name", &self.left.name).field("pid", &self.left.pid).finish_non_exhaustive()
    }
}

impl Leftover {
    /// Its name, as its specification had it.
    pub fn name(&self) -> &str {
        &self.left.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.left.pid
    }

    /// What whoever started it wanted the next worker to know. It may hold secrets.
    pub fn hand_over(&self) -> SecretString {
        SecretString::from(self.left.hand_over.clone())
    }

    /// Whether its shim is of this very version.
    pub fn speaks_as_we_do(&self) -> bool {
        self.left.protocol == PROTOCOL && self.left.version == env!("CARGO_PKG_VERSION")
    }

    /// Whether its family is being ended already.
    pub fn is_ending(&self) -> bool {
        self.left.ending
    }

    /// How often it was adopted within this time.
    pub fn adoptions(&self, within: Duration) -> usize {
        let since = super::BootTime::now().minus(within);
        self.left.adopted.iter().filter(|at| **at >= since).count()
    }

    /// Takes it over: until `alive` it lives without another word. None if its shim does not agree, as the deadline has passed.
    pub(super) async fn take_over(mut self, alive: Alive) -> Option<(Left, BufReader<OwnedReadHalf>, OwnedWriteHalf)> {
        let agreed = async {
            let line = wire::line(&Request::Adopt(alive))?;
            self.writer.write_all(&line).await?;
            let mut answer = String::new();
            self.reader.read_line(&mut answer).await?;
            Ok::<_, io::Error>(matches!(serde_json::from_str(&answer), Ok(Event::Adopted)))
        };
        let agreed = timeout(ANSWER_WITHIN, agreed).await;
        matches!(agreed, Ok(Ok(true))).then_some((self.left, self.reader, self.writer))
    }

    /// Has its shim end it, and waits until it is gone; within a bound.
    pub async fn end(mut self) {
        let gone = async {
            let line = wire::line(&Request::Stop { grace_ms: self.left.kill_grace_ms })?;
            self.writer.write_all(&line).await?;
            let mut rest = String::new();
            while self.reader.read_line(&mut rest).await? > 0 {
                rest.clear();
            }
            Ok::<_, io::Error>(())
        };
        let _ = timeout(Duration::from_millis(self.left.kill_grace_ms) + ANSWER_WITHIN, gone).await;
    }
}
