//! Agents: who does a turn, behind one trait.
//!
//! The turn knows [`Backend`] and [`AgentEvent`] only; how an agent is talked to stays in
//! its own module (`opencode` knows the wire format of opencode, and nothing else does). This module must not
//! touch the database, nor git.

use std::{any::Any, fmt, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::model::{
    ask::{AskPolicy, Decision, OpenAsk},
    event::AgentEvent,
    outcome::Ending,
    server::Running,
    usage::StepUsage,
};

pub mod command;
pub mod confine;
pub mod opencode;
mod operator_file;

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
    /// Who answers what its agents ask.
    pub asks: AskPolicy,
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
    /// Steps after which the agent stops, if the mode has such a limit.
    pub step_limit: Option<u32>,
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
    /// The message that the turn began with: this one, or an earlier one that this tells the agent to go on with. What every
    /// step since then cost is reported.
    pub began_with: String,
    /// Whether what happened since that message is told again, or only what happens from this one on.
    pub tells_all: bool,
    /// Nobody has sent it before, so that the agent need not be asked for it through the whole conversation.
    pub is_new: bool,
    /// Where it was sent before and is neither answered nor under way, it may be sent again.
    pub may_resend: bool,
}

impl Prompt {
    /// A prompt that begins a turn.
    pub fn new(text: String, message_id: String) -> Self {
        let part_id = message_id.replacen("msg", "prt", 1);
        Self {
            text,
            began_with: message_id.clone(),
            message_id,
            part_id,
            tells_all: true,
            is_new: false,
            may_resend: true,
        }
    }
}

/// A turn's claim on an agent's server, taken before its task is claimed and kept until the turn is over. A server that
/// somebody has a seat on is not ended to make room.
#[derive(Clone)]
pub struct Seat {
    project_id: i64,
    _taken: Arc<dyn Any + Send + Sync>,
}

impl Seat {
    /// A seat for a project; what is `taken` is dropped with its last clone.
    pub fn new(project_id: i64, taken: impl Any + Send + Sync) -> Self {
        Self { project_id, _taken: Arc::new(taken) }
    }

    /// The project that it is for.
    pub fn project_id(&self) -> i64 {
        self.project_id
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("project_id", &self.project_id).finish_non_exhaustive()
    }
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

/// Where the asks of a turn go that a person is to answer.
#[async_trait]
pub trait AskDesk: Send + Sync {
    /// Puts an ask before a person, and waits for the answer as long as that may take. The same ask may come twice, from a turn that
    /// was followed before.
    async fn decide(&self, ask: &OpenAsk) -> Decision;
}

/// One way of talking to an agent.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Takes a seat for each of these projects that a turn could begin in now. `newcomers` bounds for how many of them another
    /// project's idle server may be ended. The rest has to wait; asked again and again, each gets its turn.
    fn reserve(&self, projects: &[i64], newcomers: usize) -> Vec<Seat>;

    /// Opens or resumes a conversation, starting the agent's server where there is none, and checks mode and model
    /// before anything is paid for. Progress and warnings go to `events`.
    async fn ensure_session(
        &self,
        request: SessionRequest,
        events: &mpsc::Sender<AgentEvent>,
    ) -> Result<AgentSession, AgentError>;

    /// Sends the prompt and follows the turn until it is over. What the agent asks of people goes to `desk`. Cancelling `stop`
    /// aborts the turn, never the server; the report then says `Aborted`. Never fails: every ending is an [`Ending`].
    async fn prompt(
        &self,
        session: &AgentSession,
        prompt: Prompt,
        desk: &dyn AskDesk,
        events: &mpsc::Sender<AgentEvent>,
        stop: CancellationToken,
    ) -> TurnReport;

    /// Lets go of what the agent holds for a worktree (caches, watchers), before that is moved or removed.
    async fn close(&self, project: &AgentProject, directory: &std::path::Path) -> Result<(), AgentError>;

    /// Looks after the servers: ends idle, old and large ones, and lets go of worktrees that are not used.
    async fn tend(&self);

    /// Takes over what an earlier worker of this host left running, as far as it can go on, and ends the rest. Called once, when that
    /// worker's leases are taken over and before any task is claimed.
    async fn take_over(&self);

    /// The servers that run.
    fn servers(&self) -> Vec<Running>;

    /// What this host can run.
    async fn probe(&self) -> Probe;

    /// Ends all servers, within the bound.
    async fn shutdown(&self, within: Duration);
}
