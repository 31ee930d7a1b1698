//! Looking at a turn by GET: what its server says of it, and what follows from that.

use std::time::{Duration, Instant};

use super::{Cut, Turn, wall_ms};
use crate::{
    agent::opencode::{
        settle::Snapshot,
        stream::Subscription,
        tree,
        wire::{MessageWithParts, Session, Status},
    },
    model::{event::AgentEvent, outcome::Ending},
};

/// Looks in a row that may get no answer while the server is not given up.
const UNANSWERED_LOOKS: u32 = 5;
/// Before the next look after one that got no answer.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a server that does not abort may take to let go of the turn's directory.
const DISPOSE_WITHIN: Duration = Duration::from_secs(5);

impl Turn<'_> {
    /// Looks, and looks again if there is no answer: whether the server is dead is for whoever watches over it to say.
    pub(super) async fn look_patiently(
        &mut self,
        subscription: &mut Subscription,
    ) -> Result<Option<(Ending, String)>, Cut> {
        match self.look(subscription).await {
            Ok(ended) => {
                self.unanswered_looks = 0;
                Ok(ended)
            }
            Err(Cut::ServerLost(why)) if !self.server.gone.is_cancelled() => {
                self.unanswered_looks += 1;
                self.server.suspect();
                self.has_missed();
                if let Some(ended) = self.watch.given_up(Instant::now()) {
                    self.give_up_server().await;
                    return Ok(Some(ended));
                }
                if self.unanswered_looks >= UNANSWERED_LOOKS {
                    return Err(Cut::ServerLost(why));
                }
                tracing::debug!(session = %self.session.id, why, "opencode did not say how a turn is");
                self.watch.lost_events(Instant::now() + LOOK_AGAIN);
                Ok(None)
            }
            Err(cut) => Err(cut),
        }
    }

    /// Reads what the server says of the turn, tells what was missed, and decides whether it is over.
    async fn look(&mut self, subscription: &Subscription) -> Result<Option<(Ending, String)>, Cut> {
        let client = &self.server.client;
        let directory = &self.session.directory;
        // What nobody tells of has to be read.
        if !self.server.is_connected() {
            self.has_missed();
        }
        if !self.must_read && !self.watch.expects_end() {
            // The poll beside the stream: usually the turn is just busy.
            let statuses = self.lives(client.statuses(directory)).await?;
            self.answer_open_asks(subscription).await?;
            if let Some(status) = statuses.get(&self.session.id).filter(|status| **status != Status::Idle) {
                self.watch.status(status, wall_ms(), Instant::now());
                if !self.watch.is_silent(Instant::now()) {
                    return Ok(None);
                }
                // Busy, and nothing is heard of it: a long tool, or a stream that brings nothing but heartbeats.
                self.must_read = true;
            }
        }
        let may_have_children = !self.heard_all || self.tree.has_subagents();
        let (snapshot, children) = match self.heard_answer(subscription) {
            Some(messages) => (Snapshot { status: None, messages }, Vec::new()),
            None => self.read(subscription, may_have_children).await?,
        };
        let Some(ended) = self.watch.judge(&snapshot, Instant::now()) else { return Ok(None) };
        self.take_messages(&snapshot.messages, true).await;
        // What the stream did not tell to the end, it may not have told at all.
        let is_sure = self.watch.has_heard_idle() && !self.watch.is_broken();
        let children = match may_have_children || (is_sure && !self.tree.has_subagents()) {
            true => children,
            false => self.lives(client.children(&self.session.id)).await?,
        };
        self.heard_all &= is_sure;
        self.read_subagents(children).await?;
        if self.watch.is_broken() && !matches!(snapshot.status, None | Some(Status::Idle)) {
            self.give_up_server().await;
        }
        if ended.0 == Ending::AgentError && snapshot.last().is_none() {
            return Ok(Some(self.explain_refusal(ended).await));
        }
        Ok(Some(ended))
    }

    /// What GET would say of a turn that is over, where the stream told all of it.
    fn heard_answer(&self, subscription: &Subscription) -> Option<Vec<MessageWithParts>> {
        let missed = !self.heard_all || self.must_read || subscription.has_lost();
        let was_told = !missed && self.watch.has_heard_idle() && !self.watch.is_broken();
        if !was_told || self.tree.has_subagents() {
            return None;
        }
        self.heard.answered(&self.prompt.message_id)
    }

    /// What GET says of the turn and its subagents.
    async fn read(
        &mut self,
        subscription: &Subscription,
        with_children: bool,
    ) -> Result<(Snapshot, Vec<Session>), Cut> {
        let client = &self.server.client;
        let children = async { if with_children { client.children(&self.session.id).await } else { Ok(Vec::new()) } };
        let statuses = client.statuses(&self.session.directory);
        let read = async { tokio::try_join!(statuses, self.read_messages(), children) };
        let (mut statuses, messages, children) = self.lives(read).await?;
        let messages = tree::since(messages, &self.prompt.message_id);
        if std::mem::take(&mut self.must_read) {
            for child in &children {
                subscription.adopt(&child.id);
            }
            self.answer_open_asks(subscription).await?;
            // Not otherwise: what is read now, the stream may be about to tell bit by bit.
            self.take_messages(&messages, false).await;
            self.read_subagents(children.clone()).await?;
        }
        Ok((Snapshot { status: statuses.remove(&self.session.id), messages }, children))
    }

    /// opencode did not even begin, and its error may be just a stack trace. What we know to cause that, we look up.
    async fn explain_refusal(&self, ended: (Ending, String)) -> (Ending, String) {
        let (client, directory) = (&self.server.client, &self.session.directory);
        let (mode, model) = (&self.session.mode, &self.session.model);
        if let Ok(modes) = client.modes(directory).await
            && !modes.iter().any(|known| known.name == *mode)
        {
            return (Ending::AgentInvalid, format!("opencode has no mode \"{mode}\""));
        }
        let (provider, name) = model.split_once('/').unwrap_or(("", model));
        if let Ok(known) = client.providers(directory).await
            && !known.providers.iter().any(|known| known.id == provider && known.models.contains_key(name))
        {
            return (Ending::ModelInvalid, format!("opencode has no model \"{model}\""));
        }
        ended
    }

    /// Two aborts did nothing: the server is not to be trusted with another turn. It ends at once, unless other turns run on
    /// it; those have their time.
    async fn give_up_server(&self) {
        let pid = self.server.pid();
        // Letting go of the directory aborts what runs in it, and nothing else.
        let disposing = self.server.client.patient(DISPOSE_WITHIN);
        if let Err(error) = disposing.dispose(&self.session.directory).await {
            tracing::debug!(pid, %error, "opencode did not let go of the worktree of a turn that it does not abort");
        }
        self.server.retire();
        if self.server.turns() <= 1 {
            tracing::warn!(pid, "opencode did not abort a turn; ending its server");
            self.server.stop().await;
        } else {
            tracing::warn!(pid, turns = self.server.turns(), "opencode did not abort a turn; replacing its server");
            let message = "opencode did not abort this turn; it may go on until its server is replaced";
            self.tell(AgentEvent::Warning { message: message.to_owned() }).await;
        }
    }

    pub(super) async fn read_subagents(&mut self, children: Vec<Session>) -> Result<(), Cut> {
        let server = self.server;
        let read = self.tree.read_subagents(&server.client, children);
        let has_changed = tokio::select! {
            read = read => read.map_err(Cut::from)?,
            () = server.gone.cancelled() => return Err(Cut::ServerLost("its process ended".to_owned())),
        };
        if has_changed {
            self.watch.heard(Instant::now());
        }
        self.watch.tool_runs(self.tree.tool_since());
        Ok(())
    }
}
