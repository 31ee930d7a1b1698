//! A session's worktree: made, taken up again, removed. `trash` moves it aside and back, `pool` resets it for another session.
//!
//! To git it is a linked worktree of the mirror: HEAD and index lie in the mirror's `worktrees/s<id>`, where only we write, and it is
//! locked against prune. In the folder, `.git` is not the usual pointer but the agent's own repository.
//!
//! A marker in `worktrees/s<id>` is written last. Without it no turn can have worked in the folder, so what is half made is thrown
//! away; with it, the agent's files are never touched, and only what is missing around them is made again.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use super::{
    Base, Git, GitError, Mirror,
    agent_repository::{self, Contents},
    blocking,
    error::{Context, PathContext},
    folder,
    lock::Lock,
    mirror, write_whole,
};

/// A session's worktree, ready for a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worktree {
    /// The session.
    pub session_id: i64,
    /// The folder that agents work in.
    pub path: PathBuf,
    /// The branch that the agent finds checked out.
    pub branch: String,
    /// The commit that the session is measured against.
    pub base_commit: String,
}

pub(super) const MARKER: &str = "millhand-ready";

impl Git {
    /// Makes the session's worktree, or takes it up as it is. The base of a session that has one stays.
    pub async fn create_worktree(&self, mirror: &Mirror, session_id: i64, base: &Base) -> Result<Worktree, GitError> {
        let place = Place::of(self, mirror, session_id);
        let lock = self.lock_session(session_id).await?;
        let prepared = {
            let (place, base) = (place.clone(), base.clone());
            blocking(move || place.prepare(&base)).await?
        };
        let (base, start) = match prepared {
            Prepared::Ready(base) => return Ok(place.worktree(&base)),
            Prepared::NeedsRepository(base) => (base, None),
            Prepared::NeedsFiles { base, start } => (base, Some(start)),
        };
        if let Some(start) = start {
            self.check_out(&place, &start, &lock).await?;
        }
        let (place, building) = (place.clone(), self.building());
        blocking(move || {
            place.write_agent_repository(&base, &building)?;
            place.write_marker(&base)?;
            Ok(place.worktree(&base))
        })
        .await
    }

    /// Moves the session's folder to the trash and forgets its index; checkpoints and base stay. The place in the trash, if there
    /// was a folder.
    pub async fn remove_worktree(&self, mirror: &Mirror, session_id: i64) -> Result<Option<PathBuf>, GitError> {
        let place = Place::of(self, mirror, session_id);
        let _lock = self.lock_session(session_id).await?;
        blocking(move || place.discard()).await
    }

    /// Writes the files of a commit into the folder, and the index that belongs to them. Filters do not run: none is configured.
    pub(super) async fn check_out(&self, place: &Place, commit: &str, lock: &Lock) -> Result<(), GitError> {
        self.plain("check out the worktree")
            .git_dir(&place.meta)
            .work_tree(&place.path)
            .args(["read-tree", "--reset", "-u", commit])
            .holding(lock)?
            .run()
            .await?;
        write_whole(&place.meta.join("HEAD"), format!("{commit}\n").as_bytes())
    }
}

/// Where a session's parts lie.
#[derive(Clone, Debug)]
pub(super) struct Place {
    home: PathBuf,
    trash: PathBuf,
    mirror: PathBuf,
    /// The session; 0 for a pooled worktree, which has none.
    pub(super) session_id: i64,
    /// Name of the folder, and of what the mirror knows of it.
    name: String,
    /// The folder that agents work in.
    pub(super) path: PathBuf,
    /// HEAD and index, in the mirror.
    pub(super) meta: PathBuf,
}

/// What is there of a worktree.
enum Prepared {
    /// All of it.
    Ready(Base),
    /// The files are there, the agent's repository is not.
    NeedsRepository(Base),
    /// No files: they are to be those of `start`.
    NeedsFiles { base: Base, start: String },
}

impl Place {
    pub(super) fn of(git: &Git, mirror: &Mirror, session_id: i64) -> Self {
        let path = git.home().worktree(mirror.project_id, session_id);
        Self::at(git, &mirror.path, path, session_id, format!("s{session_id}"))
    }

    /// A worktree that waits for a session, where no agent can reach it.
    pub(super) fn pooled(git: &Git, mirror: &Mirror, slot: &str) -> Self {
        let path = git.home().pool(mirror.project_id).join(slot);
        Self::at(git, &mirror.path, path, 0, slot.to_owned())
    }

    fn at(git: &Git, mirror: &Path, path: PathBuf, session_id: i64, name: String) -> Self {
        Self {
            home: git.home().root().to_owned(),
            trash: git.home().trash(),
            mirror: mirror.to_owned(),
            session_id,
            path,
            meta: mirror.join("worktrees").join(&name),
            name,
        }
    }

    /// The folder, opened without going through a link.
    pub(super) fn open(&self) -> Result<std::os::fd::OwnedFd, GitError> {
        folder::open_beneath(&self.home, &self.path)
    }

    pub(super) fn open_parent(&self) -> Result<std::os::fd::OwnedFd, GitError> {
        folder::open_beneath(&self.home, self.path.parent().unwrap_or(&self.home))
    }

    pub(super) fn name(&self) -> &[u8] {
        self.name.as_bytes()
    }

    fn branch(&self) -> String {
        format!("millhand/{}", self.name)
    }

    pub(super) fn worktree(&self, base: &Base) -> Worktree {
        Worktree {
            session_id: self.session_id,
            path: self.path.clone(),
            branch: self.branch(),
            base_commit: base.commit.clone(),
        }
    }

    fn prepare(&self, wanted: &Base) -> Result<Prepared, GitError> {
        let parent = self.path.parent().unwrap_or(&self.home);
        fs::create_dir_all(parent).on("create", parent)?;
        let parent = self.open_parent()?;
        let there = folder::is_folder(&parent, self.path.file_name().unwrap_or_default());
        match self.read_marker() {
            Some(base) if there && self.meta.join("index").is_file() => {
                self.remove_stale_lock()?;
                let folder = self.open()?;
                let whole = folder::is_folder(&folder, ".git") && folder::is_file(&folder, ".git/HEAD");
                Ok(if whole { Prepared::Ready(base) } else { Prepared::NeedsRepository(base) })
            }
            Some(base) => {
                // The folder was lost (or replaced): what is known of the work is the last checkpoint.
                let start = self.last_checkpoint()?.unwrap_or_else(|| base.commit.clone());
                self.move_to_trash()?;
                self.start_over(&parent)?;
                self.keep_base(&base)?;
                Ok(Prepared::NeedsFiles { base, start })
            }
            None => {
                self.start_over(&parent)?;
                self.keep_base(wanted)?;
                Ok(Prepared::NeedsFiles { base: wanted.clone(), start: wanted.commit.clone() })
            }
        }
    }

    /// An empty folder, and what the mirror knows of it, by one rename.
    pub(super) fn start_over(&self, parent: &impl AsFd) -> Result<(), GitError> {
        folder::remove(parent, self.name()).on("remove the unfinished", &self.path)?;
        if self.meta.exists() {
            fs::remove_dir_all(&self.meta).on("remove the unfinished", &self.meta)?;
        }
        rustix::fs::mkdirat(parent, self.name(), rustix::fs::Mode::from_raw_mode(0o755)).on("create", &self.path)?;
        fs::create_dir_all(self.mirror.join("worktrees")).on("create", &self.mirror)?;
        let building =
            tempfile::Builder::new().prefix("worktree-").tempdir_in(&self.mirror).on("create in", &self.mirror)?;
        self.describe(building.path())?;
        fs::rename(building.path(), &self.meta).on("put in place", &self.meta)?;
        let _moved = building.keep();
        Ok(())
    }

    /// The files by which git knows a linked worktree.
    pub(super) fn describe(&self, meta: &Path) -> Result<(), GitError> {
        let mut pointer = self.path.join(".git").into_os_string().into_encoded_bytes();
        pointer.push(b'\n');
        for (name, bytes) in [
            ("commondir", b"../..\n".as_slice()),
            ("gitdir", &pointer),
            ("locked", b"belongs to Millhand\n"),
            ("HEAD", b"ref: refs/heads/none\n"),
        ] {
            fs::write(meta.join(name), bytes).on("write", meta.join(name))?;
        }
        Ok(())
    }

    /// Keeps the base commit from being pruned.
    pub(super) fn keep_base(&self, base: &Base) -> Result<(), GitError> {
        let repository = mirror::open(&self.mirror)?;
        let id = git2::Oid::from_str(&base.commit).doing("read the base commit")?;
        let name = format!("refs/millhand/base/{}", self.session_id);
        mirror::remove_stale_lock(&self.mirror.join(format!("{name}.lock")))?;
        repository.reference(&name, id, true, "base of a session").doing("keep the session's base")?;
        Ok(())
    }

    pub(super) fn last_checkpoint(&self) -> Result<Option<String>, GitError> {
        let repository = mirror::open(&self.mirror)?;
        let prefix = format!("refs/millhand/sessions/{}/", self.session_id);
        let mut last: Option<(i64, String)> = None;
        for reference in repository.references_glob(&format!("{prefix}*")).doing("list checkpoints")? {
            let reference = reference.doing("list checkpoints")?;
            let task = reference.name().ok().and_then(|name| name.strip_prefix(&prefix)?.parse().ok());
            if let (Some(task), Some(target)) = (task, reference.target())
                && last.as_ref().is_none_or(|(latest, _)| task > *latest)
            {
                last = Some((task, target.to_string()));
            }
        }
        Ok(last.map(|(_, commit)| commit))
    }

    /// A killed process can leave the index locked; we hold the session's lock, so nobody works on it.
    pub(super) fn remove_stale_lock(&self) -> Result<(), GitError> {
        mirror::remove_stale_lock(&self.meta.join("index.lock"))
    }

    /// Builds the agent's `.git` elsewhere and moves it in; whatever had its name is removed, not followed.
    pub(super) fn write_agent_repository(&self, base: &Base, building: &Path) -> Result<(), GitError> {
        self.write_agent_repository_with(base, building, &self.meta.join("index"))
    }

    /// The same with another index.
    pub(super) fn write_agent_repository_with(
        &self,
        base: &Base,
        building: &Path,
        index: &Path,
    ) -> Result<(), GitError> {
        let repository = mirror::open(&self.mirror)?;
        let temporary =
            tempfile::Builder::new().prefix("repository-").tempdir_in(building).on("create in", building)?;
        let built = temporary.path().join("git");
        let branch = self.branch();
        let contents = Contents {
            mirror: &repository,
            index: index.to_owned(),
            branch: &branch,
            commit: &base.commit,
            base_branch: base.branch.as_deref(),
        };
        agent_repository::write(&built, &contents)?;
        let folder = self.open()?;
        folder::remove(&folder, b".git").on("remove the .git in", &self.path)?;
        rustix::fs::renameat(rustix::fs::CWD, &built, &folder, ".git").on("put the .git into", &self.path)
    }

    pub(super) fn write_marker(&self, base: &Base) -> Result<(), GitError> {
        let text = format!("{}\n{}\n", base.commit, base.branch.as_deref().unwrap_or(""));
        write_whole(&self.meta.join(MARKER), text.as_bytes())
    }

    pub(super) fn read_marker(&self) -> Option<Base> {
        let text = fs::read_to_string(self.meta.join(MARKER)).ok()?;
        let mut lines = text.lines();
        let commit = lines.next().filter(|commit| commit.len() == 40)?.to_owned();
        Some(Base { commit, branch: lines.next().filter(|branch| !branch.is_empty()).map(str::to_owned) })
    }

    fn discard(&self) -> Result<Option<PathBuf>, GitError> {
        let trashed = self.move_to_trash()?;
        if self.meta.exists() {
            fs::remove_dir_all(&self.meta).on("remove", &self.meta)?;
        }
        Ok(trashed)
    }

    pub(super) fn move_to_trash(&self) -> Result<Option<PathBuf>, GitError> {
        if self.path.symlink_metadata().is_err() {
            return Ok(None);
        }
        fs::create_dir_all(&self.trash).on("create", &self.trash)?;
        let prefix = format!("{}-", self.name);
        let slot = tempfile::Builder::new().prefix(&prefix).tempdir_in(&self.trash).on("create in", &self.trash)?;
        let target = slot.path().join("worktree");
        let parent = self.open_parent()?;
        rustix::fs::renameat(&parent, self.name(), rustix::fs::CWD, &target).on("move to the trash", &self.path)?;
        let _kept = slot.keep();
        Ok(Some(target))
    }
}
