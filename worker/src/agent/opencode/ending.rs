//! What an ended turn is called. Pure.

use super::wire::{MessageWithParts, WireError};
use crate::model::outcome::Ending;

/// Why we aborted a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// We were told to stop.
    Stopped,
    /// Silence.
    Stalled,
    /// It took too long.
    TimedOut,
    /// One tool call took too long.
    LongTool,
    /// An ask or a question could not be answered.
    Unanswered,
    /// Steps without a finish reason, one after another.
    UnknownFinishLoop,
    /// The same calls, one after another.
    ToolLoop,
    /// The provider asks for a wait that does not belong into a turn.
    RateLimited { retry_after_seconds: Option<u64>, message: String },
    /// The provider was asked again and again.
    RetriesExhausted { message: String },
}

impl Broken {
    /// What the turn is called then, and why, in words.
    pub(super) fn ending(&self) -> (Ending, String) {
        match self {
            Self::Stopped => (Ending::Aborted, "stopped before it was done".to_owned()),
            Self::Stalled => (Ending::Stalled, "nothing was heard of the turn for too long".to_owned()),
            Self::TimedOut => (Ending::TimedOut, "the turn took longer than a turn may".to_owned()),
            Self::UnknownFinishLoop => (
                Ending::UnknownFinishLoop,
                "the provider's answers end without a finish reason, again and again; check that its address is right \
                 and that it speaks the protocol it is configured for"
                    .to_owned(),
            ),
            Self::LongTool => (Ending::Stalled, "a tool call took longer than one may (turn_tool)".to_owned()),
            Self::Unanswered => {
                (Ending::Stalled, "the agent asked for something, and opencode did not take the answer".to_owned())
            }
            Self::ToolLoop => (
                Ending::ToolLoop,
                "the agent made the same tool calls with the same results again and again".to_owned(),
            ),
            Self::RateLimited { retry_after_seconds, message } => {
                let wait = retry_after_seconds.map(|s| format!(", and wants {s} s of waiting")).unwrap_or_default();
                let ending = Ending::RateLimited { retry_after_seconds: *retry_after_seconds };
                (ending, format!("the provider limits requests{wait}: {message}"))
            }
            Self::RetriesExhausted { message } => {
                (Ending::ProviderError { status: None }, format!("the provider failed again and again: {message}"))
            }
        }
    }
}

/// What was heard beside the messages.
#[derive(Clone, Debug, Default)]
pub(super) struct Context {
    /// Steps after which opencode tells the model to stop.
    pub(super) step_limit: Option<u32>,
    pub(super) ask_rejected: bool,
    pub(super) question_rejected: bool,
    pub(super) error: Option<WireError>,
}

/// Names the ending of a turn that came to rest, by its messages: ours, and all that follow it.
pub(super) fn name_ending(messages: &[MessageWithParts], context: &Context) -> (Ending, String) {
    let Some(last) = messages.iter().rev().find(|message| message.info.is_assistant()) else {
        return match &context.error {
            Some(error) => name_refusal(error, !messages.is_empty()),
            None => (Ending::NotStarted, "opencode took the prompt but never began to work on it".to_owned()),
        };
    };
    if let Some(error) = &last.info.error {
        return name_error(error);
    }
    let done = |ending| (ending, String::new());
    let failed = |ending, words: &str| (ending, words.to_owned());
    match last.info.finish.as_deref() {
        Some("stop") if said_or_done(messages) && reached_limit(messages, context.step_limit) => failed(
            Ending::StepLimit { answered: true },
            "the agent came to its limit of steps, and was told to stop there",
        ),
        Some("stop") if said_or_done(messages) => done(Ending::Completed),
        Some("stop") => failed(Ending::Empty, "the model ended its turn without saying or doing anything"),
        Some("length") => failed(Ending::Length, "the model ran into its output limit"),
        Some("content-filter") => failed(Ending::ContentFilter, "the provider's content filter cut in"),
        Some("tool-calls") if context.question_rejected => failed(
            Ending::QuestionRejected,
            "the agent asked a question; nobody is there to answer, so the turn stopped",
        ),
        Some("tool-calls") if context.ask_rejected => failed(
            Ending::AskRejected,
            "the agent asked for a permission and was refused, so the turn stopped; allow it in opencode's config, or let \
             the project answer asks with yes",
        ),
        Some("tool-calls") => failed(Ending::StepLimit { answered: false }, "the agent stopped between two steps"),
        Some("unknown") => {
            failed(Ending::ProviderError { status: None }, "the provider's answer ended without a finish reason")
        }
        Some(other) => (Ending::AgentError, format!("the turn finished with \"{other}\"")),
        // What remains of a message that was aborted while it waited to try again.
        None => failed(Ending::Aborted, "the turn was aborted, not by us"),
    }
}

/// Names an error that an assistant message ended with.
fn name_error(error: &WireError) -> (Ending, String) {
    let ending = match (error.name.as_str(), error.data.status) {
        ("MessageAbortedError", _) => Ending::Aborted,
        ("ContentFilterError", _) => Ending::ContentFilter,
        ("MessageOutputLengthError", _) => Ending::Length,
        ("ProviderAuthError", _) => Ending::ProviderError { status: Some(401) },
        (_, Some(429)) => Ending::RateLimited { retry_after_seconds: error.retry_after() },
        ("APIError", status) => Ending::ProviderError { status },
        (_, status @ Some(_)) => Ending::ProviderError { status },
        (name, None) if is_about_model(name, &error.data.message) => Ending::ModelInvalid,
        _ => Ending::AgentError,
    };
    (ending, error.line())
}

/// Names an error that came before any assistant message: opencode did not take the prompt.
fn name_refusal(error: &WireError, user_seen: bool) -> (Ending, String) {
    let message = error.data.message.to_ascii_lowercase();
    if message.contains("agent not found") || (!user_seen && message.contains("agent")) {
        return (Ending::AgentInvalid, error.line());
    }
    match name_error(error) {
        (Ending::AgentError, line) if user_seen && message.contains("model") => (Ending::ModelInvalid, line),
        named => named,
    }
}

fn is_about_model(name: &str, message: &str) -> bool {
    name == "ProviderModelNotFoundError" || message.to_ascii_lowercase().contains("model not found")
}

/// Whether opencode has told the model, with the last step, that its steps are used up.
fn reached_limit(messages: &[MessageWithParts], limit: Option<u32>) -> bool {
    let steps = messages.iter().filter(|message| message.info.is_assistant()).count();
    limit.and_then(|limit| usize::try_from(limit).ok()).is_some_and(|limit| limit > 0 && steps >= limit)
}

fn said_or_done(messages: &[MessageWithParts]) -> bool {
    let assistants = messages.iter().filter(|message| message.info.is_assistant() && !message.info.summary);
    assistants.flat_map(|message| &message.parts).any(|part| match part.kind.as_str() {
        "text" => !super::tag::strip(&part.text).trim().is_empty(),
        "tool" => part.state.status == "completed",
        _ => false,
    })
}
