//! What people do: queue, cancel, retry, look, sum up. The command line, the API and the dashboard all call it.
//!
//! Plain async functions over the store, with typed results. They decide nothing that the database decides (who may be
//! retried, what is refused), and they print nothing.

mod access;
mod apply;
mod asks;
mod changes;
mod checks;
mod costs;
mod decide;
mod fleet;
mod follow;
mod forecast;
mod look;
mod post;
mod prepare;
mod projects;
mod queue;
mod recover;
mod review;
mod sessions;
mod webhooks;
mod why;

pub use crate::store::reads::InboxFilter;
pub use access::{Principal, WhichToken, add_login_code, add_token, log_in, principal_of, revoke_token, tokens};
pub use apply::{Applied, Applier, ApplyRequest, Target};
pub use asks::{Answered, Reply, answer, ask};
pub use changes::{Changes, changes, next_patches};
pub use checks::{add_check, checks_of, list_checks, remove_check, run_checks, send_back};
pub use costs::{
    BUDGETS_PER, Costs, budgets, clear_budgets, clear_price, costs, prices, set_budgets, set_price, since,
};
pub use decide::{open_changes, reject_changes};
pub use fleet::{Activity, activity, servers};
pub use follow::{Followed, Follower};
pub use forecast::{ConflictPrompt, Outlook};
pub use look::{
    Look, Overview, SessionView, TaskView, inbox, list_sessions, list_tasks, models, overview, resolve_task, session,
    session_of_chat, show_session, show_task, task, workers,
};
pub use post::Poster;
pub use projects::{
    ProjectRequest, add_project, change_setup, list_projects, project_named, project_of, public, remove_project,
    show_project, valid_name,
};
pub use queue::{Acted, Chat, Queued, RetryWith, TaskRequest, cancel, dismiss, enqueue, retry, send};
pub use review::{
    Interdiff, Review, ReviewPrompt, checkpoints, comment, looked_at, prompt_of_review, review, review_was_sent,
};
pub use sessions::{close_session, reopen_session};
pub use webhooks::{
    Again, WebhookRequest, add_webhook, deliver, deliveries, remove_webhook, retry_deliveries, switch_webhook,
    test_webhook, webhook, webhooks,
};
pub use why::{Fleet, why};

use crate::{
    git::{Conflict, GitError},
    model::ids::SessionId,
    store::StoreError,
    worktrees::WorktreeError,
};

/// Why an action was not done.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// There is no such thing.
    #[error("{what}")]
    NotFound {
        /// What there is not.
        what: String,
        /// What to do.
        hint: String,
    },
    /// It cannot be done as asked.
    #[error("{what}")]
    Refused {
        /// Why.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The changes cannot be merged with the branch; nothing was changed.
    #[error("{}", decide::conflicts_in_words(.branch, .conflicts))]
    Conflicts {
        /// The session whose agent can resolve it.
        session: Option<SessionId>,
        /// It is the branch that the session started from.
        is_base: bool,
        /// The branch.
        branch: String,
        /// Where.
        conflicts: Vec<Conflict>,
    },
    /// git failed.
    #[error(transparent)]
    Git(GitError),
    /// The database did not answer, or its answer cannot be used.
    #[error(transparent)]
    Store(StoreError),
}

impl ActionError {
    /// The database did not answer; it may later.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_unreachable())
    }
}

impl From<StoreError> for ActionError {
    fn from(error: StoreError) -> Self {
        match error {
            // P0002: a function of the schema was given an id that is not there.
            StoreError::Refused { code, message, hint, .. } if code == "P0002" => {
                Self::NotFound { what: message, hint: hint.unwrap_or_else(|| "see: millhand ls".to_owned()) }
            }
            StoreError::Refused { message, hint, .. } => Self::Refused { what: message, hint },
            other => Self::Store(other),
        }
    }
}

impl From<GitError> for ActionError {
    fn from(error: GitError) -> Self {
        match error {
            GitError::Refused { why } => Self::Refused { what: why, hint: None },
            error if error.is_refusal() => Self::Refused { what: error.to_string(), hint: None },
            error => Self::Git(error),
        }
    }
}

impl From<WorktreeError> for ActionError {
    fn from(error: WorktreeError) -> Self {
        match error {
            WorktreeError::Store(error) => error.into(),
            WorktreeError::Git(error) => error.into(),
            WorktreeError::Problem(what) => Self::Refused { what, hint: None },
        }
    }
}

/// A result of this module.
pub type Result<T> = std::result::Result<T, ActionError>;

fn no_task(task_id: i64) -> ActionError {
    ActionError::NotFound { what: format!("there is no task t{task_id}"), hint: "see: millhand ls".to_owned() }
}

fn no_session(session_id: i64) -> ActionError {
    ActionError::NotFound {
        what: format!("there is no session s{session_id}"),
        hint: "see: millhand ls --sessions".to_owned(),
    }
}

fn no_chat(chat_id: i64) -> ActionError {
    ActionError::NotFound {
        what: format!("there is no chat c{chat_id}"),
        hint: "see: millhand show SESSION, which lists its tasks with their chats".to_owned(),
    }
}
