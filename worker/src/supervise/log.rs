//! A log file with a bound: when full it is moved aside, over the one moved aside before.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// The file and how much is in it.
pub(crate) struct BoundedLog {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
}

impl BoundedLog {
    /// Opens the file to append to it. It is for its owner alone, as what children print may be private.
    pub(crate) fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size, limit })
    }

    /// Appends a line. A full disk must not stop the child: an error here loses the line, and nothing else.
    pub(crate) fn append(&mut self, line: &str) -> io::Result<()> {
        let bytes = line.len() as u64 + 1;
        if self.size > 0 && self.size + bytes > self.limit {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".1");
            fs::rename(&self.path, aside)?;
            *self = Self::open(&self.path, self.limit)?;
        }
        self.size += bytes;
        self.file.write_all(&[line.as_bytes(), b"\n"].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_at_most_and_neither_beyond_the_bound() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("log");
        let mut log = BoundedLog::open(&path, 100)?;
        for number in 0..1000 {
            log.append(&format!("line {number}"))?;
        }
        drop(log);
        BoundedLog::open(&path, 100)?.append("after opening again")?;
        let sizes: Vec<_> =
            fs::read_dir(folder.path())?.flatten().flat_map(|e| e.metadata()).map(|m| m.len()).collect();
        assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= 100), "{sizes:?}");
        assert!(fs::read_to_string(&path)?.ends_with("after opening again\n"));
        Ok(())
    }
}
