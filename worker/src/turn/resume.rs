//! The prompts of one turn: the task's, and those that tell the agent to go on after its limit of steps.
//!
//! Each has ids of its own, stored before it is sent: an attempt that follows a lost one sends the last of them again.

use std::{collections::HashSet, time::SystemTime};

use tokio::time::Instant;

use super::{Interrupted, Turns, desk::Desk, lease::Lease, persist::persist, transcript::Transcript};
use crate::{
    agent::{AgentSession, Prompt, TurnReport},
    model::{
        digest::{MOST_TURNS, with_digest},
        event::AgentEvent,
        outcome::Ending,
        resume::{RESUME_TEXT, TurnMessage, is_resumable, message_id},
    },
    store::{
        StoreError,
        queue::Claimed,
        turns::{AgentSessionRow, BeforePrompt},
    },
};

/// What a person can do about a turn that is not sent again.
const ASKS: &str = "this project asks before it is sent again: retry it to go on where it was, or dismiss it";

impl Turns {
    /// prompt → follow, and again as long as the agent stops at its limit of steps and may go on.
    pub(super) async fn converse(
        &self,
        claimed: &Claimed,
        agent: &str,
        session: &AgentSession,
        lease: &Lease,
        transcript: &Transcript,
    ) -> Result<TurnReport, Interrupted> {
        let mut message = first_message(claimed, session);
        let is_new = claimed.message_id.as_deref() != Some(message.id());
        let may_resend = !claimed.asks_before_resend;
        if is_new && claimed.message_id.is_some() && !may_resend {
            let words = format!("the conversation in which its turn was lost is gone; {ASKS}");
            return Err(Interrupted::Ended(Ending::AsksToResend, words));
        }
        let text = self.first_text(claimed, session, lease, transcript).await?;
        let mut prompt = Prompt { is_new, may_resend, ..prompt(&text, &message, true) };
        if !self.store_prompt(agent, session, lease, &prompt).await? {
            return Err(Interrupted::Fenced);
        }
        let until = Instant::now() + self.timings.turn_limit;
        let desk = Desk::new(&self.store, lease.token(), claimed.attempt_id, &self.timings);
        let mut report = self.follow(session, prompt, &desk, lease, transcript, until).await;
        while let Some(next) = message.next(&report.ending, self.step_resumes, SystemTime::now()) {
            message = next;
            let times = format!("{} of {}", message.resumes, self.step_resumes);
            let status = format!("the agent stopped at its limit of steps; it is told to go on ({times})");
            transcript.say(AgentEvent::Status { message: status }).await;
            tracing::info!(times, "the agent stopped at its limit of steps; telling it to go on");
            prompt = self::prompt(&text, &message, false);
            match self.store_prompt(agent, session, lease, &prompt).await {
                Ok(true) => {}
                // What it came to so far has its cost, and counts for what it is.
                Err(Interrupted::Ended(ending, error)) => {
                    report = TurnReport { ending, error, ..report };
                    break;
                }
                Ok(false) | Err(Interrupted::Fenced) => break,
            }
            report = together(report, self.follow(session, prompt, &desk, lease, transcript, until).await);
        }
        desk.close().await;
        match report.ending {
            Ending::StepLimit { answered: true } => {
                // It came to an end of its own, and what it did can be reviewed: a person decides whether that is enough.
                let message = format!("{}; the task may not be finished", report.error);
                transcript.say(AgentEvent::Warning { message }).await;
                report = TurnReport { ending: Ending::Completed, error: String::new(), ..report };
            }
            Ending::AsksToResend => report.error = format!("{}; {ASKS}", report.error),
            Ending::ServerLost => self.note_lost_server(claimed, agent, transcript).await,
            _ => {}
        }
        Ok(report)
    }

    /// The task's prompt; in a conversation that begins in the middle of a chat, with what was asked and answered before.
    async fn first_text(
        &self,
        claimed: &Claimed,
        session: &AgentSession,
        lease: &Lease,
        transcript: &Transcript,
    ) -> Result<String, Interrupted> {
        if session.resumed && claimed.message_id.is_none() {
            return Ok(claimed.prompt.clone());
        }
        let (chat, task) = (claimed.chat_id, claimed.task_id);
        let before = persist(lease, || self.store.unknown_to_agent(chat, task, &session.id, MOST_TURNS)).await?;
        if !before.is_empty() {
            let message = format!(
                "the agent begins this conversation anew; it is told what was asked and answered in {} before",
                if before.len() == 1 { "the turn".to_owned() } else { format!("the {} turns", before.len()) }
            );
            transcript.say(AgentEvent::Warning { message }).await;
        }
        Ok(with_digest(&claimed.prompt, &before))
    }

    /// Stores all that must be known before a prompt is sent. False if the lease is not held any more.
    async fn store_prompt(
        &self,
        agent: &str,
        session: &AgentSession,
        lease: &Lease,
        prompt: &Prompt,
    ) -> Result<bool, Interrupted> {
        let row = AgentSessionRow { external_id: session.id.clone(), config_hash: session.config_hash.clone() };
        let resolved = format!("{agent}/{}", session.mode);
        let (host, model, id) = (&self.host_id, &session.model, &prompt.message_id);
        let stored = persist(lease, || {
            self.store.before_prompt(lease.token(), agent, "opencode", host, &row, &resolved, model, id)
        })
        .await?;
        match stored {
            BeforePrompt::Stored => Ok(true),
            BeforePrompt::OverBudget(limit) => Err(Interrupted::Ended(Ending::OverBudget, limit)),
            BeforePrompt::Undone => {
                let words = "the database crashed and forgot where the session begins; nothing was sent to the agent";
                Err(Interrupted::Ended(Ending::WorkerTrouble, words.to_owned()))
            }
            BeforePrompt::Fenced => Ok(false),
        }
    }

    /// A conversation whose server is lost goes on; one that loses its server again and again does not.
    async fn note_lost_server(&self, claimed: &Claimed, agent: &str, transcript: &Transcript) {
        let note = async {
            let losses = self.store.server_losses(claimed.task_id).await? + 1;
            if !is_resumable(losses) {
                tracing::warn!(losses, "a conversation that loses its server again and again is not resumed");
                self.store.mark_agent_session_crashed(claimed.chat_id, agent, &self.host_id).await?;
                let message = format!(
                    "the agent's server was lost {losses} times in a row; the next attempt starts without the agent's memory"
                );
                transcript.say(AgentEvent::Warning { message }).await;
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = note.await {
            tracing::warn!(%error, "that the agent's server was lost could not be noted");
        }
    }
}

/// The message to begin with. An attempt that continues where an earlier one was lost sends the same ids again, which the agent
/// recognises; every other one sends new ids.
fn first_message(claimed: &Claimed, session: &AgentSession) -> TurnMessage {
    match &claimed.message_id {
        Some(id) if session.resumed => TurnMessage::parse(id),
        _ => TurnMessage::first(message_id(claimed.token.simple(), SystemTime::now())),
    }
}

fn prompt(first: &str, message: &TurnMessage, tells_all: bool) -> Prompt {
    let text = if message.resumes == 0 { first.to_owned() } else { RESUME_TEXT.to_owned() };
    Prompt { began_with: message.first.clone(), tells_all, ..Prompt::new(text, message.id().to_owned()) }
}

/// What a turn came to, by what was reported before it was told to go on, and after.
fn together(before: TurnReport, after: TurnReport) -> TurnReport {
    let known: HashSet<(String, String)> =
        after.steps.iter().map(|step| (step.agent_session.clone(), step.message_id.clone())).collect();
    let mut steps: Vec<_> = before
        .steps
        .into_iter()
        .filter(|step| !known.contains(&(step.agent_session.clone(), step.message_id.clone())))
        .collect();
    steps.extend(after.steps);
    let summary = if after.summary.is_empty() { before.summary } else { after.summary };
    TurnReport { steps, summary, ..after }
}
