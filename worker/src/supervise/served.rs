//! Where this home's HTTP API is, for commands that tell people: as long as the process lives that serves it.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

use super::host_lock::lock;

/// The file in the home's private folder.
const FILE: &str = "api";
/// Longest address.
const LONGEST: u64 = 200;

/// Says where the API is, as long as this lives. The kernel takes it back when the process dies, however it dies.
#[derive(Debug)]
pub struct ServedAt {
    _file: File,
}

impl ServedAt {
    /// Says it; none: another process of this home does, or it cannot be said.
    pub fn say(private: &Path, url: &str) -> Option<Self> {
        let mut options = OpenOptions::new();
        // Not truncated: until the lock is ours, the content is another's.
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(private.join(FILE)).ok()?;
        lock(&file).ok()?;
        file.set_len(0).ok()?;
        file.write_all(url.as_bytes()).ok()?;
        Some(Self { _file: file })
    }

    /// What is said, if whoever says it lives.
    pub fn look(private: &Path) -> Option<String> {
        let file = File::open(private.join(FILE)).ok()?;
        if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            return None;
        }
        let mut url = String::new();
        file.take(LONGEST).read_to_string(&mut url).ok()?;
        Some(url).filter(|url| !url.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_by_the_first_and_as_long_as_it_lives() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        assert_eq!(ServedAt::look(folder.path()), None);
        let first = ServedAt::say(folder.path(), "http://127.0.0.1:7341");
        assert!(first.is_some() && ServedAt::say(folder.path(), "http://127.0.0.1:7342").is_none());
        assert_eq!(ServedAt::look(folder.path()).as_deref(), Some("http://127.0.0.1:7341"));
        drop(first);
        assert_eq!(ServedAt::look(folder.path()), None);
        assert!(ServedAt::say(folder.path(), "http://[::1]:1").is_some());
        Ok(())
    }
}
