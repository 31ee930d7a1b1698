//! The yardstick of `millhand bench`: the same turn with nothing of ours around it. No worker uses this.
//!
//! **A bare turn** is: one POST of the prompt, and waiting until the server's event stream says that the conversation is idle.
//! Nothing is read back, recorded, checked or retried. What a warm turn of Millhand takes longer than that is Millhand's own
//! share: claim, worktree, resuming the conversation, settling, checkpoint and diff, all statements, and noticing.

use std::time::{Duration, Instant};

use super::{
    OpencodeBackend,
    client::PromptBody,
    from_client,
    stream::{Delivery, Subscription},
    trouble,
    wire::Event,
};
use crate::agent::{AgentError, AgentSession, Prompt};

impl OpencodeBackend {
    /// Runs a bare turn on the running server of the session's project. From before the POST to having read the idle event.
    ///
    /// # Errors
    ///
    /// No server runs; it refuses the prompt; events were lost, or say that something failed; it is not over `within`.
    pub async fn bare_turn(
        &self,
        session: &AgentSession,
        prompt: &Prompt,
        within: Duration,
    ) -> Result<Duration, AgentError> {
        let server = self.settled_server(session.project.id).await;
        let server = server.filter(|server| server.is_usable()).ok_or_else(|| trouble("no server runs".to_owned()))?;
        let _running = server.begin_turn(&session.id, &session.directory).await;
        let mut subscription = server.hub.subscribe(&session.id);
        let (provider, model) = session.model.split_once('/').unwrap_or(("", session.model.as_str()));
        let body = PromptBody {
            message: &prompt.message_id,
            part: &prompt.part_id,
            text: &prompt.text,
            provider,
            model,
            mode: &session.mode,
            variant: session.variant.as_deref(),
            system: None,
        };
        let began = Instant::now();
        let turn = async {
            server.client.prompt(&session.id, &session.directory, &body).await.map_err(from_client)?;
            until_idle(&mut subscription, session, &prompt.message_id).await
        };
        match tokio::time::timeout(within, turn).await {
            Ok(Ok(())) => Ok(began.elapsed()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(trouble(format!("a bare turn was not over within {within:?}"))),
        }
    }
}

/// Waits for the idle event that follows an answer to this message: the one of the turn before may come late.
async fn until_idle(subscription: &mut Subscription, session: &AgentSession, message: &str) -> Result<(), AgentError> {
    let mut is_answered = false;
    loop {
        let event = match subscription.next().await {
            Delivery::Event(event) if event.session.as_deref() == Some(session.id.as_str()) => event,
            Delivery::Event(_) => continue,
            Delivery::Lost => return Err(trouble("events of a bare turn were lost".to_owned())),
        };
        // Only these are read: everything else a bare turn lets pass.
        match event.name.as_str() {
            "session.idle" if is_answered => return Ok(()),
            "message.updated" if !is_answered => {
                is_answered = matches!(event.read(), Event::Message(info) if info.parent.as_deref() == Some(message));
            }
            "session.error" => return Err(trouble(format!("a bare turn failed: {}", event.properties.get()))),
            _ => {}
        }
    }
}
