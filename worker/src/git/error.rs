//! What can go wrong with git, told apart where callers do different things.

use std::{io, path::PathBuf};

/// An error of the `git` module. Messages hold no credentials.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no git to run.
    #[error("no git found{}: install git {floor} or newer, or set its path", .looked_for.as_ref().map(|p| format!(" at {}", p.display())).unwrap_or_default())]
    Missing {
        /// The path that was configured, if any.
        looked_for: Option<PathBuf>,
        /// The oldest version that is good.
        floor: &'static str,
    },
    /// The git that was found has known holes.
    #[error("git {found} at {} is too old: its release line needs {needs} or newer (CVE-2025-48384)", .path.display())]
    TooOld {
        /// Where it is.
        path: PathBuf,
        /// Its version.
        found: String,
        /// The version that is good enough.
        needs: String,
    },
    /// git could not be started.
    #[error("start git to {what}: {source}")]
    Spawn {
        /// What it was to do.
        what: String,
        /// Why it did not start.
        source: io::Error,
    },
    /// git ran and said no.
    #[error("git could not {what}: {message}")]
    Failed {
        /// What it was to do.
        what: String,
        /// Its exit status; none if a signal ended it.
        status: Option<i32>,
        /// The end of what it wrote to stderr.
        message: String,
    },
    /// git took too long, and was ended.
    #[error("git took longer than {seconds} s to {what}, and was stopped")]
    TimedOut {
        /// What it was to do.
        what: String,
        /// The limit.
        seconds: u64,
    },
    /// git wrote more than anybody asked for.
    #[error("git wrote more than {limit} bytes while it was to {what}")]
    TooMuchOutput {
        /// What it was to do.
        what: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// This path or URL cannot be a project's source.
    #[error("\"{given}\" {problem}")]
    BadSource {
        /// What the user gave, without credentials.
        given: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The project has no such branch.
    #[error("no branch \"{branch}\"{}", if .near.is_empty() { String::new() } else { format!("; did you mean {}?", .near.join(", ")) })]
    NoSuchBranch {
        /// The branch asked for.
        branch: String,
        /// Branches with a name like it.
        near: Vec<String>,
    },
    /// Another process works on the same mirror or worktree for longer than we wait.
    #[error("{what} is in use by another process for more than {seconds} s; try again later")]
    Busy {
        /// Which mirror or worktree.
        what: String,
        /// How long we waited.
        seconds: u64,
    },
    /// It must not be done as asked.
    #[error("{why}")]
    Refused {
        /// Why.
        why: String,
    },
    /// The session has no worktree here.
    #[error("session s{session_id} has no worktree at {}", .path.display())]
    NoWorktree {
        /// The session.
        session_id: i64,
        /// Where it should be.
        path: PathBuf,
    },
    /// A folder on the way to a worktree is a symlink or no folder: an agent may have put it there.
    #[error("{} is not a plain folder: refusing to go through it", .path.display())]
    Planted {
        /// The path.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{what} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// libgit2 said no.
    #[error("{what}: {}", .source.message())]
    Library {
        /// What was tried.
        what: &'static str,
        /// Its error.
        source: git2::Error,
    },
    /// A task of ours panicked or was cancelled.
    #[error("git work was interrupted: {0}")]
    Interrupted(String),
}

impl GitError {
    pub(crate) fn refused(why: impl Into<String>) -> Self {
        Self::Refused { why: why.into() }
    }

    /// Whether trying again cannot help until a person has changed something.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Missing { .. }
            | Self::TooOld { .. }
            | Self::BadSource { .. }
            | Self::NoSuchBranch { .. }
            | Self::Refused { .. }
            | Self::Planted { .. } => true,
            Self::Spawn { .. }
            | Self::Failed { .. }
            | Self::TimedOut { .. }
            | Self::TooMuchOutput { .. }
            | Self::Busy { .. }
            | Self::NoWorktree { .. }
            | Self::Io { .. }
            | Self::Library { .. }
            | Self::Interrupted(_) => false,
        }
    }
}

/// Names what was tried when libgit2 or a system call fails.
pub(super) trait Context<T> {
    /// `what` reads like "open the mirror".
    fn doing(self, what: &'static str) -> Result<T, GitError>;
}

impl<T> Context<T> for Result<T, git2::Error> {
    fn doing(self, what: &'static str) -> Result<T, GitError> {
        self.map_err(|source| GitError::Library { what, source })
    }
}

/// Names what was tried and where when a system call fails.
pub(super) trait PathContext<T> {
    /// `what` reads like "read".
    fn on(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T, GitError>;
}

impl<T, E: Into<io::Error>> PathContext<T> for Result<T, E> {
    fn on(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T, GitError> {
        self.map_err(|source| GitError::Io { what, path: path.into(), source: source.into() })
    }
}
