//! Advisory locks between processes: one per mirror, one per session.
//!
//! They live in `private/`, where an agent can neither hold nor remove them.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::Path,
    time::{Duration, Instant},
};

use super::{GitError, error::PathContext};

/// How long to wait for another process: a first clone of a large project is slow.
const WAIT: Duration = Duration::from_secs(900);

/// A held lock; dropped, it is free, unless a git that was given it still runs.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Waits for the lock. Blocks: call it where blocking is fine.
    pub(super) fn acquire(path: &Path, what: &str) -> Result<Self, GitError> {
        let file = open(path)?;
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { file }),
                Err(TryLockError::Error(source)) => return Err(source).on("lock", path),
                Err(TryLockError::WouldBlock) if start.elapsed() > WAIT => {
                    return Err(GitError::Busy { what: what.to_owned(), seconds: WAIT.as_secs() });
                }
                Err(TryLockError::WouldBlock) => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(50));
                }
            }
        }
    }

    /// Takes the lock if it is free.
    pub(super) fn try_acquire(path: &Path) -> Result<Option<Self>, GitError> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(source).on("lock", path),
        }
    }

    /// A second handle to the same lock, for a child process.
    pub(super) fn share(&self) -> Result<File, GitError> {
        self.file.try_clone().on("share the lock", "private")
    }
}

fn open(path: &Path) -> Result<File, GitError> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true).open(path).on("open the lock", path)
}
