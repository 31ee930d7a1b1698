//! Bringing a commit to a branch of the user's own repository: by compare-and-swap, and into the worktree that has it checked out only where
//! that is unmodified. Either all of it is done, or nothing.
//!
//! The order, and what a kill leaves: objects are fetched (nothing to be seen) → everything is checked → the branch is moved (from here on the
//! change is taken: [`Git::finish_landing`] brings the files along) → the files are written.
//! A lock that somebody else's git holds is waited for, and never deleted. The user's hooks do not run.

use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use git2::{ObjectType, Oid};

use super::{
    Applies, Git, GitError, Mirror, apply, blocking,
    checkouts::{self, Checkout, Checkouts, Difference},
    lfs,
};

/// How far an apply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Somebody else is at it, another apply or another git: that is waited for.
    Waiting,
    /// The target is in the mirror.
    Fetched,
    /// The commit is made.
    Merged,
    /// The journal has it.
    Begun,
    /// The user's repository has the commit, on no branch yet.
    Brought,
    /// Nothing stands in the way.
    Checked,
    /// The branch is at the commit.
    Moved,
    /// So are the files of the worktree that has it checked out.
    Written,
    /// The journal says so.
    Landed,
    /// The session's worktree has it.
    Rebased,
}

/// Where a commit is to land.
#[derive(Clone, Debug)]
pub struct Landing<'a> {
    /// Path of the user's repository.
    pub source: &'a str,
    /// The branch.
    pub branch: &'a str,
    /// The commit that it must be at; none: it must not exist.
    pub old: Option<&'a str>,
    /// The commit that it is to be at.
    pub new: &'a str,
    /// What holds the commit in the mirror.
    pub key: i64,
    /// How long a lock of the user's git is waited for.
    pub patience: Duration,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Landed {
    /// It is there; in this worktree, too, if the branch is checked out.
    Yes(Option<PathBuf>),
    /// Somebody else moved the branch: nothing was done.
    Moved,
    /// It cannot be done as things are: nothing was done.
    Refused(String),
}

/// Where a branch is found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Where {
    /// At the commit that it was to move to.
    New,
    /// Where it was before.
    Old,
    /// Somewhere else; none: it is gone.
    Elsewhere(Option<String>),
}

const NO_COMMIT: &str = "0000000000000000000000000000000000000000";
const EMPTY_TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
const PLAIN: u32 = 0o100_644;
const EXECUTABLE: u32 = 0o100_755;
const PAUSE: Duration = Duration::from_millis(100);
/// Paths per command line.
const AT_ONCE: usize = 100;

impl Git {
    /// Moves the branch, and the files where it is checked out.
    pub async fn land(
        &self,
        mirror: &Mirror,
        landing: &Landing<'_>,
        held: &Applies,
        on_step: &(dyn Fn(Step) + Send + Sync),
    ) -> Result<Landed, GitError> {
        let user = self.user_repository(mirror, landing, held, on_step).await?;
        match user.land().await {
            Err(GitError::Refused { why }) => Ok(Landed::Refused(why)),
            other => other,
        }
    }

    /// Where the branch is.
    pub async fn whereabouts_of(&self, landing: &Landing<'_>) -> Result<Where, GitError> {
        let git_dir = self.git_dir_of(landing.source).await?;
        let (branch, old, new) = (landing.branch.to_owned(), landing.old.map(str::to_owned), landing.new.to_owned());
        blocking(move || {
            let tip = Checkouts::of(&git_dir)?.tip(&branch)?;
            Ok(match tip {
                Some(tip) if tip == new => Where::New,
                tip if tip == old => Where::Old,
                other => Where::Elsewhere(other),
            })
        })
        .await
    }

    /// Brings the files along after a kill, where the branch is at the new commit already. What the killed one had written counts as
    /// written; what the user changed since is left alone, and is why it is refused.
    pub async fn finish_landing(
        &self,
        mirror: &Mirror,
        landing: &Landing<'_>,
        held: &Applies,
    ) -> Result<Landed, GitError> {
        let user = self.user_repository(mirror, landing, held, &|_| {}).await?;
        match user.finish().await {
            Err(GitError::Refused { why }) => Ok(Landed::Refused(why)),
            other => other,
        }
    }

    async fn git_dir_of(&self, source: &str) -> Result<PathBuf, GitError> {
        let source = self.locate(source).await?;
        source.git_dir.ok_or_else(|| GitError::refused("the project is not a repository on this host"))
    }

    async fn user_repository<'a>(
        &'a self,
        mirror: &'a Mirror,
        landing: &'a Landing<'a>,
        held: &'a Applies,
        on_step: &'a (dyn Fn(Step) + Send + Sync),
    ) -> Result<UserRepository<'a>, GitError> {
        let git_dir = self.git_dir_of(landing.source).await?;
        let checkouts = blocking(move || Checkouts::of(&git_dir)).await?;
        Ok(UserRepository { git: self, mirror, landing, held, checkouts, on_step })
    }
}

struct UserRepository<'a> {
    git: &'a Git,
    mirror: &'a Mirror,
    landing: &'a Landing<'a>,
    held: &'a Applies,
    checkouts: Checkouts,
    on_step: &'a (dyn Fn(Step) + Send + Sync),
}

impl UserRepository<'_> {
    async fn land(&self) -> Result<Landed, GitError> {
        let on_step = self.on_step;
        let Landing { branch, old, .. } = *self.landing;
        let checkout = self.checkouts.with_branch(branch)?;
        let (brought, compared) = tokio::join!(self.bring(), self.compare(checkout));
        brought?;
        on_step(Step::Brought);
        let (differences, obstacle) = compared?;
        if let Some(path) = obstacle {
            let why = format!("{} is there already, and not part of {branch}: move it away", path.display());
            return Err(GitError::refused(why));
        }
        // Whoever checks the branch out later looks for it there, too. It may be much: what is checked below is to hold still.
        self.bring_lfs(&differences).await?;
        if let Some(checkout) = checkout {
            self.check(checkout).await?;
        }
        on_step(Step::Checked);
        if !self.swap(self.landing.new, old).await? {
            return Ok(Landed::Moved);
        }
        on_step(Step::Moved);
        if let Some(checkout) = checkout
            && let Err(error) = self.read_tree(checkout, false).await
        {
            let left = self.take_back(checkout, &differences).await?;
            let rest = match left.is_empty() {
                true => "all is as it was".to_owned(),
                false => format!("all is as it was but {}, left alone as found", left.join(", ")),
            };
            return Err(GitError::refused(format!("the files could not be written, and {rest}: {error}")));
        }
        on_step(Step::Written);
        Ok(Landed::Yes(checkout.map(|checkout| checkout.path.clone())))
    }

    /// Fetches the commit: objects only, which nothing refers to yet.
    async fn bring(&self) -> Result<(), GitError> {
        // Looking for deltas would take longer than all the rest.
        let program = self.git.binary().to_str().map(|path| path.replace('\'', r"'\''"));
        let undeltified = program.map(|path| format!("--upload-pack='{path}' -c pack.window=0 upload-pack"));
        self.git
            .plain("bring the commit to the repository")
            .git_dir(&self.checkouts.common)
            .args(["fetch", "--quiet", "--no-write-fetch-head", "--no-auto-maintenance", "--no-tags"])
            .arg("--no-recurse-submodules")
            .args(undeltified)
            .arg("--")
            .arg(&self.mirror.path)
            .arg(apply::applying(self.landing.key))
            .holding(&self.held.lock)?
            .run()
            .await?;
        Ok(())
    }

    async fn compare(&self, checkout: Option<&Checkout>) -> Result<(Vec<Difference>, Option<PathBuf>), GitError> {
        let (mirror, old) = (self.mirror.path.clone(), self.landing.old.map(str::to_owned));
        let (new, top) = (self.landing.new.to_owned(), checkout.map(|checkout| checkout.path.clone()));
        blocking(move || checkouts::compare(&mirror, old.as_deref(), &new, top.as_deref())).await
    }

    /// Nothing unmerged, and nothing modified that would change.
    async fn check(&self, checkout: &Checkout) -> Result<(), GitError> {
        let shown = checkout.path.display();
        let unmerged =
            self.at(checkout, "look for unmerged files").args(["ls-files", "--unmerged", "-z"]).run().await?;
        if !unmerged.is_empty() {
            return Err(GitError::refused(format!("{shown} has unmerged files")));
        }
        let tried = match self.read_tree(checkout, true).await {
            // What was only touched is no change: git has to look at it again.
            Err(GitError::Failed { .. }) => {
                self.unless_locked(|| async {
                    let what = "look at the files again";
                    let ended = self.at(checkout, what).args(["update-index", "--refresh"]).run_to_end().await?;
                    // It fails if something is one, which is what the dry run finds out.
                    if ended.status == Some(128) { Err(ended.failure(what)) } else { Ok(()) }
                })
                .await?;
                self.read_tree(checkout, true).await
            }
            tried => tried,
        };
        tried.map_err(|error| match error {
            GitError::Failed { message, .. } => {
                let first = message.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
                GitError::refused(format!("{shown} has changes of yours in the way: {first}"))
            }
            other => other,
        })
    }

    /// Takes index and files from the one commit to the other, as a fast-forward does: only unmodified files are touched.
    async fn read_tree(&self, checkout: &Checkout, dry_run: bool) -> Result<(), GitError> {
        let Landing { old, new, .. } = *self.landing;
        self.unless_locked(|| async {
            let what = if dry_run { "try to update the files" } else { "update the files" };
            self.at(checkout, what)
                .args(["read-tree", "-m", "-u"])
                .args(dry_run.then_some("-n"))
                .args([old.unwrap_or(EMPTY_TREE), new])
                .holding(&self.held.lock)?
                .run()
                .await
        })
        .await?;
        Ok(())
    }

    fn at<'b>(&self, checkout: &Checkout, what: &'b str) -> super::command::GitCommand<'b> {
        self.git.as_user(what).git_dir(&checkout.git_dir).work_tree(&checkout.path)
    }

    /// Moves the branch if it is where it should be; false if somebody else moved it. No commit to move to: the branch goes.
    async fn swap(&self, to: &str, from: Option<&str>) -> Result<bool, GitError> {
        let name = format!("refs/heads/{}", self.landing.branch);
        let from = from.unwrap_or(NO_COMMIT);
        let swapped = self
            .unless_locked(|| async {
                let command = self.git.as_user("move the branch").git_dir(&self.checkouts.common);
                let command = match to {
                    NO_COMMIT => command.args(["update-ref", "-d", &name, from]),
                    _ => command.args(["update-ref", "-m", "millhand: apply", &name, to, from]),
                };
                command.holding(&self.held.lock)?.run().await
            })
            .await;
        match swapped {
            Ok(_) => Ok(true),
            Err(error) => {
                let (checkouts, branch) = (self.checkouts.clone(), self.landing.branch.to_owned());
                let tip = blocking(move || checkouts.tip(&branch)).await?;
                match tip.as_deref().unwrap_or(NO_COMMIT) {
                    tip if tip == to => Ok(true),
                    tip if tip == from => Err(error),
                    _ => Ok(false),
                }
            }
        }
    }

    /// Tries again while somebody else's git holds a lock, for as long as patience lasts.
    async fn unless_locked<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, GitError>
    where
        F: Future<Output = Result<T, GitError>>,
    {
        let began = Instant::now();
        loop {
            match attempt().await {
                Err(GitError::Failed { message, .. }) if is_locked(&message) => {
                    if began.elapsed() >= self.landing.patience {
                        let first = message.lines().next().unwrap_or_default().trim_start_matches("fatal: ").to_owned();
                        return Err(GitError::refused(format!(
                            "another git holds a lock: {first} If no git is running there, remove that file yourself"
                        )));
                    }
                    (self.on_step)(Step::Waiting);
                    tokio::time::sleep(PAUSE).await;
                }
                other => return other,
            }
        }
    }

    /// The files could not be written: those that were are put back, and the branch goes back. What is neither as it was nor as it was to
    /// be was saved there a moment ago, or is half written: it stays, and is named.
    async fn take_back(&self, checkout: &Checkout, differences: &[Difference]) -> Result<Vec<String>, GitError> {
        let states = self.states(checkout, differences).await?;
        let (mut restore, mut left) = (Vec::new(), Vec::new());
        for (difference, state) in differences.iter().zip(&states) {
            let path = checkout.path.join(std::ffi::OsStr::from_bytes(&difference.path));
            let is_there = path.symlink_metadata().is_ok();
            match (state, difference.old) {
                (State::Old, _) => continue,
                (State::New, _) if is_there => remove_file(&checkout.path, &path),
                (State::Other, _) if is_there => {
                    left.push(difference.path.escape_ascii().to_string());
                    continue;
                }
                (State::New | State::Other, _) => {}
            }
            restore.extend(difference.old.map(|_| difference.path.clone()));
        }
        for paths in restore.chunks(AT_ONCE) {
            let names = paths.iter().map(|path| std::ffi::OsStr::from_bytes(path));
            // Without force: what comes to be there meanwhile is not ours.
            let put_back = self.at(checkout, "put the files back").args(["checkout-index", "-u", "--"]);
            put_back.args(names).holding(&self.held.lock)?.run().await?;
        }
        if !self.swap(self.landing.old.unwrap_or(NO_COMMIT), Some(self.landing.new)).await? {
            let why = "the files could not be written, and the branch has moved on meanwhile";
            return Err(GitError::Interrupted(why.to_owned()));
        }
        Ok(left)
    }

    /// The branch is at the new commit; files and index may be anywhere between.
    async fn finish(&self) -> Result<Landed, GitError> {
        let Some(checkout) = self.checkouts.with_branch(self.landing.branch)? else { return Ok(Landed::Yes(None)) };
        let (differences, _) = self.compare(None).await?;
        let states = self.states(checkout, &differences).await?;
        let unwritten: Vec<_> = differences
            .iter()
            .zip(&states)
            .filter(|(_, state)| **state != State::New)
            .map(|(one, _)| one.clone())
            .collect();
        if let Some(path) = self.in_the_way(checkout, unwritten).await? {
            let why = format!("{} has come to be there meanwhile: move it away", path.display());
            return Err(GitError::refused(why));
        }
        // The index learns of what was written already: then it is unmodified, and stays.
        let written: Vec<_> = differences.iter().zip(&states).filter(|(_, state)| **state == State::New).collect();
        for some in written.chunks(AT_ONCE) {
            let mut command = self.at(checkout, "note the files that are written").args(["update-index", "--add"]);
            for (difference, _) in some {
                let path = std::ffi::OsStr::from_bytes(&difference.path);
                command = match difference.new {
                    Some((mode, id)) => {
                        let mut entry = std::ffi::OsString::from(format!("{mode:o},{id},"));
                        entry.push(path);
                        command.arg("--cacheinfo").arg(entry)
                    }
                    None => command,
                };
            }
            command.holding(&self.held.lock)?.run().await?;
        }
        self.bring_lfs(&differences).await?;
        self.check(checkout).await?;
        self.read_tree(checkout, false).await?;
        Ok(Landed::Yes(Some(checkout.path.clone())))
    }

    /// What stands where one of these would be added. git itself overwrites what is ignored.
    async fn in_the_way(&self, checkout: &Checkout, differences: Vec<Difference>) -> Result<Option<PathBuf>, GitError> {
        let (mirror, top) = (self.mirror.path.clone(), checkout.path.clone());
        let old = self.landing.old.map(str::to_owned);
        blocking(move || checkouts::obstacle(&mirror, old.as_deref(), &differences, &top)).await
    }

    /// What each differing path is like on disk.
    async fn states(&self, checkout: &Checkout, differences: &[Difference]) -> Result<Vec<State>, GitError> {
        let mut states = Vec::with_capacity(differences.len());
        let has_modes = self.has_modes(checkout).await?;
        for some in differences.chunks(AT_ONCE) {
            let files: Vec<_> =
                some.iter().map(|one| checkout.path.join(std::ffi::OsStr::from_bytes(&one.path))).collect();
            let plain: Vec<_> =
                some.iter().zip(&files).filter(|(_, file)| is_plain(file)).map(|(one, _)| &one.path).collect();
            // As git would store them, line ends and filters included.
            let hashed = match plain.is_empty() {
                true => Vec::new(),
                false => {
                    let command = self.at(checkout, "read the files").args(["hash-object", "--"]);
                    command.args(plain.into_iter().map(|path| std::ffi::OsStr::from_bytes(path))).run().await?
                }
            };
            let hashed = String::from_utf8_lossy(&hashed).into_owned();
            let mut hashes = hashed.lines().map(str::to_owned);
            for (one, file) in some.iter().zip(&files) {
                let found = match is_plain(file) {
                    true => hashes.next().and_then(|hash| Oid::from_str(&hash).ok()),
                    false => fs::read_link(file)
                        .ok()
                        .and_then(|target| Oid::hash_object(ObjectType::Blob, target.as_os_str().as_bytes()).ok()),
                };
                let runs = is_plain(file).then(|| is_executable(file));
                let is = |side: Option<(u32, Oid)>| {
                    let same_mode = || match (runs, side) {
                        (Some(_), Some((PLAIN | EXECUTABLE, _))) if !has_modes => true,
                        (Some(true), Some((mode, _))) => mode == EXECUTABLE,
                        (Some(false), Some((mode, _))) => mode == PLAIN,
                        _ => true,
                    };
                    found == side.map(|(_, id)| id) && same_mode()
                };
                states.push(match () {
                    () if is(one.new) => State::New,
                    () if is(one.old) => State::Old,
                    () => State::Other,
                });
            }
        }
        Ok(states)
    }

    /// Whether the user's git takes the bit that makes a file a program for part of it.
    async fn has_modes(&self, checkout: &Checkout) -> Result<bool, GitError> {
        let asked =
            self.at(checkout, "read the repository's settings").args(["config", "--type=bool", "core.fileMode"]);
        Ok(String::from_utf8_lossy(&asked.run_to_end().await?.stdout).trim() != "false")
    }

    /// What agents put into files that belong into LFS is in the mirror's store: the user's filter looks for it in the repository's.
    async fn bring_lfs(&self, differences: &[Difference]) -> Result<(), GitError> {
        let (mirror, common) = (self.mirror.path.clone(), self.checkouts.common.clone());
        let blobs: Vec<_> = differences.iter().filter_map(|one| one.new).map(|(_, id)| id).collect();
        blocking(move || lfs::bring(&mirror, &common, &blobs)).await
    }
}

/// What a path is like on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Old,
    New,
    Other,
}

fn is_plain(file: &Path) -> bool {
    fs::symlink_metadata(file).is_ok_and(|found| found.is_file())
}

fn is_executable(file: &Path) -> bool {
    fs::symlink_metadata(file).is_ok_and(|found| found.permissions().mode() & 0o100 != 0)
}

/// Removes a file, and the folders that are empty then.
fn remove_file(top: &Path, path: &Path) {
    let _ = fs::remove_file(path);
    for folder in path.ancestors().skip(1).take_while(|folder| *folder != top) {
        if fs::remove_dir(folder).is_err() {
            break;
        }
    }
}

fn is_locked(message: &str) -> bool {
    message.contains(".lock': File exists") || message.contains(".lock: File exists")
}
