//! Mirrors, worktrees, agents' repositories, checkpoints and diffs. The only place that knows git2.
//!
//! Why it exists: a session's work must become a change set that gives exactly the agent's tree when it is applied, whatever the
//! agent did to its folder, and without a byte of the user's repository changing.
//!
//! What it must not do:
//! - run git, or open git2, on anything that an agent can write. git works through the *mirror*, our bare clone; what is in
//!   a worktree is read file by file ([`checkpoint`](Git::checkpoint)), without following a link;
//! - read the `.git` in a worktree. That is the *agent's repository*: we write it once, from nothing, and only ever remove it;
//! - see the user's git configuration, except to reach a remote;
//! - import `store` or `agent`.
//!
//! Map: [`source`] says what a path or URL is · [`mirror`] keeps our clone · [`worktree`] makes a session's folder, [`session_refs`] names its commits,
//! [`agent_repository`] its `.git`, [`trash`] moves it aside and back, [`pool`] resets it for another session, [`setup`] copies files in · [`checkpoint`] turns the folder into a commit, by [`walk`], [`rules`] (ignore and
//! attributes), [`names`] (those that no tree may have) and [`normalise`] (line ends, LFS) · [`diff`] measures it, [`patch`] writes what `git apply` reads · [`apply`] makes a commit of
//! what was approved, [`land`] brings it to the user's branch and [`checkouts`] to where that is checked out, [`push`] to a remote, [`rebase`] to the
//! session's own worktree ·
//! [`check`] checks a turn's result out for the operator's checks · [`command`] starts every git process · [`folder`] goes through folders without following links.

mod agent_repository;
mod apply;
mod check;
mod checkouts;
mod checkpoint;
mod command;
mod diff;
mod disk;
mod error;
mod flags;
mod floor;
mod folder;
mod land;
mod lfs;
mod lock;
mod merging;
mod mirror;
mod names;
mod normalise;
mod pack;
mod patch;
mod pool;
mod push;
mod rebase;
mod rebuild;
mod rules;
mod session_refs;
mod setup;
mod source;
mod stat_cache;
mod store_object;
mod sweep;
mod tip;
mod trash;
mod walk;
mod worktree;
mod writable;

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

pub use apply::{Approved, CommitText, Conflict, Merged};
pub use check::{Checked, Checkout};
pub use checkpoint::Checkpoint;
pub use command::Progress;
pub use disk::DiskUse;
pub use error::GitError;
pub use land::{Landed, Landing, Step, Where};
pub use mirror::{Base, Head, Mirror};
pub use pack::LOOSE_OBJECTS;
pub use patch::headers_of;
pub use push::{Push, Pushed};
pub use rebase::Rebased;
pub use rebuild::Patched;
pub use setup::CopiedFile;
pub use source::{Source, SourceKind};
pub use tip::Tip;
pub use trash::{Gate, GateOf, Whereabouts};
pub use worktree::Worktree;

use crate::config::Home;
use error::PathContext;
use lock::Lock;

/// The one thing to hold: a git that was checked, and a home to work in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Git {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    binary: PathBuf,
    version: String,
    home: Home,
    user_environment: Vec<(OsString, OsString)>,
}

/// What every git of ours reads instead of the user's `~/.gitconfig`.
const GLOBAL_CONFIG: &str = "\
# Written by Millhand at each start; changes are lost.
[safe]
\tdirectory = *
[core]
\tautocrlf = false
\tfsmonitor = false
\thooksPath = /dev/null
\tprotectHFS = true
\tprotectNTFS = true
\tsymlinks = true
[gc]
\tauto = 0
[maintenance]
\tauto = false
[init]
\tdefaultBranch = main
[advice]
\tdetachedHead = false
";

impl Git {
    /// Finds git (the path given, else by `PATH` of the environment given), checks its version, and prepares the home.
    ///
    /// `user_environment` is the environment of the user whose remotes are reached; nothing else of it is used than `PATH`.
    pub async fn new(
        binary: Option<PathBuf>,
        user_environment: Vec<(OsString, OsString)>,
        home: Home,
    ) -> Result<Self, GitError> {
        let path = user_environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
        let binary = find_git(binary, path)?;
        isolate_library();
        let mut git = Self { inner: Arc::new(Inner { binary, version: String::new(), home, user_environment }) };
        git.prepare_home()?;
        let output = git.plain("say its version").arg("version").limit(command::QUERY_LIMIT).run().await?;
        let version = floor::check(&git.inner.binary, &String::from_utf8_lossy(&output))?;
        if let Some(inner) = Arc::get_mut(&mut git.inner) {
            inner.version = version;
        }
        Ok(git)
    }

    /// The git that is used.
    pub fn binary(&self) -> &Path {
        &self.inner.binary
    }

    /// Its version, like `2.47.3`.
    pub fn version(&self) -> &str {
        &self.inner.version
    }

    /// The pager that the user's configuration asks for; what it is without one is git's to say.
    pub async fn pager(&self) -> Option<String> {
        let asked = self.as_user("find the pager").args(["var", "GIT_PAGER"]).limit(command::QUERY_LIMIT).run().await;
        Some(String::from_utf8(asked.ok()?).ok()?.trim().to_owned())
    }

    fn home(&self) -> &Home {
        &self.inner.home
    }

    fn user_environment(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.inner.user_environment.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    fn private(&self) -> PathBuf {
        self.home().private().join("git")
    }

    fn config_file(&self) -> PathBuf {
        self.private().join("config")
    }

    /// Where git runs, and thinks that home is: always empty.
    fn scratch(&self) -> PathBuf {
        self.private().join("empty")
    }

    /// Where we build what is then moved into its place.
    fn building(&self) -> PathBuf {
        self.private().join("building")
    }

    fn prepare_home(&self) -> Result<(), GitError> {
        let private = self.home().private();
        fs::create_dir_all(self.home().root()).on("create", self.home().root())?;
        if !private.is_dir() {
            fs::DirBuilder::new().mode(0o700).recursive(true).create(&private).on("create", &private)?;
        }
        fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).on("protect", &private)?;
        for folder in [self.scratch(), self.building(), self.private().join("locks"), self.home().mirrors()] {
            fs::create_dir_all(&folder).on("create", &folder)?;
        }
        let config = self.config_file();
        if fs::read(&config).ok().as_deref() != Some(GLOBAL_CONFIG.as_bytes()) {
            write_whole(&config, GLOBAL_CONFIG.as_bytes())?;
        }
        Ok(())
    }

    async fn lock_mirror(&self, project_id: i64) -> Result<Lock, GitError> {
        self.lock(format!("p{project_id}.lock"), format!("the mirror of project {project_id}")).await
    }

    async fn lock_session(&self, session_id: i64) -> Result<Lock, GitError> {
        self.lock(format!("s{session_id}.lock"), format!("the worktree of session s{session_id}")).await
    }

    /// Nobody else applies anything of this project on this host while it is held.
    pub async fn lock_applies(&self, project_id: i64) -> Result<Applies, GitError> {
        let lock = self.lock(format!("apply-p{project_id}.lock"), "the project, to apply changes,".to_owned()).await?;
        Ok(Applies { lock })
    }

    /// The same without waiting; none while somebody else holds it.
    pub async fn try_lock_applies(&self, project_id: i64) -> Result<Option<Applies>, GitError> {
        let path = self.private().join("locks").join(format!("apply-p{project_id}.lock"));
        blocking(move || Ok(Lock::try_acquire(&path)?.map(|lock| Applies { lock }))).await
    }

    async fn lock(&self, name: String, what: String) -> Result<Lock, GitError> {
        let path = self.private().join("locks").join(name);
        blocking(move || Lock::acquire(&path, &what)).await
    }
}

/// The right to apply changes of a project. A git that was started under it and outlives us still holds it.
#[derive(Debug)]
pub struct Applies {
    lock: Lock,
}

/// Runs what blocks away from the runtime's own threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GitError> + Send + 'static,
) -> Result<T, GitError> {
    // What it logs belongs to the turn that asked for it.
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
        .await
        .map_err(|error| GitError::Interrupted(error.to_string()))?
}

/// Writes a file beside its place and moves it there, so that a reader sees all of it or nothing.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), GitError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(folder).on("write beside", path)?;
    std::io::Write::write_all(&mut file, bytes).on("write", path)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).on("write", path)?;
    file.persist(path).map_err(|error| error.error).on("write", path)?;
    Ok(())
}

fn find_git(binary: Option<PathBuf>, path: Option<&OsStr>) -> Result<PathBuf, GitError> {
    let missing = |looked_for| GitError::Missing { looked_for, floor: floor::OLDEST };
    if let Some(given) = binary {
        return given.canonicalize().map_err(|_| missing(Some(given)));
    }
    std::env::split_paths(path.unwrap_or(OsStr::new("/usr/bin:/bin")))
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("git"))
        .find(|candidate| {
            fs::metadata(candidate).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
        .ok_or_else(|| missing(None))
}

/// Takes the machine's and the user's git configuration away from libgit2, once per process.
#[expect(unsafe_code, reason = "libgit2's global options have no safe interface")]
fn isolate_library() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for level in [
            git2::ConfigLevel::System,
            git2::ConfigLevel::Global,
            git2::ConfigLevel::XDG,
            git2::ConfigLevel::ProgramData,
        ] {
            // SAFETY: every use of git2 in this process comes after a `Git` was made, and `Once` lets no other thread past before
            // this is done, so nobody reads these options while they are written.
            if let Err(error) = unsafe { git2::opts::set_search_path(level, "") } {
                tracing::warn!(%error, ?level, "libgit2 keeps its search path");
            }
        }
        // SAFETY: as above. libgit2 runs nothing that a repository's configuration names, and users do add projects of another owner.
        if let Err(error) = unsafe { git2::opts::set_verify_owner_validation(false) } {
            tracing::warn!(%error, "libgit2 keeps its owner check");
        }
        // Our own trees are checked by the walk; a look-up per entry would cost more than the rest.
        git2::opts::strict_object_creation(false);
    });
}
