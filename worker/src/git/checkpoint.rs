//! The worktree as a commit: what the agent committed, staged or left untracked counts the same.

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use git2::{Index, Oid};

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
        let reference = format!("refs/millhand/sessions/{}/{task_id}", worktree.session_id);
        let made = self.checkpoint_to(mirror, worktree, reference, message, Lasting::Written).await?;
        let place = Place::of(self, mirror, worktree.session_id);
        blocking(move || place.forget_rebased()).await?;
        Ok(made)
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

struct Work {
    git: Git,
    mirror: PathBuf,
    place: Place,
    base: String,
    reference: String,
    message: String,
    lasting: Lasting,
}

impl Work {
    fn run(&self, runtime: &tokio::runtime::Handle) -> Result<Checkpoint, GitError> {
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
        // After the commit: an index that is ahead of its checkpoint would be no harm, but one that is lost is only slower.
        let mut notes = walked.notes.clone();
        write_index(&index, &known, &walked, &mut notes)?;
        if has_restarted {
            self.place.write_boot()?;
        }
        notes.sort();
        notes.dedup();
        Ok(Checkpoint { commit: commit.to_string(), tree: walked.tree.to_string(), notes, flagged: walked.flagged })
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

/// Keeps what was read, so that the next checkpoint need not read it again. A path that libgit2 refuses is only noted.
fn write_index(path: &Path, known: &StatCache, walked: &Walked<'_>, notes: &mut Vec<String>) -> Result<(), GitError> {
    if !walked.changed {
        return Ok(());
    }
    let (added, removed) = difference(known, walked);
    let mut index = Index::open(path).doing("read the session's index")?;
    let mut add = |index: &mut Index, entry: &git2::IndexEntry| {
        if let Err(error) = index.add(entry) {
            notes.push(format!("not remembered ({}): {}", error.message(), entry.path.escape_ascii()));
        }
    };
    if added.len() + removed.len() <= PATCH_INDEX_UP_TO {
        for gone in removed {
            let gone = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(gone);
            index.remove(Path::new(gone), 0).doing("update the session's index")?;
        }
        for entry in added {
            add(&mut index, entry);
        }
    } else {
        index.clear().doing("update the session's index")?;
        for entry in &walked.entries {
            add(&mut index, entry.get());
        }
    }
    index.write().doing("write the session's index")
}

/// Entries that were read again, and paths that are gone. Both sides are sorted.
fn difference<'a>(known: &'a StatCache, walked: &'a Walked<'_>) -> (Vec<&'a git2::IndexEntry>, Vec<&'a [u8]>) {
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
