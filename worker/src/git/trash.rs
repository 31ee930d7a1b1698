//! Moving a session's worktree to the trash and back, and emptying the trash.
//!
//! A slot of the trash holds `worktree`, the folder as the agent left it, ignored files and all, and `meta`, what the mirror knew of it:
//! moved back, the session goes on as if nothing had been. Each move is one rename, in an order such that a kill in between leaves
//! something that the same call, made again, finishes. The slot's name is chosen, and recorded, by the caller beforehand.

use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use super::{
    Base, Checkpoint, Git, GitError, Mirror, Worktree, blocking,
    checkpoint::Lasting,
    error::{Context, PathContext},
    folder,
    lock::Lock,
    mirror,
    session_refs::reaped,
    worktree::Place,
};

/// Where a worktree is found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// In its place.
    InPlace,
    /// In its slot of the trash.
    InTrash,
    /// Nowhere.
    Lost,
}

/// Which worktree a gate is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateOf {
    /// A session's.
    Session(i64),
    /// One in the pool, by its row.
    Pooled(i64),
}

impl GateOf {
    fn file(self) -> String {
        match self {
            Self::Session(id) => format!("gate-s{id}.lock"),
            Self::Pooled(id) => format!("gate-p{id}.lock"),
        }
    }
}

/// Nobody else makes, moves or removes a worktree while this is held. Git operations may be done under it.
#[derive(Debug)]
pub struct Gate {
    _lock: Lock,
}

impl Git {
    /// Waits until nobody else makes, moves or removes this worktree.
    pub async fn gate(&self, of: GateOf) -> Result<Gate, GitError> {
        Ok(Gate { _lock: self.lock(of.file(), "the worktree".to_owned()).await? })
    }

    /// The same without waiting; none while somebody else holds it.
    pub async fn try_gate(&self, of: GateOf) -> Result<Option<Gate>, GitError> {
        let path = self.private().join("locks").join(of.file());
        blocking(move || Ok(Lock::try_acquire(&path)?.map(|lock| Gate { _lock: lock }))).await
    }

    /// Where the session's worktree is, if its place in the trash would be this slot.
    pub async fn whereabouts(&self, mirror: &Mirror, session_id: i64, slot: &str) -> Result<Whereabouts, GitError> {
        let place = Place::of(self, mirror, session_id);
        let slot = self.slot(slot)?;
        blocking(move || {
            Ok(match (slot.join("worktree").symlink_metadata().is_ok(), place.is_there()) {
                (true, _) => Whereabouts::InTrash,
                (false, true) => Whereabouts::InPlace,
                (false, false) => Whereabouts::Lost,
            })
        })
        .await
    }

    /// Whether the session's worktree is in its place, with all that belongs to it.
    pub async fn is_whole(&self, mirror: &Mirror, session_id: i64) -> Result<bool, GitError> {
        let place = Place::of(self, mirror, session_id);
        blocking(move || Ok(place.is_whole() && place.is_there())).await
    }

    /// Whether there is a folder in the session's place, whole or not.
    pub async fn is_in_place(&self, mirror: &Mirror, session_id: i64) -> Result<bool, GitError> {
        let place = Place::of(self, mirror, session_id);
        blocking(move || Ok(place.is_there())).await
    }

    /// Whether a slot of the trash holds a folder.
    pub async fn is_in_trash(&self, slot: &str) -> Result<bool, GitError> {
        let slot = self.slot(slot)?;
        blocking(move || Ok(slot.join("worktree").symlink_metadata().is_ok())).await
    }

    /// The last checkpoint that a turn made in a session.
    pub async fn last_checkpoint(&self, mirror: &Mirror, session_id: i64) -> Result<Option<String>, GitError> {
        let place = Place::of(self, mirror, session_id);
        blocking(move || place.last_checkpoint()).await
    }

    /// Keeps all of a worktree but ignored files as a commit on `refs/millhand/reaped/<session>`. Says too whether that differs from
    /// the last checkpoint of a turn.
    pub async fn checkpoint_before_reaping(
        &self,
        mirror: &Mirror,
        worktree: &Worktree,
    ) -> Result<(Checkpoint, bool), GitError> {
        let reference = reaped(worktree.session_id);
        let message = format!("s{} before its worktree was reaped", worktree.session_id);
        let kept = self.checkpoint_to(mirror, worktree, reference, &message, Lasting::Flushed).await?;
        let place = Place::of(self, mirror, worktree.session_id);
        let (path, base, tree) = (mirror.path.clone(), worktree.base_commit.clone(), kept.tree.clone());
        let differs = blocking(move || {
            let last = place.last_checkpoint()?.unwrap_or(base);
            let repository = mirror::open(&path)?;
            let known = git2::Oid::from_str(&last).and_then(|id| repository.find_commit(id));
            Ok(known.doing("read the last checkpoint")?.tree_id().to_string() != tree)
        })
        .await?;
        Ok((kept, differs))
    }

    /// Moves the session's folder, and what the mirror knows of it, into a slot of the trash. Nothing to do is fine.
    pub async fn trash_worktree(&self, mirror: &Mirror, session_id: i64, slot: &str) -> Result<(), GitError> {
        let place = Place::of(self, mirror, session_id);
        let slot = self.slot(slot)?;
        let _lock = self.lock_session(session_id).await?;
        blocking(move || place.move_to_slot(&slot)).await
    }

    /// The same for one that lies in the pool.
    pub async fn trash_pooled(&self, mirror: &Mirror, pooled: &str, slot: &str) -> Result<(), GitError> {
        let place = Place::pooled(self, mirror, pooled);
        let slot = self.slot(slot)?;
        blocking(move || if place.is_there() { place.move_to_slot(&slot) } else { Ok(()) }).await
    }

    /// Brings a session's worktree back: from its slot of the trash with all that was in it, else as of its last checkpoint.
    ///
    /// A worktree that is in its place already is left as it is.
    pub async fn restore_worktree(
        &self,
        mirror: &Mirror,
        session_id: i64,
        base: &Base,
        slot: Option<&str>,
        checkpoint: Option<&str>,
    ) -> Result<Worktree, GitError> {
        let place = Place::of(self, mirror, session_id);
        let lock = self.lock_session(session_id).await?;
        let slot = slot.map(|slot| self.slot(slot)).transpose()?;
        let found = {
            let (place, slot) = (place.clone(), slot.clone());
            blocking(move || place.move_back(slot.as_deref())).await?
        };
        let start = checkpoint.unwrap_or(&base.commit);
        match found {
            Found::Whole => {}
            Found::FilesOnly => self.adopt(&place, base, start, &lock).await?,
            Found::Nothing => self.build_worktree(&place, base, start, &lock).await?,
        }
        drop(lock);
        // The agent's repository may be damaged, or missing: that is mended as for any other worktree.
        self.create_worktree(mirror, session_id, base).await
    }

    /// Removes a slot of the trash for good. From its first step on, nothing can be restored from it.
    pub async fn empty_slot(&self, slot: &str) -> Result<(), GitError> {
        let (path, trash) = (self.slot(slot)?, self.home().trash());
        blocking(move || {
            let emptying = path.with_extension("emptying");
            match fs::rename(&path, &emptying) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).on("set aside", path);
                }
                _ => {}
            }
            if !trash.exists() {
                return Ok(());
            }
            let folder = fs::File::open(&trash).on("open", &trash)?;
            let name = emptying.file_name().unwrap_or_default().as_encoded_bytes();
            folder::remove(&folder, name).on("remove", &emptying)
        })
        .await
    }

    /// The path of a slot; names are ours, and never paths.
    fn slot(&self, name: &str) -> Result<PathBuf, GitError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(GitError::Planted { path: self.home().trash().join(name) });
        }
        Ok(self.home().trash().join(name))
    }
}

/// Nobody but us may look into the trash.
pub(super) fn prepare_trash(trash: &Path) -> Result<(), GitError> {
    if trash.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().mode(0o700).recursive(true).create(trash).on("create", trash)
}

/// What is there of a worktree that was to be brought back.
enum Found {
    /// All of it.
    Whole,
    /// The files, but not what the mirror knew of them.
    FilesOnly,
    /// Nothing.
    Nothing,
}

impl Place {
    /// Whether there is a plain folder in its place.
    pub(super) fn is_there(&self) -> bool {
        self.path.symlink_metadata().is_ok_and(|found| found.is_dir())
    }

    /// Whether the mirror knows all of it.
    fn is_whole(&self) -> bool {
        self.read_marker().is_some() && self.meta.join("index").is_file()
    }

    /// Removes what the mirror knows of it.
    pub(super) fn forget(&self) -> Result<(), GitError> {
        match fs::remove_dir_all(&self.meta) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).on("remove", &self.meta),
            _ => Ok(()),
        }
    }

    fn move_to_slot(&self, slot: &Path) -> Result<(), GitError> {
        prepare_trash(slot.parent().unwrap_or(slot))?;
        fs::create_dir_all(slot).on("create", slot)?;
        let (files, meta) = (slot.join("worktree"), slot.join("meta"));
        if files.symlink_metadata().is_err() && self.path.symlink_metadata().is_ok() {
            self.move_folder(&files)?;
        }
        if meta.symlink_metadata().is_err() && self.meta.exists() {
            fs::rename(&self.meta, &meta).on("move to the trash", &self.meta)?;
        }
        Ok(())
    }

    /// The other way round: first what the mirror knows, then the folder.
    fn move_back(&self, slot: Option<&Path>) -> Result<Found, GitError> {
        if self.is_whole() && self.is_there() {
            return Ok(Found::Whole);
        }
        let parent = self.make_parent()?;
        let files = slot.map(|slot| slot.join("worktree")).filter(|files| files.symlink_metadata().is_ok());
        let Some((slot, files)) = slot.zip(files) else {
            // What is in its place has no index that goes with it: not what was reaped, but nothing to throw away either.
            self.set_aside()?;
            return Ok(Found::Nothing);
        };
        let meta = slot.join("meta");
        if meta.is_dir() {
            self.set_aside()?;
            self.forget()?;
            fs::create_dir_all(self.meta.parent().unwrap_or(Path::new("/"))).on("create", &self.meta)?;
            fs::rename(&meta, &self.meta).on("put back", &self.meta)?;
        }
        self.set_folder_aside()?;
        let name = files.as_os_str().as_bytes();
        folder::make_movable(rustix::fs::CWD, name).on("open", &files)?;
        rustix::fs::renameat(rustix::fs::CWD, &files, &parent, self.name()).on("put back", &self.path)?;
        // Only its own, now empty, folder is left of the slot.
        let _ = fs::remove_dir(slot);
        if self.is_whole() {
            self.remove_stale_lock()?;
            return Ok(Found::Whole);
        }
        Ok(Found::FilesOnly)
    }
}
