//! The worktree as a commit: what the agent committed, staged or left untracked counts the same.

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use git2::{Index, IndexEntry, Oid};

use super::{
    Git, GitError, Mirror, Worktree, blocking,
    command::QUERY_LIMIT,
    error::{Context, PathContext},
    mirror, setup,
    stat_cache::StatCache,
    store_object::{Objects, Proof},
    walk::{Entry, Walk, Walked},
    worktree::Place,
};

/// Up to this many changed entries are put into the index one by one; above, it is built anew, which is linear.
const PATCH_INDEX_UP_TO: usize = 500;

/// A commit that holds a session's work, on `refs/millhand/sessions/<session>/<task>` of the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The commit (40 hex digits); its parent is the session's base.
    pub commit: String,
    /// Its tree.
    pub tree: String,
    /// What is not as one might think: paths skipped, nested repositories, submodules with files.
    pub notes: Vec<String>,
    /// Paths with a flag for the reviewer.
    pub(super) flagged: Vec<(Vec<u8>, &'static str)>,
}

impl Git {
    /// Reads the worktree once and keeps it as a commit. What did not change since the last time is not read again.
    pub async fn checkpoint(
        &self,
        mirror: &Mirror,
        worktree: &Worktree,
        task_id: i64,
        message: &str,
    ) -> Result<Checkpoint, GitError> {
        let made = self.checkpoint_to(mirror, worktree, name_of(worktree, task_id), message, Lasting::Written).await?;
        let place = Place::of(self, mirror, worktree.session_id);
        blocking(move || place.forget_rebased()).await?;
        Ok(made)
    }

    /// The same while it is not sure that the worktree is at rest. Nothing is remembered of what was read, see [`Git::remember`]: what is known
    /// counts as tracked from then on, whatever the ignore rules come to say.
    pub async fn checkpoint_ahead(
        &self,
        mirror: &Mirror,
        worktree: &Worktree,
        task_id: i64,
        message: &str,
    ) -> Result<(Checkpoint, Reading), GitError> {
        let reference = name_of(worktree, task_id);
        self.read(mirror, worktree, reference, message, Lasting::Written, Memory::Later).await
    }

    /// A checkpoint that was made ahead counts: the next one need not read what it has read. Returns notes on what could not be remembered.
    pub async fn remember(
        &self,
        mirror: &Mirror,
        worktree: &Worktree,
        reading: Reading,
    ) -> Result<Vec<String>, GitError> {
        let place = Place::of(self, mirror, worktree.session_id);
        let lock = self.lock_session(worktree.session_id).await?;
        blocking(move || {
            let _lock = lock;
            place.remove_stale_lock()?;
            let notes = reading.write(&place)?;
            place.forget_rebased()?;
            Ok(notes)
        })
        .await
    }

    /// The same on any ref.
    pub(super) async fn checkpoint_to(
        &self,
        mirror: &Mirror,
        worktree: &Worktree,
        reference: String,
        message: &str,
        lasting: Lasting,
    ) -> Result<Checkpoint, GitError> {
        let (made, _) = self.read(mirror, worktree, reference, message, lasting, Memory::Now).await?;
        Ok(made)
    }

    async fn read(
        &self,
        mirror: &Mirror,
        worktree: &Worktree,
        reference: String,
        message: &str,
        lasting: Lasting,
        memory: Memory,
    ) -> Result<(Checkpoint, Reading), GitError> {
        let place = Place::of(self, mirror, worktree.session_id);
        let lock = self.lock_session(worktree.session_id).await?;
        let work = Work {
            git: self.clone(),
            mirror: mirror.path.clone(),
            place,
            base: worktree.base_commit.clone(),
            reference,
            message: message.to_owned(),
            lasting,
            memory,
        };
        let runtime = tokio::runtime::Handle::current();
        blocking(move || {
            let _lock = lock;
            work.run(&runtime)
        })
        .await
    }
}

/// What a checkpoint has to survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lasting {
    /// A kill: the worktree stays.
    Written,
    /// A loss of power: the worktree goes next, and there is nothing else left of it.
    Flushed,
}

/// When what was read is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    /// With the checkpoint.
    Now,
    /// When it is said to count.
    Later,
}

struct Work {
    git: Git,
    mirror: PathBuf,
    place: Place,
    base: String,
    reference: String,
    message: String,
    lasting: Lasting,
    memory: Memory,
}

impl Work {
    fn run(&self, runtime: &tokio::runtime::Handle) -> Result<(Checkpoint, Reading), GitError> {
        let folder = self.place.open()?;
        self.place.remove_stale_lock()?;
        mirror::remove_stale_lock(&self.mirror.join(format!("{}.lock", self.reference)))?;
        let repository = mirror::open(&self.mirror)?;
        let index = self.place.meta.join("index");
        let mut known = StatCache::read(&index)?;
        let has_restarted = self.place.has_restarted();
        if has_restarted {
            known.distrust();
        }
        // Objects are not flushed one by one: those of a turn before a loss of power may have a name and no content.
        let objects = Objects::of(&repository, if has_restarted { Proof::Content } else { Proof::Name })?;
        let lfs = self.mirror.join("lfs");
        let copied = setup::left_out(&self.git.copied_record(self.place.session_id), &repository, &self.base)?;
        let checkout_bytes = |path: &[u8], id: Oid| runtime.block_on(self.checkout_bytes(path, id));
        let walked = Walk::new(&objects, &known, &lfs, &copied, &checkout_bytes).run(folder.as_fd())?;
        let commit = self.commit(&repository, walked.tree)?;
        let mut reading = Reading { update: Update::of(&known, &walked), has_restarted };
        let Walked { tree, mut notes, flagged, .. } = walked;
        if self.memory == Memory::Now {
            // After the commit: an index that is ahead of its checkpoint would be no harm, but one that is lost is only slower.
            notes.extend(std::mem::take(&mut reading).write(&self.place)?);
        }
        notes.sort();
        notes.dedup();
        Ok((Checkpoint { commit: commit.to_string(), tree: tree.to_string(), notes, flagged }, reading))
    }

    fn commit(&self, repository: &git2::Repository, tree: Oid) -> Result<Oid, GitError> {
        let make = || {
            let base = repository.find_commit(Oid::from_str(&self.base)?)?;
            let who = git2::Signature::now("Millhand", "millhand@localhost")?;
            repository.commit(None, &who, &who, &self.message, &repository.find_tree(tree)?, &[&base])
        };
        let id = make().doing("commit the checkpoint")?;
        if self.lasting == Lasting::Flushed {
            let mirror = std::fs::File::open(&self.mirror).on("open", &self.mirror)?;
            rustix::fs::syncfs(&mirror).on("flush", &self.mirror)?;
        }
        repository.reference(&self.reference, id, true, "checkpoint").doing("name the checkpoint")?;
        Ok(id)
    }

    /// The attributes are the base's: that is what the file was checked out by. No filter is configured, so only the encoding is applied.
    async fn checkout_bytes(&self, path: &[u8], id: Oid) -> Option<Vec<u8>> {
        let path = std::str::from_utf8(path).ok()?;
        self.git
            .plain("compare a file with its checkout")
            .git_dir(&self.mirror)
            .arg(format!("--attr-source={}", self.base))
            .args(["cat-file", "--filters", &format!("--path={path}"), &id.to_string()])
            .limit(QUERY_LIMIT)
            .run()
            .await
            .ok()
    }
}

/// What a checkpoint has read, for the index that the next one begins with.
#[derive(Default)]
pub struct Reading {
    update: Update,
    /// The machine has run anew since the index was written.
    has_restarted: bool,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").finish_non_exhaustive()
    }
}

#[derive(Default)]
enum Update {
    /// All is as it was.
    #[default]
    Nothing,
    /// Some entries.
    Some { added: Vec<IndexEntry>, removed: Vec<Vec<u8>> },
    /// The index is built anew, which is linear.
    Whole(Vec<IndexEntry>),
}

impl Update {
    fn of(known: &StatCache, walked: &Walked<'_>) -> Self {
        if !walked.changed {
            return Self::Nothing;
        }
        let (added, removed) = difference(known, walked);
        if added.len() + removed.len() <= PATCH_INDEX_UP_TO {
            let added = added.into_iter().map(copy).collect();
            return Self::Some { added, removed: removed.into_iter().map(<[u8]>::to_owned).collect() };
        }
        Self::Whole(walked.entries.iter().map(|entry| copy(entry.get())).collect())
    }
}

fn copy(entry: &IndexEntry) -> IndexEntry {
    IndexEntry { path: entry.path.clone(), ..*entry }
}

impl Reading {
    /// Keeps it, so that the next checkpoint need not read it again. A path that libgit2 refuses is only noted.
    fn write(self, place: &Place) -> Result<Vec<String>, GitError> {
        let notes = self.update.write(&place.meta.join("index"))?;
        if self.has_restarted {
            place.write_boot()?;
        }
        Ok(notes)
    }
}

impl Update {
    fn write(self, path: &Path) -> Result<Vec<String>, GitError> {
        if matches!(self, Self::Nothing) {
            return Ok(Vec::new());
        }
        let mut index = Index::open(path).doing("read the session's index")?;
        let entries = match self {
            Self::Nothing => Vec::new(),
            Self::Some { added, removed } => {
                for gone in removed {
                    let gone = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&gone);
                    index.remove(Path::new(gone), 0).doing("update the session's index")?;
                }
                added
            }
            Self::Whole(entries) => {
                index.clear().doing("update the session's index")?;
                entries
            }
        };
        let mut notes = Vec::new();
        for entry in &entries {
            if let Err(error) = index.add(entry) {
                notes.push(format!("not remembered ({}): {}", error.message(), entry.path.escape_ascii()));
            }
        }
        index.write().doing("write the session's index")?;
        Ok(notes)
    }
}

fn name_of(worktree: &Worktree, task_id: i64) -> String {
    format!("refs/millhand/sessions/{}/{task_id}", worktree.session_id)
}

/// Entries that were read again, and paths that are gone. Both sides are sorted.
fn difference<'a>(known: &'a StatCache, walked: &'a Walked<'_>) -> (Vec<&'a IndexEntry>, Vec<&'a [u8]>) {
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    let mut old = known.entries().iter().peekable();
    for entry in &walked.entries {
        let found = entry.get();
        while let Some(gone) = old.next_if(|old| old.path < found.path) {
            removed.push(gone.path.as_slice());
        }
        let _same_path = old.next_if(|old| old.path == found.path);
        if let Entry::New(entry) = entry {
            added.push(entry);
        }
    }
    removed.extend(old.map(|gone| gone.path.as_slice()));
    (added, removed)
}
