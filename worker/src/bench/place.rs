//! The folder that a part of the benchmark works in: a home, a user's home, repositories. Removed when it is dropped.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use secrecy::ExposeSecret as _;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::Bench;
use crate::{
    config::{Environment, Home, Settings},
    store::Store,
};

/// Longest that one git command may take.
const GIT_WITHIN: Duration = Duration::from_secs(300);
/// How long a process of this program may take to end when it is told to.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// How often it is tried to remove the folder, while what was interrupted ends.
const REMOVALS: usize = 100;
const BETWEEN_REMOVALS: Duration = Duration::from_millis(50);
/// Files per folder of a made repository, as in real ones.
const PER_FOLDER: usize = 30;

/// A folder below the user's home of Millhand.
#[derive(Debug)]
pub(super) struct Place {
    folder: TempDir,
    root: PathBuf,
    path: OsString,
}

impl Place {
    /// Makes it: on the same disk as the real worktrees, but nothing of theirs.
    pub(super) fn new(settings: &Settings) -> Result<Self> {
        let below = settings.home.root();
        fs::create_dir_all(below).with_context(|| format!("create {}", below.display()))?;
        let folder = tempfile::Builder::new()
            .prefix("bench-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(below)
            .with_context(|| format!("create a folder in {}", below.display()))?;
        let root = folder.path().canonicalize()?;
        fs::create_dir(root.join("user"))?;
        let path = settings.environment.get("PATH").unwrap_or_default().to_owned();
        Ok(Self { folder, root, path })
    }

    /// Where it is.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A home of Millhand in it.
    pub(super) fn home(&self) -> Home {
        Home::new(self.root.join("home"))
    }

    /// The environment of a user without any configuration.
    pub(super) fn environment(&self) -> Environment {
        let variables = [
            ("PATH", self.path.clone()),
            ("HOME", self.root.join("user").into_os_string()),
            ("LANG", "C.UTF-8".into()),
        ];
        variables.into_iter().collect()
    }

    /// A command that sees nothing but [`Place::environment`], and does not outlive its handle.
    pub(super) fn command(&self, program: impl AsRef<Path>, folder: &Path) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .current_dir(folder)
            .env_clear()
            .envs(self.environment().0)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// A command of this program, with a home in here, on the database of the store.
    pub(super) fn millhand(&self, bench: &Bench<'_>, store: &Store) -> Result<Command> {
        let mut command = self.command(&bench.millhand, self.root());
        for (name, value) in &bench.settings.database.variables {
            command.env(name, value.expose_secret());
        }
        command.envs(bench.database.iter().map(|(name, value)| (name, value)));
        command.env("PGDATABASE", store.connect().config.get_dbname().context("the scratch database's name")?);
        command.env("MILLHAND_HOME", self.home().root()).env("MILLHAND_LOG_LEVEL", "error");
        Ok(command)
    }

    /// Runs git as its user would.
    pub(super) async fn git(&self, git: &Path, folder: &Path, arguments: &[&str]) -> Result<()> {
        let mut command = self.command(git, folder);
        command.args(["-c", "user.name=Bench", "-c", "user.email=bench@example.invalid", "-c", "gc.auto=0"]);
        let output = tokio::time::timeout(GIT_WITHIN, command.args(arguments).output())
            .await
            .with_context(|| format!("git {arguments:?} does not end"))??;
        ensure!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    /// A repository with one commit of so many files, packed as a clone is.
    pub(super) async fn repository(&self, git: &Path, name: &str, files: usize) -> Result<PathBuf> {
        let path = self.root.join(name);
        fs::create_dir(&path)?;
        self.git(git, &path, &["init", "-q", "-b", "main"]).await?;
        let folder = path.clone();
        tokio::task::spawn_blocking(move || {
            (0..files).try_for_each(|number| write_file(&folder, number, "as it was committed"))
        })
        .await??;
        for arguments in [&["add", "-A"][..], &["commit", "-q", "-m", "first"], &["gc", "-q"]] {
            self.git(git, &path, arguments).await?;
        }
        Ok(path)
    }

    /// Removes it, and says so if that fails, which dropping does not.
    pub(super) async fn remove(self) -> Result<()> {
        let Self { folder, root, .. } = self;
        let aside = root.with_extension("removed");
        let what = format!("remove {}", root.display());
        let remove = move || {
            // What was interrupted finds nothing to write into any more. What it had open, or began a moment ago, ends soon.
            fs::rename(folder.keep(), &aside)?;
            for _ in 0..REMOVALS {
                if fs::remove_dir_all(&aside).is_ok() {
                    return Ok(());
                }
                std::thread::sleep(BETWEEN_REMOVALS);
            }
            fs::remove_dir_all(&aside)
        };
        tokio::task::spawn_blocking(remove).await?.context(what)
    }
}

/// Asks a process to end, and ends it if it does not.
pub(super) async fn stop(child: &mut Child) -> Result<()> {
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
        kill_process(pid, Signal::TERM)?;
        if tokio::time::timeout(STOP_WITHIN, child.wait()).await.is_err() {
            child.kill().await?;
        }
    }
    Ok(())
}

/// Writes one of a made repository's files: some thirty lines, as sources have.
pub(super) fn write_file(folder: &Path, number: usize, what: &str) -> std::io::Result<()> {
    let path = folder.join(format!("d{}/e{}/file{number}.txt", number / PER_FOLDER % 100, number / PER_FOLDER));
    // Below the folder only: where that is gone, nothing comes back.
    for parent in path.ancestors().skip(1).take(2).collect::<Vec<_>>().into_iter().rev() {
        match fs::create_dir(parent) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    let mut content = format!("file {number}, {what}\n");
    for line in 0..30 {
        content.push_str(&format!("line {line} of file {number}\n"));
    }
    fs::write(path, content)
}
