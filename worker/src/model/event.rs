//! What an agent does during a turn, the same for all agents.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::usage::StepUsage;

/// One thing that happened in a turn.
///
/// Serialised as `{"kind": ..., ...}`; `kind` and `part` are columns of `turn_events`, the rest is its `data`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AgentEvent {
    /// Text as it streams; replaced by the [`AgentEvent::Text`] of the same part.
    TextDelta {
        /// The agent's id of the part.
        part: String,
        /// What was added.
        delta: String,
    },
    /// A whole text part.
    Text {
        /// The agent's id of the part.
        part: String,
        /// The text.
        text: String,
    },
    /// Reasoning as it streams.
    ReasoningDelta {
        /// The agent's id of the part.
        part: String,
        /// What was added.
        delta: String,
    },
    /// A whole reasoning part.
    Reasoning {
        /// The agent's id of the part.
        part: String,
        /// The text.
        text: String,
    },
    /// A tool call, sent again whenever its status changes.
    Tool {
        /// The agent's id of the part.
        part: String,
        /// What the tool is and how far it is.
        call: ToolCall,
    },
    /// A step (one model call) is over.
    StepFinish {
        /// The agent's id of the part.
        part: String,
        /// Why the model stopped, in the agent's words: stop, tool-calls, length, ...
        reason: String,
        /// What it cost.
        usage: StepUsage,
    },
    /// The agent's list of what it is going to do.
    Plan {
        /// The list, in the agent's form.
        items: Value,
    },
    /// The agent asked for a permission.
    Ask {
        /// The agent's id of the ask.
        id: String,
        /// What for.
        permission: String,
        /// Which paths or commands.
        patterns: Vec<String>,
        /// What was answered: reject, once.
        answer: String,
    },
    /// The provider is being tried again.
    Retry {
        /// Which try.
        attempt: i64,
        /// What went wrong.
        message: String,
        /// When the next try is due, milliseconds since 1970.
        next_at_ms: Option<i64>,
    },
    /// Something that people following the turn want to see (server starting, session resumed).
    Status {
        /// One line.
        message: String,
    },
    /// Something that people should know of afterwards.
    Warning {
        /// One line.
        message: String,
    },
    /// An event of the agent that this version does not know; its payload is in the log at debug.
    Unknown {
        /// The agent's name for it.
        name: String,
    },
}

/// A call of a tool by the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The model's id of the call.
    pub call_id: String,
    /// Name of the tool.
    pub tool: String,
    /// How far it is.
    pub status: ToolStatus,
    /// One line for people, by the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Arguments.
    pub input: Value,
    /// What it printed; set once completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// What went wrong; set on error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The exit code, of tools that run a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
}

/// How far a tool call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolStatus {
    /// The model is still writing its arguments.
    Pending,
    /// It runs.
    Running,
    /// It is done.
    Completed,
    /// It failed.
    Error,
}

impl AgentEvent {
    /// The value of `turn_events.kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TextDelta { .. } => "text_delta",
            Self::Text { .. } => "text",
            Self::ReasoningDelta { .. } => "reasoning_delta",
            Self::Reasoning { .. } => "reasoning",
            Self::Tool { .. } => "tool",
            Self::StepFinish { .. } => "step_finish",
            Self::Plan { .. } => "plan",
            Self::Ask { .. } => "ask",
            Self::Retry { .. } => "retry",
            Self::Status { .. } => "status",
            Self::Warning { .. } => "warning",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// The agent's id of the part that the event is about.
    pub fn part(&self) -> Option<&str> {
        match self {
            Self::TextDelta { part, .. }
            | Self::Text { part, .. }
            | Self::ReasoningDelta { part, .. }
            | Self::Reasoning { part, .. }
            | Self::Tool { part, .. }
            | Self::StepFinish { part, .. } => Some(part),
            Self::Plan { .. }
            | Self::Ask { .. }
            | Self::Retry { .. }
            | Self::Status { .. }
            | Self::Warning { .. }
            | Self::Unknown { .. } => None,
        }
    }
}
