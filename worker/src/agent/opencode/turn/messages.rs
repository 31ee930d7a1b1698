//! Messages of a turn, as they are heard of and as they are read by GET.

use std::time::Instant;

use super::Turn;
use crate::agent::opencode::{
    client::ClientError,
    tree,
    wire::{Event, Message, MessageWithParts, Part},
};

/// Messages that a turn may have beside those that were heard of, before a second page is needed to read it.
const UNHEARD_MESSAGES: usize = 4;

impl Turn<'_> {
    pub(super) fn take_message(&mut self, message: &Message, is_root: bool) {
        if is_root && self.transcript.is_earlier(&message.id) {
            return;
        }
        self.tree.message(message);
        if !is_root {
            return;
        }
        self.transcript.message(message);
        if message.id == self.prompt.message_id {
            self.watch.saw_user();
        }
        if message.is_assistant() {
            if !self.finished.contains_key(&message.id) {
                self.watch.saw_assistant(None);
                self.finished.insert(message.id.clone(), false);
                if self.cold.take().is_some() {
                    self.server.directories.set_warm(&self.session.directory);
                }
            }
            let finished = self.finished.entry(message.id.clone()).or_default();
            if !*finished && let Some(finish) = &message.finish {
                *finished = true;
                self.watch.saw_assistant(Some(finish));
            }
        }
    }

    /// Whether an event is late news of a turn before this one.
    pub(super) fn is_of_earlier(&self, event: &Event) -> bool {
        match event {
            Event::Message(message) => self.transcript.is_earlier(&message.id),
            Event::Part(part) => self.transcript.is_earlier(&part.message),
            _ => false,
        }
    }

    pub(super) fn take_tool(&mut self, session: &str, part: &Part, now: Instant) {
        self.tree.tool(&part.id, &part.tool, &part.state.status, now);
        self.watch.tool_runs(self.tree.tool_since());
        self.watch.repeated(self.repeats.take(session, part));
    }

    /// Takes messages that were read by GET.
    pub(super) async fn take_messages(&mut self, messages: &[MessageWithParts], over: bool) {
        for message in messages {
            let mut info = message.info.clone();
            info.session.clone_from(&self.session.id);
            self.take_message(&info, true);
            for part in message.parts.iter().filter(|part| part.kind == "tool") {
                let session = self.session.id.clone();
                self.take_tool(&session, part, Instant::now());
            }
        }
        let mut told = Vec::new();
        self.transcript.reconcile(messages, over, &mut told);
        if !told.is_empty() {
            // The stream had not told of it.
            self.heard_all &= over;
            self.watch.heard(Instant::now());
            self.watch.progressed();
        }
        for event in told {
            self.tell(event).await;
        }
    }

    /// Reads the messages since our prompt: back to it, or to what was there before it.
    pub(super) async fn read_messages(&self) -> Result<Vec<MessageWithParts>, ClientError> {
        let expected = self.transcript.heard() + UNHEARD_MESSAGES;
        let ours = &self.prompt.message_id;
        let is_enough = |messages: &[MessageWithParts]| {
            tree::reaches(messages, ours) || messages.iter().any(|message| self.transcript.is_earlier(&message.info.id))
        };
        self.server.client.messages(&self.session.id, expected, is_enough).await
    }
}
