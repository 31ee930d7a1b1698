//! Writing objects into the mirror, without touching one that is there already.
//!
//! The mirror's objects may be hard links to the user's. libgit2 (as git) sets the times of an object that it is asked to write again, and
//! that would show in the user's repository. So existence is looked up first.

use std::{
    fs,
    io::{self, Read, Write},
    path::PathBuf,
};

use git2::{ObjectType, Odb, OdbLookupFlags, Oid};

use super::{
    GitError,
    error::{Context, PathContext},
};

const CHUNK: usize = 256 << 10;

/// What shows that an object is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// Its name.
    Name,
    /// Its content: after a loss of power, a name may have none.
    Content,
}

/// The mirror's objects.
pub(super) struct Objects<'r> {
    odb: Odb<'r>,
    folder: PathBuf,
    proof: Proof,
}

impl<'r> Objects<'r> {
    /// The objects of a repository of ours.
    pub(super) fn of(repository: &'r git2::Repository, proof: Proof) -> Result<Self, GitError> {
        let odb = repository.odb().doing("open the mirror's objects")?;
        Ok(Self { odb, folder: repository.path().join("objects"), proof })
    }

    /// Whether an object is there. One without its content is removed, so that it is written again.
    fn is_there(&self, id: Oid) -> Result<bool, GitError> {
        // Without a refresh: nobody else writes packs while we hold the session, and a double would do no harm.
        if !self.odb.exists_ext(id, OdbLookupFlags::NO_REFRESH) {
            return Ok(false);
        }
        if self.proof == Proof::Name || self.odb.read(id).is_ok() {
            return Ok(true);
        }
        let name = id.to_string();
        let path = self.folder.join(&name[..2]).join(&name[2..]);
        tracing::warn!(object = name, "an object without its content is written again");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).on("remove", path),
            _ => Ok(false),
        }
    }

    /// Stores an object, unless it is there.
    pub(super) fn put(&self, kind: ObjectType, bytes: &[u8]) -> Result<Oid, GitError> {
        let id = Oid::hash_object(kind, bytes).doing("hash an object")?;
        if self.is_there(id)? {
            return Ok(id);
        }
        self.odb.write(kind, bytes).doing("store an object")
    }

    /// Stores a blob of exactly `size` bytes without holding it in memory. `None` if the reader had another number of bytes, or it has to
    /// be tried again.
    pub(super) fn put_stream(&self, size: u64, mut reader: impl Read) -> Result<Option<Oid>, GitError> {
        let Ok(expected) = usize::try_from(size) else { return Ok(None) };
        let mut writer = self.odb.writer(expected, ObjectType::Blob).doing("store a large file")?;
        let mut buffer = vec![0; CHUNK];
        let mut left = expected;
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Ok(None),
            };
            if count == 0 {
                break;
            }
            if count > left {
                return Ok(None);
            }
            left -= count;
            writer.write_all(&buffer[..count]).map_err(|source| GitError::Io {
                what: "store a large file in",
                path: "mirror".into(),
                source,
            })?;
        }
        if left > 0 {
            return Ok(None);
        }
        let id = writer.finalize().doing("store a large file")?;
        Ok(self.is_there(id)?.then_some(id))
    }

    /// The size of an object, if it is there.
    pub(super) fn size(&self, id: Oid) -> Option<u64> {
        self.odb.read_header(id).ok().map(|(size, _)| size as u64)
    }

    /// A blob's bytes.
    pub(super) fn blob(&self, id: Oid) -> Result<Vec<u8>, GitError> {
        Ok(self.odb.read(id).doing("read a blob")?.data().to_owned())
    }

    /// Builds a tree. `entries` are (name, mode, id) in git's order: a folder sorts as if its name ended in a slash.
    pub(super) fn put_tree(&self, entries: &[(Vec<u8>, u32, Oid)]) -> Result<Oid, GitError> {
        let mut bytes = Vec::with_capacity(entries.len() * 48);
        for (name, mode, id) in entries {
            bytes.extend_from_slice(format!("{mode:o} ").as_bytes());
            bytes.extend_from_slice(name);
            bytes.push(0);
            bytes.extend_from_slice(id.as_bytes());
        }
        self.put(ObjectType::Tree, &bytes)
    }
}
