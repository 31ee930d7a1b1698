//! A session's worktree: made, taken up again, removed. `trash` moves it aside and back, `pool` resets it for another session.
//!
//! To git it is a linked worktree of the mirror: HEAD and index lie in the mirror's `worktrees/s<id>`, where only we write, and it is
//! locked against prune. In the folder, `.git` is not the usual pointer but the agent's own repository.
//!
//! Files are checked out in `pool/`, where no agent can write, and moved into their place by one rename: git follows paths, and an agent
//! could make a link of one meanwhile. A marker in `worktrees/s<id>` is written last. With it, the agent's files are never touched, and
//! only what is missing around them is made again. Whatever else lies in a worktree's place is moved to the trash, never removed.

use std::{
    fs,
    os::{
        fd::{AsFd, AsRawFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use super::{
    Base, Git, GitError, Mirror,
    agent_repository::{self, Contents},
    blocking,
    error::PathContext,
    folder,
    lock::Lock,
    mirror, setup,
    trash::prepare_trash,
    write_whole,
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
/// In which run of the machine the index was last written.
const BOOT: &str = "millhand-boot";

impl Git {
    /// Makes the session's worktree, or takes it up as it is. The base of a session that has one stays.
    pub async fn create_worktree(&self, mirror: &Mirror, session_id: i64, base: &Base) -> Result<Worktree, GitError> {
        let place = Place::of(self, mirror, session_id);
        let lock = self.lock_session(session_id).await?;
        let prepared = {
            let (place, base) = (place.clone(), base.clone());
            blocking(move || place.prepare(&base)).await?
        };
        let base = match prepared {
            Prepared::Ready(base) => return Ok(place.worktree(&base)),
            Prepared::NeedsFiles { base, start } => {
                self.build_worktree(&place, &base, &start, &lock).await?;
                return Ok(place.worktree(&base));
            }
            Prepared::NeedsIndex { base, start } => {
                self.adopt(&place, &base, &start, &lock).await?;
                base
            }
            Prepared::NeedsRepository(base) => base,
        };
        let building = self.building();
        blocking(move || {
            let folder = place.open()?;
            if !has_repository(&folder) {
                place.write_agent_repository(&base, &building, &folder)?;
            }
            Ok(place.worktree(&base))
        })
        .await
    }

    /// Moves aside what lies under the number of a session that is only about to begin: another one's, such as of a database that was
    /// replaced. `with_refs`: its checkpoints too, to `refs/millhand/aside`. Where the folder is then, if there was one.
    pub async fn set_aside(
        &self,
        mirror: &Mirror,
        session_id: i64,
        with_refs: bool,
    ) -> Result<Option<PathBuf>, GitError> {
        let (place, record) = (Place::of(self, mirror, session_id), self.copied_record(session_id));
        let _lock = self.lock_session(session_id).await?;
        blocking(move || {
            let aside = place.set_aside()?;
            place.forget()?;
            if with_refs {
                place.set_refs_aside()?;
                setup::forget_record(&record)?;
            }
            Ok(aside)
        })
        .await
    }

    /// Where the session's folder really is: opened without going through a link.
    pub async fn real_path(&self, mirror: &Mirror, session_id: i64) -> Result<PathBuf, GitError> {
        let place = Place::of(self, mirror, session_id);
        blocking(move || {
            let folder = place.open()?;
            fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd())).on("find", &place.path)
        })
        .await
    }

    /// Moves the session's folder and its index to the trash; checkpoints and base stay. The place in the trash, if there
    /// was a folder.
    pub async fn remove_worktree(&self, mirror: &Mirror, session_id: i64) -> Result<Option<PathBuf>, GitError> {
        self.set_aside(mirror, session_id, false).await
    }

    /// Builds a worktree where no agent can write, and moves it into its place; what lies there goes to the trash.
    pub(super) async fn build_worktree(
        &self,
        place: &Place,
        base: &Base,
        start: &str,
        lock: &Lock,
    ) -> Result<(), GitError> {
        let at = place.building();
        {
            let place = place.clone();
            blocking(move || place.begin_building()).await?;
        }
        let built = self.fill(place, &at, base, start, lock).await;
        if built.is_err() {
            let place = place.clone();
            // Why it could not be built is what matters; what is left is removed by the next try.
            let _ = blocking(move || place.clear_building()).await;
        }
        built
    }

    /// Checks out `start` at `at`, where no agent can write, and moves that to the place.
    pub(super) async fn fill(
        &self,
        place: &Place,
        at: &Path,
        base: &Base,
        start: &str,
        lock: &Lock,
    ) -> Result<(), GitError> {
        self.check_out(place, at, start, lock).await?;
        let (place, at, base, building) = (place.clone(), at.to_owned(), base.clone(), self.building());
        blocking(move || {
            // One that waits in the pool gets both from its next session.
            if place.session_id != 0 {
                place.keep_base(&base)?;
                place.write_agent_repository(&base, &building, &folder::open_beneath(&place.home, &at)?)?;
            }
            place.put_in_place(&at, &base)
        })
        .await
    }

    /// The files of a commit, and the index that belongs to them. Filters do not run: none is configured.
    pub(super) async fn check_out(&self, place: &Place, at: &Path, commit: &str, lock: &Lock) -> Result<(), GitError> {
        self.plain("check out the worktree")
            .git_dir(&place.meta)
            .work_tree(at)
            .args(["read-tree", "--reset", "-u", commit])
            .holding(lock)?
            .run()
            .await?;
        write_whole(&place.meta.join("HEAD"), format!("{commit}\n").as_bytes())
    }

    /// Takes up files of which the mirror knows nothing: they stay as they are, and only an index is made, with nothing in it that
    /// could pass for a look at them.
    pub(super) async fn adopt(&self, place: &Place, base: &Base, start: &str, lock: &Lock) -> Result<(), GitError> {
        {
            let place = place.clone();
            blocking(move || place.start_meta()).await?;
        }
        let read = self.plain("make the worktree's index").git_dir(&place.meta);
        read.args(["read-tree", "--reset", start]).holding(lock)?.run().await?;
        let (place, base, head) = (place.clone(), base.clone(), format!("{start}\n"));
        blocking(move || {
            write_whole(&place.meta.join("HEAD"), head.as_bytes())?;
            place.keep_base(&base)?;
            place.write_marker(&base)
        })
        .await
    }
}

/// Where a session's parts lie.
#[derive(Clone, Debug)]
pub(super) struct Place {
    home: PathBuf,
    trash: PathBuf,
    pool: PathBuf,
    pub(super) mirror: PathBuf,
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
    /// The files are there, what the mirror knew of them is not; it was like `start` last.
    NeedsIndex { base: Base, start: String },
    /// No files: they are to be those of `start`.
    NeedsFiles { base: Base, start: String },
}

impl Place {
    pub(super) fn of(git: &Git, mirror: &Mirror, session_id: i64) -> Self {
        let path = git.home().worktree(mirror.project_id, session_id);
        Self::at(git, mirror, path, session_id, format!("s{session_id}"))
    }

    /// A worktree that waits for a session, where no agent can reach it.
    pub(super) fn pooled(git: &Git, mirror: &Mirror, slot: &str) -> Self {
        let path = git.home().pool(mirror.project_id).join(slot);
        Self::at(git, mirror, path, 0, slot.to_owned())
    }

    fn at(git: &Git, mirror: &Mirror, path: PathBuf, session_id: i64, name: String) -> Self {
        Self {
            home: git.home().root().to_owned(),
            trash: git.home().trash(),
            pool: git.home().pool(mirror.project_id),
            mirror: mirror.path.clone(),
            session_id,
            path,
            meta: mirror.path.join("worktrees").join(&name),
            name,
        }
    }

    /// The folder, opened without going through a link.
    pub(super) fn open(&self) -> Result<std::os::fd::OwnedFd, GitError> {
        folder::open_beneath(&self.home, &self.path)
    }

    /// Another folder of the home, opened likewise.
    pub(super) fn open_at(&self, at: &Path) -> Result<std::os::fd::OwnedFd, GitError> {
        folder::open_beneath(&self.home, at)
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
        let parent = self.make_parent()?;
        let there = folder::is_folder(&parent, self.path.file_name().unwrap_or_default());
        match self.read_marker() {
            Some(base) if there && self.meta.join("index").is_file() => {
                self.remove_stale_lock()?;
                let whole = has_repository(&self.open()?);
                Ok(if whole { Prepared::Ready(base) } else { Prepared::NeedsRepository(base) })
            }
            // The folder was lost (or replaced): what is known of the work is the last checkpoint.
            Some(base) if !there => Ok(Prepared::NeedsFiles { start: self.start_of(&base)?, base }),
            Some(base) => Ok(Prepared::NeedsIndex { start: self.start_of(&base)?, base }),
            // The mirror was lost, and cloned anew: the files are the session's work.
            None if there && !self.meta.exists() && self.has_files()? => {
                Ok(Prepared::NeedsIndex { base: wanted.clone(), start: self.start_of(wanted)? })
            }
            None => Ok(Prepared::NeedsFiles { base: wanted.clone(), start: self.start_of(wanted)? }),
        }
    }

    /// What a session that has this base starts from: its last checkpoint, if it has one.
    fn start_of(&self, base: &Base) -> Result<String, GitError> {
        Ok(self.last_checkpoint()?.unwrap_or_else(|| base.commit.clone()))
    }

    fn has_files(&self) -> Result<bool, GitError> {
        Ok(!folder::names(self.open()?).on("list", &self.path)?.is_empty())
    }

    /// The folder that the worktree lies in, made if it is missing.
    pub(super) fn make_parent(&self) -> Result<std::os::fd::OwnedFd, GitError> {
        let parent = self.path.parent().unwrap_or(&self.home);
        fs::create_dir_all(parent).on("create", parent)?;
        self.open_parent()
    }

    /// Where it is built. Only we write there, so what a kill left of it is ours to remove.
    fn building(&self) -> PathBuf {
        self.pool.join(format!("new-{}", self.name))
    }

    /// An empty folder to build in, and what the mirror knows of it.
    fn begin_building(&self) -> Result<(), GitError> {
        self.set_aside()?;
        self.start_meta()?;
        fs::create_dir_all(&self.pool).on("create", &self.pool)?;
        self.clear_building()?;
        let at = self.building();
        fs::create_dir(&at).on("create", at)
    }

    fn clear_building(&self) -> Result<(), GitError> {
        let at = self.building();
        let pool = folder::open_beneath(&self.home, &self.pool)?;
        folder::remove(pool, at.file_name().unwrap_or_default().as_bytes()).on("remove the unfinished", &at)
    }

    /// What the mirror knows of it, anew and by one rename.
    fn start_meta(&self) -> Result<(), GitError> {
        self.forget()?;
        fs::create_dir_all(self.mirror.join("worktrees")).on("create", &self.mirror)?;
        let building =
            tempfile::Builder::new().prefix("worktree-").tempdir_in(&self.mirror).on("create in", &self.mirror)?;
        self.describe(building.path())?;
        fs::rename(building.path(), &self.meta).on("put in place", &self.meta)?;
        let _moved = building.keep();
        Ok(())
    }

    /// Moves what was built into its place, if it is not there, and then says that it is whole.
    fn put_in_place(&self, at: &Path, base: &Base) -> Result<(), GitError> {
        if at != self.path {
            let from = folder::open_beneath(&self.home, at.parent().unwrap_or(&self.home))?;
            let name = at.file_name().unwrap_or_default();
            rustix::fs::renameat(&from, name, self.make_parent()?, self.name()).on("put in place", &self.path)?;
        }
        self.write_marker(base)
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

    /// A killed process can leave the index locked; we hold the session's lock, so nobody works on it.
    pub(super) fn remove_stale_lock(&self) -> Result<(), GitError> {
        mirror::remove_stale_lock(&self.meta.join("index.lock"))
    }

    /// Builds the agent's `.git` elsewhere and moves it in; whatever had its name is removed, not followed.
    fn write_agent_repository(&self, base: &Base, building: &Path, folder: impl AsFd) -> Result<(), GitError> {
        let temporary = self.build_agent_repository(base, building, &self.meta.join("index"))?;
        folder::remove(&folder, b".git").on("remove the .git in", &self.path)?;
        let built = temporary.path().join("git");
        rustix::fs::renameat(rustix::fs::CWD, &built, &folder, ".git").on("put the .git into", &self.path)
    }

    /// Builds the agent's `.git`, as `git` in a folder where no agent can write.
    pub(super) fn build_agent_repository(
        &self,
        base: &Base,
        building: &Path,
        index: &Path,
    ) -> Result<tempfile::TempDir, GitError> {
        let repository = mirror::open(&self.mirror)?;
        let temporary =
            tempfile::Builder::new().prefix("repository-").tempdir_in(building).on("create in", building)?;
        let branch = self.branch();
        let contents = Contents {
            mirror: &repository,
            index: index.to_owned(),
            branch: &branch,
            commit: &base.commit,
            base_branch: base.branch.as_deref(),
        };
        agent_repository::write(&temporary.path().join("git"), &contents)?;
        Ok(temporary)
    }

    pub(super) fn write_marker(&self, base: &Base) -> Result<(), GitError> {
        self.write_boot()?;
        let text = format!("{}\n{}\n", base.commit, base.branch.as_deref().unwrap_or(""));
        write_whole(&self.meta.join(MARKER), text.as_bytes())
    }

    /// Whether the machine was started since the index was last held against the files.
    pub(super) fn has_restarted(&self) -> bool {
        fs::read_to_string(self.meta.join(BOOT)).unwrap_or_default() != boot_id()
    }

    pub(super) fn write_boot(&self) -> Result<(), GitError> {
        write_whole(&self.meta.join(BOOT), boot_id().as_bytes())
    }

    pub(super) fn read_marker(&self) -> Option<Base> {
        let text = fs::read_to_string(self.meta.join(MARKER)).ok()?;
        let mut lines = text.lines();
        let commit = lines.next().filter(|commit| commit.len() == 40)?.to_owned();
        Some(Base { commit, branch: lines.next().filter(|branch| !branch.is_empty()).map(str::to_owned) })
    }

    /// Moves what lies in its place to the trash, with what the mirror knows of it. The folder's new place, if there was one.
    pub(super) fn set_aside(&self) -> Result<Option<PathBuf>, GitError> {
        let aside = self.set_folder_aside()?;
        if let Some(slot) = aside.as_deref().and_then(Path::parent)
            && self.meta.exists()
        {
            fs::rename(&self.meta, slot.join("meta")).on("move to the trash", &self.meta)?;
        }
        Ok(aside)
    }

    /// The same with the folder alone.
    pub(super) fn set_folder_aside(&self) -> Result<Option<PathBuf>, GitError> {
        if self.path.symlink_metadata().is_err() {
            return Ok(None);
        }
        prepare_trash(&self.trash)?;
        let prefix = format!("{}-", self.name);
        let slot = tempfile::Builder::new().prefix(&prefix).tempdir_in(&self.trash).on("create in", &self.trash)?;
        let target = slot.path().join("worktree");
        self.move_folder(&target)?;
        let _kept = slot.keep();
        Ok(Some(target))
    }

    /// Moves the folder, or whatever has its name.
    pub(super) fn move_folder(&self, target: &Path) -> Result<(), GitError> {
        let parent = self.open_parent()?;
        folder::make_movable(&parent, self.name()).on("open", &self.path)?;
        rustix::fs::renameat(&parent, self.name(), rustix::fs::CWD, target).on("move", &self.path)
    }
}

/// Whether a worktree has the agent's repository, as far as can be told without reading it.
fn has_repository(folder: impl AsFd) -> bool {
    folder::is_folder(&folder, ".git") && folder::is_file(&folder, ".git/HEAD")
}

/// This run of the machine.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}
