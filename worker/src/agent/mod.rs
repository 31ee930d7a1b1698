//! Agents: who does a turn, behind one trait.
//!
//! The turn knows [`Backend`] and [`AgentEvent`] only; how an agent is talked to stays in
//! its own module (`opencode` knows the wire format of opencode, and nothing else does). This module must not
//! touch the database, nor git.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::model::{event::AgentEvent, outcome::Ending, usage::StepUsage};

pub mod opencode;

/// What an agent needs to know of the project that it works in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentProject {
    /// Key: one server, one data folder per project.
    pub id: i64,
    /// For people.
    pub name: String,
    /// The project's own folder for agents, `$MILLHAND_HOME/agents/<id>`: worktrees, server data, tmp.
    pub folder: PathBuf,
    /// Load the repository's own agent configuration, which is code.
    pub trusted: bool,
    /// Answer permission asks with yes instead of no.
    pub allow_asks: bool,
    /// Names of variables of the worker's environment that the agent may see.
    pub env_pass: Vec<String>,
}

/// What it takes to open or resume a conversation.
#[derive(Clone, Debug)]
pub struct SessionRequest {
    /// The project.
    pub project: AgentProject,
    /// The worktree.
    pub directory: PathBuf,
    /// Title of the conversation.
    pub title: String,
    /// The agent's own mode (`plan` of `opencode/plan`); none: its default.
    pub mode: Option<String>,
    /// Model as asked for; none: the agent's configured default.
    pub model: Option<String>,
    /// Variant of the model.
    pub variant: Option<String>,
    /// The conversation to resume, with the config hash that it was made under.
    pub resume: Option<(String, String)>,
}

/// An open conversation.
#[derive(Clone, Debug)]
pub struct AgentSession {
    /// The agent's id for it.
    pub id: String,
    /// Whether it is the one that was to be resumed.
    pub resumed: bool,
    /// Hash of the configuration that it runs under.
    pub config_hash: String,
    /// The mode that will run, by the agent's name for it.
    pub mode: String,
    /// The model that will run, `provider/model`.
    pub model: String,
    /// Variant of the model.
    pub variant: Option<String>,
    /// The project that it belongs to.
    pub project: AgentProject,
    /// The worktree.
    pub directory: PathBuf,
}

/// A prompt, with the ids that make sending it twice harmless.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// The text.
    pub text: String,
    /// Our id of the message.
    pub message_id: String,
    /// Our id of its only part.
    pub part_id: String,
}

/// How a turn went.
#[derive(Clone, Debug)]
pub struct TurnReport {
    /// How it ended.
    pub ending: Ending,
    /// What went wrong, in words; empty for a turn that completed.
    pub error: String,
    /// The last text that the agent said.
    pub summary: String,
    /// What each step cost: the conversation's own and those of its subagents, all that belong to this prompt.
    pub steps: Vec<StepUsage>,
}

/// Why a conversation could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct AgentError {
    /// What kind of ending that is for the attempt.
    pub ending: Ending,
    /// What happened and what to do, in words.
    pub message: String,
}

/// What an agent on this host can do.
#[derive(Clone, Debug, Default)]
pub struct Probe {
    /// Version, if it is installed.
    pub version: Option<String>,
    /// Why it cannot be used, in words.
    pub problem: Option<String>,
    /// Models that the user's configuration offers, `provider/model`.
    pub models: Vec<String>,
}

/// One way of talking to an agent.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Opens or resumes a conversation, starting the agent's server where there is none, and checks mode and model
    /// before anything is paid for. Progress and warnings go to `events`.
    async fn ensure_session(
        &self,
        request: SessionRequest,
        events: &mpsc::Sender<AgentEvent>,
    ) -> Result<AgentSession, AgentError>;

    /// Sends the prompt and follows the turn until it is over. Cancelling `stop` aborts the turn, never the server;
    /// the report then says `Aborted`. Never fails: every ending is an [`Ending`].
    async fn prompt(
        &self,
        session: &AgentSession,
        prompt: Prompt,
        events: &mpsc::Sender<AgentEvent>,
        stop: CancellationToken,
    ) -> TurnReport;

    /// Lets go of what the agent holds for a worktree (caches, watchers), before that is moved or removed.
    async fn close(&self, project: &AgentProject, directory: &std::path::Path) -> Result<(), AgentError>;

    /// What this host can run.
    async fn probe(&self) -> Probe;

    /// Ends all servers, within the bound.
    async fn shutdown(&self, within: Duration);
}
