//! How a turn ends, and what that means for its task.

use serde::{Deserialize, Serialize};

/// How a turn ended. Every ending has a name of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The agent came to its end: finish "stop", no error, something said or done.
    Completed,
    /// The model ran into its output limit.
    Length,
    /// The provider's content filter cut in.
    ContentFilter,
    /// Finish "stop" with nothing said or done.
    Empty,
    /// Someone stopped it: a cancel, or a worker that shuts down.
    Aborted,
    /// The provider refused or failed.
    ProviderError {
        /// HTTP status, where there was one.
        status: Option<u16>,
    },
    /// The provider says: too many requests.
    RateLimited {
        /// How long the provider asks to wait.
        retry_after_seconds: Option<u64>,
    },
    /// Steps that end with no reason, one after another; broken off.
    UnknownFinishLoop,
    /// The same tool calls with the same results, one after another; broken off.
    ToolLoop,
    /// A permission ask was rejected, and the turn stopped on it.
    AskRejected,
    /// A question was rejected, and the turn stopped on it.
    QuestionRejected,
    /// The agent stopped at its own limit of steps.
    StepLimit {
        /// It said how far it had come, instead of being cut off between two steps.
        answered: bool,
    },
    /// The agent has no such mode.
    AgentInvalid,
    /// No such model.
    ModelInvalid,
    /// Configuration that cannot work: no model named, broken config, agent missing or too old.
    Misconfigured,
    /// The prompt was taken and never run.
    NotStarted,
    /// The agent's server died or went silent mid-turn.
    ServerLost,
    /// Its message was sent before, is not answered, and the project wants a person to say so before it is sent again.
    AsksToResend,
    /// What may be spent is spent: it was stopped.
    OverBudget,
    /// Nothing happened for too long.
    Stalled,
    /// The whole turn took too long.
    TimedOut,
    /// The project's repository is missing, or not one that works here.
    RepositoryRefused,
    /// The project's setup of a new worktree failed.
    SetupFailed {
        /// Trying again may help: its command failed, and not what the project says.
        again: bool,
    },
    /// Disk, git or database failed around the turn.
    WorkerTrouble,
    /// The agent failed in another way.
    AgentError,
}

/// What the loss of an attempt is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// Trying again cannot help until a person has changed something.
    Refused,
    /// The agent or its provider failed: charged, tried again after a backoff.
    AgentFailed,
    /// The provider wants us to wait: not charged.
    RateLimited,
    /// Worker, server or disk failed: not charged, bounded.
    InfrastructureLost,
    /// The operator's own setup of the worktree failed, before the agent began: charged, tried again after a backoff.
    SetupFailed,
    /// A budget is spent: not charged, goes on when there is one again.
    Budget,
}

impl ErrorClass {
    /// The value of the `error_class` columns.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::AgentFailed => "agent_failed",
            Self::RateLimited => "rate_limited",
            Self::InfrastructureLost => "infrastructure_lost",
            Self::SetupFailed => "setup_failed",
            Self::Budget => "budget",
        }
    }
}

impl Ending {
    /// The value of `attempts.outcome`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Length => "length",
            Self::ContentFilter => "content_filter",
            Self::Empty => "empty",
            Self::Aborted => "aborted",
            Self::ProviderError { .. } => "provider_error",
            Self::RateLimited { .. } => "rate_limited",
            Self::UnknownFinishLoop => "unknown_finish_loop",
            Self::ToolLoop => "tool_loop",
            Self::AskRejected => "ask_rejected",
            Self::QuestionRejected => "question_rejected",
            Self::StepLimit { .. } => "step_limit",
            Self::AgentInvalid => "agent_invalid",
            Self::ModelInvalid => "model_invalid",
            Self::Misconfigured => "misconfigured",
            Self::NotStarted => "not_started",
            Self::ServerLost => "server_lost",
            Self::AsksToResend => "asks_to_resend",
            Self::OverBudget => "over_budget",
            Self::Stalled => "stalled",
            Self::TimedOut => "timed_out",
            Self::RepositoryRefused => "repository_refused",
            Self::SetupFailed { .. } => "setup_failed",
            Self::WorkerTrouble => "worker_trouble",
            Self::AgentError => "agent_error",
        }
    }

    /// What the ending is charged to; `None` for a turn that completed.
    ///
    /// An `Aborted` turn was either cancelled by a person, which the finishing transaction sees by
    /// itself, or handed back by a worker that stops.
    pub fn error_class(&self) -> Option<ErrorClass> {
        match self {
            Self::Completed => None,
            Self::ProviderError { status: Some(400 | 401 | 402 | 403 | 404 | 422) }
            | Self::AskRejected
            | Self::QuestionRejected
            | Self::ContentFilter
            | Self::AgentInvalid
            | Self::ModelInvalid
            | Self::Misconfigured
            | Self::RepositoryRefused => Some(ErrorClass::Refused),
            Self::Length
            | Self::Empty
            | Self::ProviderError { .. }
            | Self::UnknownFinishLoop
            | Self::ToolLoop
            | Self::StepLimit { .. }
            | Self::Stalled
            | Self::TimedOut
            | Self::AgentError => Some(ErrorClass::AgentFailed),
            Self::RateLimited { .. } => Some(ErrorClass::RateLimited),
            Self::SetupFailed { .. } => Some(ErrorClass::SetupFailed),
            Self::OverBudget => Some(ErrorClass::Budget),
            Self::Aborted | Self::NotStarted | Self::ServerLost | Self::AsksToResend | Self::WorkerTrouble => {
                Some(ErrorClass::InfrastructureLost)
            }
        }
    }
}
