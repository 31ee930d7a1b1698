//! Versions that programs have said, remembered: opencode takes a second of computing to say its own, and a worker that starts again
//! is waited for by its turns.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Programs that are remembered at most.
const MOST: usize = 8;
/// Longest file that is read, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// A program as it was when it said its version. Its change time cannot be set by whoever installs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    path: PathBuf,
    inode: u64,
    size: u64,
    changed: (i64, i64),
    said: String,
}

impl Remembered {
    fn of(path: &Path, said: &str) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let metadata = fs::metadata(&path)?;
        Ok(Self {
            inode: metadata.ino(),
            size: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            said: said.to_owned(),
            path,
        })
    }
}

fn read(memory: &Path) -> Vec<Remembered> {
    let is_short = fs::metadata(memory).is_ok_and(|metadata| metadata.len() <= MAX_BYTES);
    let text = if is_short { fs::read(memory).unwrap_or_default() } else { Vec::new() };
    serde_json::from_slice(&text).unwrap_or_default()
}

/// What this program said, if it is still the same.
pub(super) fn recall(memory: &Path, program: &Path) -> Option<String> {
    read(memory)
        .into_iter()
        .find(|known| Remembered::of(program, &known.said).is_ok_and(|now| now == *known))
        .map(|known| known.said)
}

/// Remembers what a program said. That this cannot be written costs time, and nothing else.
pub(super) fn remember(memory: &Path, program: &Path, said: &str) {
    let written = || {
        let new = Remembered::of(program, said)?;
        let mut all = read(memory);
        all.retain(|known| known.path != new.path);
        all.insert(0, new);
        all.truncate(MOST);
        let fresh = memory.with_extension("new");
        let _ = fs::remove_file(&fresh);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        io::Write::write_all(&mut file, &serde_json::to_vec(&all)?)?;
        fs::rename(&fresh, memory)
    };
    if let Err(error) = written() {
        tracing::debug!(%error, "a version could not be remembered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_replaced_is_asked_again() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let (memory, program) = (folder.path().join("versions"), folder.path().join("program"));
        fs::write(&program, "one")?;
        assert_eq!(recall(&memory, &program), None);
        remember(&memory, &program, "1.2.3");
        assert_eq!(recall(&memory, &program).as_deref(), Some("1.2.3"));
        fs::write(folder.path().join("other"), "two")?;
        fs::rename(folder.path().join("other"), &program)?;
        assert_eq!(recall(&memory, &program), None);
        remember(&memory, &program, "1.2.4");
        assert_eq!((recall(&memory, &program).as_deref(), read(&memory).len()), (Some("1.2.4"), 1));
        fs::write(&memory, "no JSON")?;
        assert_eq!(recall(&memory, &program), None);
        Ok(())
    }
}
