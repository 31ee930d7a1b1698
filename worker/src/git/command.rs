//! Every git process starts here, and nowhere else.
//!
//! Three kinds: `plain` sees nothing of the user's configuration and may work on files (always with an explicit git folder);
//! `with_credentials` sees the user's configuration, because credential helpers live there, and only ever talks to remotes; `as_user` sees
//! it too, because line ends and filters are set there, and works in the user's own repository when a person applies changes.
//! None has hooks, a shell, a terminal, or a file-system monitor. None is ever pointed at a repository that an agent can write.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    path::Path,
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
};

use super::{Git, GitError};

/// The longest that a local command may take.
pub(super) const LOCAL_LIMIT: Duration = Duration::from_secs(600);
/// The longest that a command over the network may take.
pub(super) const REMOTE_LIMIT: Duration = Duration::from_secs(3600);
/// What a question to git (version, config, one ref) may take.
pub(super) const QUERY_LIMIT: Duration = Duration::from_secs(60);

const STDOUT_LIMIT: usize = 64 << 20;
const STDERR_KEPT: usize = 16 << 10;

/// Variables of the user's that matter to reach a remote; every other `GIT_*` is taken away.
const KEPT_GIT_VARIABLES: [&str; 8] = [
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSH_VARIANT",
    "GIT_ASKPASS",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_SSL_CAINFO",
    "GIT_PROXY_SSL_CAINFO",
];

/// A line of git's progress, as it is.
pub type Progress = dyn Fn(&str) + Send + Sync;

/// A git command that has not started yet.
pub(super) struct GitCommand<'a> {
    command: Command,
    what: &'a str,
    limit: Duration,
    progress: Option<&'a Progress>,
}

impl Git {
    /// A command that sees no configuration but ours.
    pub(super) fn plain<'a>(&self, what: &'a str) -> GitCommand<'a> {
        let mut command = self.bare_command();
        for (name, value) in self.user_environment().filter(|(name, _)| *name == "PATH" || *name == "TMPDIR") {
            command.env(name, value);
        }
        command
            .env("HOME", self.scratch())
            .env("XDG_CONFIG_HOME", self.scratch())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", self.config_file())
            .env("GIT_ALLOW_PROTOCOL", "file");
        GitCommand { command, what, limit: LOCAL_LIMIT, progress: None }
    }

    /// A command that sees the user's configuration and credentials, for remotes only.
    pub(super) fn with_credentials<'a>(&self, what: &'a str) -> GitCommand<'a> {
        let mut command = self.bare_command();
        for (name, value) in self.user_environment().filter(|(name, _)| is_for_remotes(name)) {
            command.env(name, value);
        }
        command
            .env("GIT_ALLOW_PROTOCOL", "https:http:ssh:git")
            // Nobody is there to answer: a prompt must fail, not wait.
            .env("SSH_ASKPASS", "/bin/false")
            .env("SSH_ASKPASS_REQUIRE", "force");
        GitCommand { command, what, limit: REMOTE_LIMIT, progress: None }
    }

    /// A command in the user's own repository, which sees the user's configuration: line ends and filters are to be theirs. Hooks do not run.
    pub(super) fn as_user<'a>(&self, what: &'a str) -> GitCommand<'a> {
        GitCommand { limit: LOCAL_LIMIT, ..self.with_credentials(what) }
    }

    fn bare_command(&self) -> Command {
        let mut command = Command::new(self.binary());
        command
            .env_clear()
            .env("LC_ALL", "C")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_DEFAULT_REF_FORMAT", "files")
            .env("GIT_DEFAULT_HASH", "sha1")
            .current_dir(self.scratch())
            .args(["-c", "core.hooksPath=/dev/null"])
            .args(["-c", "core.fsmonitor=false"])
            .args(["-c", "gc.auto=0"])
            .args(["-c", "maintenance.auto=false"])
            .args(["-c", "submodule.recurse=false"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }
}

fn is_for_remotes(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    if name.starts_with("GIT_") {
        return KEPT_GIT_VARIABLES.contains(&name);
    }
    !(name.starts_with("MILLHAND_") || name.starts_with("PG") || name == "DATABASE_URL")
}

impl GitCommand<'_> {
    /// The git folder, explicit: git never looks for one.
    pub(super) fn git_dir(mut self, path: &Path) -> Self {
        let mut argument = OsString::from("--git-dir=");
        argument.push(path);
        self.command.arg(argument);
        self
    }

    /// An index of its own instead of the repository's.
    pub(super) fn index_file(mut self, path: &Path) -> Self {
        self.command.env("GIT_INDEX_FILE", path);
        self
    }

    /// The worktree, explicit; also where git runs.
    pub(super) fn work_tree(mut self, path: &Path) -> Self {
        let mut argument = OsString::from("--work-tree=");
        argument.push(path);
        self.command.arg(argument).current_dir(path);
        self
    }

    pub(super) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub(super) fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, arguments: I) -> Self {
        self.command.args(arguments);
        self
    }

    pub(super) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(super) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// git's stdin is the lock file: a git that outlives us still holds the lock.
    pub(super) fn holding(mut self, lock: &super::lock::Lock) -> Result<Self, GitError> {
        let file: File = lock.share()?;
        self.command.stdin(Stdio::from(file));
        Ok(self)
    }

    /// Lines of stderr go here as they come.
    pub(super) fn progress<'b>(self, progress: Option<&'b Progress>) -> GitCommand<'b>
    where
        Self: 'b,
    {
        GitCommand { command: self.command, what: self.what, limit: self.limit, progress }
    }

    /// Runs it; stdout if it succeeded.
    pub(super) async fn run(self) -> Result<Vec<u8>, GitError> {
        let what = self.what.to_owned();
        let ended = self.run_to_end().await?;
        if ended.status == Some(0) { Ok(ended.stdout) } else { Err(ended.failure(&what)) }
    }

    /// Runs it; how it ended is for the caller to judge.
    pub(super) async fn run_to_end(mut self) -> Result<Ended, GitError> {
        let what = self.what.to_owned();
        let child = self.command.spawn().map_err(|source| GitError::Spawn { what: what.clone(), source })?;
        let mut group = Group::of(child);
        let seconds = self.limit.as_secs();
        match tokio::time::timeout(self.limit, group.finish(&what, self.progress)).await {
            Ok(result) => result,
            Err(_) => Err(GitError::TimedOut { what, seconds }),
        }
    }
}

/// How a git process ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its exit status; none if a signal ended it.
    pub(super) status: Option<i32>,
    pub(super) stdout: Vec<u8>,
    /// The end of what it wrote to stderr.
    pub(super) stderr: Vec<u8>,
}

impl Ended {
    /// What it said, without credentials.
    pub(super) fn message(&self) -> String {
        without_credentials(String::from_utf8_lossy(&self.stderr).trim())
    }

    /// The error that this ending is.
    pub(super) fn failure(&self, what: &str) -> GitError {
        GitError::Failed { what: what.to_owned(), status: self.status, message: self.message() }
    }
}

/// A git process and what it started; ended as a group when dropped early.
struct Group {
    child: Child,
    id: Option<rustix::process::Pid>,
}

impl Group {
    fn of(child: Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        Self { child, id }
    }

    async fn finish(&mut self, what: &str, progress: Option<&Progress>) -> Result<Ended, GitError> {
        let (stdout, stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
            return Err(GitError::Interrupted(format!("no pipes to git while it was to {what}")));
        };
        let spawn_error = |source| GitError::Spawn { what: what.to_owned(), source };
        let (stdout, stderr) = tokio::try_join!(async { read_bounded(stdout).await.map_err(spawn_error) }, async {
            read_progress(stderr, progress).await.map_err(spawn_error)
        },)?;
        let Some(stdout) = stdout else {
            return Err(GitError::TooMuchOutput { what: what.to_owned(), limit: STDOUT_LIMIT });
        };
        let status = self.child.wait().await.map_err(spawn_error)?;
        self.id = None;
        Ok(Ended { status: status.code(), stdout, stderr })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // Its helpers (upload-pack, ssh) go with it. It may be gone already: nothing to do then.
            let _ = rustix::process::kill_process_group(id, rustix::process::Signal::KILL);
        }
    }
}

/// `None` if there was more than the limit.
async fn read_bounded(stream: impl AsyncRead + Unpin) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    stream.take(STDOUT_LIMIT as u64 + 1).read_to_end(&mut bytes).await?;
    Ok((bytes.len() <= STDOUT_LIMIT).then_some(bytes))
}

/// Hands on each line and keeps the end.
async fn read_progress(mut stream: impl AsyncRead + Unpin, progress: Option<&Progress>) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut line = Vec::new();
    let mut buffer = [0_u8; 4096];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(kept);
        }
        kept.extend_from_slice(&buffer[..count]);
        let surplus = kept.len().saturating_sub(STDERR_KEPT);
        kept.drain(..surplus);
        let Some(progress) = progress else { continue };
        for &byte in &buffer[..count] {
            if byte == b'\n' || byte == b'\r' {
                if !line.is_empty() {
                    progress(&without_credentials(&String::from_utf8_lossy(&line)));
                    line.clear();
                }
            } else if line.len() < 1024 {
                line.push(byte);
            }
        }
    }
}

/// Takes `user:password@` out of every URL in a text.
pub(super) fn without_credentials(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let end = after.find(|c: char| c == '/' || c.is_whitespace() || c == '\'' || c == '"').unwrap_or(after.len());
        // The last @ before the path ends the credentials: a password may hold one itself.
        rest = after[..end].rfind('@').map_or(after, |at| &after[at + 1..]);
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_never_reach_a_message() {
        for (given, clean) in [
            ("fatal: 'https://u:p@host/x' not found", "fatal: 'https://host/x' not found"),
            ("https://u:p@ss@host:8080/x", "https://host:8080/x"),
            ("ssh://git@host/x and http://tok@h", "ssh://host/x and http://h"),
            ("https://host/a@b", "https://host/a@b"),
            ("no url", "no url"),
        ] {
            assert_eq!(without_credentials(given), clean);
        }
    }
}
