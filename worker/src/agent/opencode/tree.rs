//! The conversation of a turn and those of its subagents: their messages, and what all of them cost.
//!
//! A subagent's cost is not in its parent's, so the tree is followed and summed. Only what came after our prompt counts: a
//! subagent's conversation can be an older one that goes on.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::Instant,
};

use super::{
    client::{Client, ClientError, PAGE},
    transcript::{cut_off, step_usage, usage_of},
    wire::{Message, MessageWithParts, Part, Session},
};
use crate::model::{event::AgentEvent, usage::StepUsage};

/// Conversations of one tree that are read at most.
const MAX_SESSIONS: usize = 500;

/// Messages heard of or read, of the whole tree.
#[derive(Debug)]
pub(super) struct Tree {
    root: String,
    messages: BTreeMap<(String, String), Message>,
    running_tools: HashMap<String, Instant>,
    /// Something was heard of a subagent.
    has_subagents: bool,
    /// Steps of subagents that were told of.
    steps: HashSet<String>,
}

impl Tree {
    pub(super) fn new(root: &str) -> Self {
        Self {
            root: root.to_owned(),
            messages: BTreeMap::new(),
            running_tools: HashMap::new(),
            has_subagents: false,
            steps: HashSet::new(),
        }
    }

    /// Something was heard in a conversation of the tree.
    pub(super) fn heard_in(&mut self, session: &str) {
        self.has_subagents |= session != self.root;
    }

    /// Whether anything was heard of a subagent.
    pub(super) fn has_subagents(&self) -> bool {
        self.has_subagents
    }

    /// Takes a message, in its newest form.
    pub(super) fn message(&mut self, message: &Message) {
        self.messages.insert((message.session.clone(), message.id.clone()), message.clone());
    }

    /// Takes the status of a tool call. The call that runs a subagent says nothing: the subagent may be the one that is stuck.
    pub(super) fn tool(&mut self, part: &str, tool: &str, status: &str, now: Instant) {
        self.has_subagents |= tool == "task";
        if status == "running" && tool != "task" {
            self.running_tools.entry(part.to_owned()).or_insert(now);
        } else {
            self.running_tools.remove(part);
        }
    }

    /// A step of a subagent that is over, once: what it cost is paid, however the turn ends.
    pub(super) fn step(&mut self, session: &str, part: &Part) -> Option<AgentEvent> {
        let message = self.messages.get(&(session.to_owned(), part.message.clone()))?;
        if part.kind != "step-finish" || session == self.root || !self.steps.insert(part.id.clone()) {
            return None;
        }
        let usage = step_usage(session, &part.message, message.model_name(), part.tokens, part.cost);
        Some(AgentEvent::StepFinish { part: part.id.clone(), reason: part.reason.clone(), usage })
    }

    /// Since when the tool call runs that runs longest, anywhere in the tree.
    pub(super) fn tool_since(&self) -> Option<Instant> {
        self.running_tools.values().min().copied()
    }

    /// Reads the subagents' conversations, as deep as they go. Answers whether anything in them was not known.
    pub(super) async fn read_subagents(
        &mut self,
        client: &Client,
        children: Vec<Session>,
    ) -> Result<bool, ClientError> {
        let mut has_changed = false;
        let mut open: VecDeque<Session> = children.into();
        let mut seen = HashSet::new();
        while let Some(session) = open.pop_front() {
            if !seen.insert(session.id.clone()) || seen.len() > MAX_SESSIONS {
                continue;
            }
            let (messages, children) =
                tokio::try_join!(client.messages(&session.id, PAGE, |_| false), client.children(&session.id))?;
            for mut message in messages {
                message.info.session.clone_from(&session.id);
                let key = (session.id.clone(), message.info.id.clone());
                has_changed |= self.messages.get(&key) != Some(&message.info);
                self.message(&message.info);
                for part in message.parts.iter().filter(|part| part.kind == "tool") {
                    self.tool(&part.id, &part.tool, &part.state.status, Instant::now());
                }
            }
            open.extend(children);
        }
        Ok(has_changed)
    }

    /// What each step since our message cost, the conversation's own first; those that were cut off too.
    pub(super) fn usage(&self, ours: &str) -> Vec<StepUsage> {
        let Some(since) = self.messages.get(&(self.root.clone(), ours.to_owned())).map(|message| message.time.created)
        else {
            return Vec::new();
        };
        let of = |is_root: bool| {
            let messages = self.messages.iter().filter(move |((session, _), _)| (*session == self.root) == is_root);
            messages
                .filter(move |(_, message)| message.time.created >= since)
                .filter_map(|((session, _), message)| usage_of(session, message).or_else(|| cut_off(session, message)))
        };
        of(true).chain(of(false)).collect()
    }
}

/// A message that was read in a conversation, which the list of its messages need not name.
pub(super) fn of(message: &MessageWithParts, session: &str) -> Message {
    Message { session: session.to_owned(), ..message.info.clone() }
}

/// Our message and all that follow it, in the order in which they were made. Empty if ours is not there.
///
/// By time, not by id: our ids do not sort among opencode's.
pub(super) fn since(messages: Vec<MessageWithParts>, ours: &str) -> Vec<MessageWithParts> {
    let Some(since) = messages.iter().find(|message| message.info.id == ours).map(|message| message.info.time.created)
    else {
        return Vec::new();
    };
    let mut after: Vec<_> = messages
        .into_iter()
        .filter(|message| message.info.time.created >= since || message.info.parent.as_deref() == Some(ours))
        .collect();
    // Stable: what was made in the same millisecond stays in the server's order, but ours comes first.
    after.sort_by(|a, b| {
        let rank = |message: &MessageWithParts| (message.info.id != ours, message.info.time.created);
        rank(a).partial_cmp(&rank(b)).unwrap_or(std::cmp::Ordering::Equal)
    });
    after
}

/// Whether our message is among these.
pub(super) fn reaches(messages: &[MessageWithParts], ours: &str) -> bool {
    messages.iter().any(|message| message.info.id == ours)
}
