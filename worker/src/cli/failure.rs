//! Failures as a person meets them: what is wrong, what to do, and the exit code.

use std::io;

use super::text::safe_line;
use crate::{actions::ActionError, config::ConfigError, git::GitError, store::StoreError};

/// The exit codes, which scripts rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Done = 0,
    Broken = 1,
    Usage = 2,
    TaskFailed = 3,
    NeedsPerson = 4,
    Cancelled = 5,
    NotFound = 6,
    Unreachable = 7,
    Detached = 130,
}

impl Exit {
    /// What a task's final state means for the one who waited for it.
    pub(super) fn of_state(state: &str) -> Self {
        match state {
            "failed" => Self::TaskFailed,
            "blocked" => Self::NeedsPerson,
            "cancelled" => Self::Cancelled,
            _ => Self::Done,
        }
    }
}

/// A command that was not done.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    /// For scripts.
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// What commands return.
pub(super) type Outcome<T = Exit> = Result<T, Failure>;

impl Failure {
    pub(super) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, code: "usage", message: message.into(), hint: Some(hint.into()) }
    }

    pub(super) fn broken(message: impl Into<String>, hint: Option<String>) -> Self {
        Self { exit: Exit::Broken, code: "internal", message: message.into(), hint }
    }

    /// Whoever read our output has seen enough, which is no error.
    fn is_broken_pipe(&self) -> bool {
        self.code == "broken_pipe"
    }

    /// The failure to report; none if there is nothing wrong.
    pub(super) fn report(self) -> Option<Self> {
        (!self.is_broken_pipe()).then_some(self)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { exit: Exit::Done, code: "broken_pipe", message: String::new(), hint: None };
        }
        Self::broken(format!("output: {error}"), None)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { exit: Exit::Usage, code: "config", message: error.to_string(), hint: None }
    }
}

impl From<ActionError> for Failure {
    fn from(error: ActionError) -> Self {
        match error {
            ActionError::NotFound { what, hint } => {
                Self { exit: Exit::NotFound, code: "not_found", message: what, hint: Some(hint) }
            }
            ref error @ ActionError::Conflicts { session, is_base, ref branch, .. } => {
                let to = if is_base { String::new() } else { format!(" --to {}", safe_line(branch)) };
                let send =
                    session.map(|id| format!("have the agent resolve it: millhand send {id} --conflicts{to}; or "));
                let rest = "apply the other files: --only PATH";
                Self {
                    exit: Exit::NeedsPerson,
                    code: "conflicts",
                    message: error.to_string(),
                    hint: Some(format!("nothing was changed; {}{rest}", send.unwrap_or_default())),
                }
            }
            ActionError::Git(error) => Self::from(error),
            ActionError::Refused { what, hint } => Self { exit: Exit::Usage, code: "refused", message: what, hint },
            ActionError::Store(error) => Self::from(error),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unreachable(why) => Self {
                exit: Exit::Unreachable,
                code: "database_unreachable",
                message: format!("the database cannot be reached: {why}"),
                hint: Some("see which database is meant, and what is wrong: millhand doctor".to_owned()),
            },
            StoreError::Refused { message, hint, .. } => Self { exit: Exit::Usage, code: "refused", message, hint },
            StoreError::Schema(message) => Self { exit: Exit::Broken, code: "schema", message, hint: None },
            error @ StoreError::Unexpected(_) => Self::broken(error.to_string(), None),
        }
    }
}

impl From<GitError> for Failure {
    fn from(error: GitError) -> Self {
        let (exit, code) = match error {
            GitError::BadSource { .. } => (Exit::Usage, "repository"),
            GitError::NoSuchBranch { .. } => (Exit::Usage, "branch"),
            _ => (Exit::Broken, "git"),
        };
        Self { exit, code, message: error.to_string(), hint: None }
    }
}
