//! One live worker per home: whoever holds the lock may conclude that the worker before it is dead.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};

/// How often the lock is tried for.
const TRIES: u32 = 10;
/// Between two tries.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// The lock, held as long as this lives. The kernel lets go of it when the process dies, however it dies.
#[derive(Debug)]
pub struct HostLock {
    _file: File,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum HostLockError {
    /// Another worker has it.
    #[error("another worker{} already runs on {}; stop it with `millhand down`, or give this one a MILLHAND_HOME of its own",
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(), folder.display())]
    Held {
        /// Its process id, if it wrote it down.
        pid: Option<u32>,
        /// The folder with the lock.
        folder: PathBuf,
    },
    /// The file could not be opened or locked.
    #[error("cannot lock {}: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl HostLock {
    /// Takes `worker.lock` in the home's private folder, which is made if it is missing. Does not wait.
    pub fn acquire(private: &Path) -> Result<Self, HostLockError> {
        let path = private.join("worker.lock");
        let failed = |source: io::Error| HostLockError::Io { path: path.clone(), source };
        fs::create_dir_all(private).map_err(failed)?;
        let mut options = OpenOptions::new();
        // Not truncated: until the lock is ours, the content is another worker's.
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(failed)?;
        match lock(&file) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(HostLockError::Held { pid: written_pid(&mut file), folder: private.to_owned() });
            }
            Err(error) => return Err(failed(error.into())),
        }
        file.set_len(0).map_err(failed)?;
        file.write_all(std::process::id().to_string().as_bytes()).map_err(failed)?;
        file.rewind().map_err(failed)?;
        Ok(Self { _file: file })
    }

    /// The process id of the live worker, if there is one.
    pub fn holder(private: &Path) -> Option<u32> {
        let mut file = File::open(private.join("worker.lock")).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => None,
            Err(_) => written_pid(&mut file),
        }
    }
}

/// Tries for a moment: someone may be looking who the holder is, which takes the lock for an instant.
pub(super) fn lock(file: &File) -> rustix::io::Result<()> {
    for _ in 0..TRIES {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(TRY_EVERY),
            done => return done,
        }
    }
    Err(rustix::io::Errno::WOULDBLOCK)
}

fn written_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_worker_is_told_who_holds_the_home() -> Result<(), HostLockError> {
        let folder = tempfile::tempdir().map_err(|source| HostLockError::Io { path: "temp".into(), source })?;
        let private = folder.path().join("private");
        let first = HostLock::acquire(&private)?;
        let refused = HostLock::acquire(&private).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        assert_eq!(HostLock::holder(&private), Some(std::process::id()));
        drop(first);
        assert_eq!(HostLock::holder(&private), None);
        HostLock::acquire(&private)?;
        Ok(())
    }
}
