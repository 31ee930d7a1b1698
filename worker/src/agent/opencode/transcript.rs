//! What opencode says of a turn, made into [`AgentEvent`]s. Pure: no clock, no network.
//!
//! The same part is heard of several times: as deltas, as an update, again as an update, and in the list that is read
//! at the end. Each is told once: deltas as they come, the whole part when it is final, and nothing again that was told
//! already. So the stream may lose or repeat events at will, and [`Transcript::reconcile`] with the messages read by
//! GET gives the rest.
//!
//! Only the conversation's own parts are told; what subagents say is theirs, and the tool call that started them has
//! its result.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{
    tag::{self, TagFilter},
    wire::{Message, MessageWithParts, Part, Tokens, count, usd},
};
use crate::model::{
    event::{AgentEvent, ToolCall, ToolStatus},
    usage::StepUsage,
};

/// What was told of a turn so far.
#[derive(Debug)]
pub(super) struct Transcript {
    session: String,
    show_reasoning: bool,
    /// Messages of earlier turns: late news of them are not ours.
    earlier: HashSet<String>,
    messages: HashMap<String, Message>,
    parts: HashMap<String, PartState>,
    summary: String,
    /// Parts that were skipped because their message was not known yet: only a GET tells.
    missing: bool,
}

#[derive(Debug)]
enum PartState {
    Text(TextState),
    Reasoning(TextState),
    Tool(ToolCall),
    Told,
}

#[derive(Debug, Default)]
struct TextState {
    /// As it came, tags and all.
    raw: String,
    filter: TagFilter,
    /// The whole text as it was told.
    told: Option<String>,
}

impl Transcript {
    /// A transcript of a turn that is about to begin, or goes on.
    pub(super) fn new(session: &str, show_reasoning: bool, earlier: HashSet<String>) -> Self {
        Self {
            session: session.to_owned(),
            show_reasoning,
            earlier,
            messages: HashMap::new(),
            parts: HashMap::new(),
            summary: String::new(),
            missing: false,
        }
    }

    /// The last text that the agent said.
    pub(super) fn summary(&self) -> &str {
        &self.summary
    }

    /// Messages of the turn that were heard of.
    pub(super) fn heard(&self) -> usize {
        self.messages.len()
    }

    /// Ids of all messages of the conversation that are known.
    pub(super) fn into_message_ids(self) -> HashSet<String> {
        let mut ids = self.earlier;
        ids.extend(self.messages.into_keys());
        ids
    }

    /// Whether something was heard of that only a GET can explain. Asking clears it.
    pub(super) fn take_missing(&mut self) -> bool {
        std::mem::take(&mut self.missing)
    }

    /// Whether a message belongs to an earlier turn.
    pub(super) fn is_earlier(&self, message: &str) -> bool {
        self.earlier.contains(message)
    }

    /// Takes news of a message.
    pub(super) fn message(&mut self, message: &Message) {
        if message.session == self.session && !self.earlier.contains(&message.id) {
            self.messages.insert(message.id.clone(), message.clone());
        }
    }

    /// Takes text that was added to a part.
    pub(super) fn delta(&mut self, message: &str, part: &str, field: &str, delta: &str, told: &mut Vec<AgentEvent>) {
        if field != "text" || !self.is_ours(message) {
            return;
        }
        let event = match self.parts.get_mut(part) {
            Some(PartState::Text(state)) if state.told.is_none() => {
                state.raw.push_str(delta);
                let delta = state.filter.push(delta);
                AgentEvent::TextDelta { part: part.to_owned(), delta }
            }
            Some(PartState::Reasoning(state)) if state.told.is_none() => {
                state.raw.push_str(delta);
                AgentEvent::ReasoningDelta { part: part.to_owned(), delta: delta.to_owned() }
            }
            Some(_) => return,
            None => {
                self.missing = true;
                return;
            }
        };
        self.tell(event, told);
    }

    /// Takes a part, new or changed.
    pub(super) fn part(&mut self, part: &Part, told: &mut Vec<AgentEvent>) {
        if self.is_ours(&part.message) {
            self.take_part(part, part.time.end.is_some(), told);
        }
    }

    /// Takes the messages as they were read by GET, in order, and tells what was not told yet. With `over`, all parts are
    /// final.
    pub(super) fn reconcile(&mut self, messages: &[MessageWithParts], over: bool, told: &mut Vec<AgentEvent>) {
        for MessageWithParts { info, parts } in messages {
            if !self.earlier.contains(&info.id) {
                self.messages.insert(info.id.clone(), info.clone());
            }
            if !info.is_assistant() || self.earlier.contains(&info.id) {
                continue;
            }
            for part in parts {
                let is_final = over || part.time.end.is_some() || info.is_complete();
                self.take_part(part, is_final, told);
            }
        }
        self.missing = false;
    }

    /// Whether a message is an assistant's of this turn.
    fn is_ours(&mut self, message: &str) -> bool {
        match self.messages.get(message) {
            Some(message) => message.is_assistant(),
            None => {
                self.missing |= !self.earlier.contains(message);
                false
            }
        }
    }

    fn take_part(&mut self, part: &Part, is_final: bool, told: &mut Vec<AgentEvent>) {
        match part.kind.as_str() {
            "text" => self.take_text(part, is_final, told),
            "reasoning" => self.take_reasoning(part, is_final, told),
            "tool" => self.take_tool(part, told),
            "step-finish" => self.take_step(part, told),
            _ => {}
        }
    }

    fn take_text(&mut self, part: &Part, is_final: bool, told: &mut Vec<AgentEvent>) {
        let state = self.parts.entry(part.id.clone()).or_insert_with(|| PartState::Text(TextState::default()));
        let PartState::Text(state) = state else { return };
        let mut events = Vec::new();
        if is_final {
            let text = tag::strip(&part.text);
            if state.told.as_deref() == Some(text.as_str()) {
                return;
            }
            state.told = Some(text.clone());
            state.raw = part.text.clone();
            // A part that is empty once final says nothing, and is told only to end its deltas.
            if !text.is_empty() {
                events.push(AgentEvent::Text { part: part.id.clone(), text });
            }
        } else if let Some(added) = state.grow(&part.text) {
            let delta = state.filter.push(&added);
            events.push(AgentEvent::TextDelta { part: part.id.clone(), delta });
        }
        for event in events {
            if let AgentEvent::Text { text, .. } = &event
                && !text.trim().is_empty()
            {
                self.summary.clone_from(text);
            }
            self.tell(event, told);
        }
    }

    fn take_reasoning(&mut self, part: &Part, is_final: bool, told: &mut Vec<AgentEvent>) {
        let state = self.parts.entry(part.id.clone()).or_insert_with(|| PartState::Reasoning(TextState::default()));
        let PartState::Reasoning(state) = state else { return };
        if is_final {
            if state.told.as_deref() == Some(part.text.as_str()) {
                return;
            }
            state.told = Some(part.text.clone());
            if !part.text.is_empty() {
                self.tell(AgentEvent::Reasoning { part: part.id.clone(), text: part.text.clone() }, told);
            }
        } else if let Some(delta) = state.grow(&part.text) {
            self.tell(AgentEvent::ReasoningDelta { part: part.id.clone(), delta }, told);
        }
    }

    fn take_tool(&mut self, part: &Part, told: &mut Vec<AgentEvent>) {
        let status = match part.state.status.as_str() {
            "running" => ToolStatus::Running,
            "completed" => ToolStatus::Completed,
            "error" => ToolStatus::Error,
            _ => ToolStatus::Pending,
        };
        let call = ToolCall {
            call_id: part.call.clone(),
            tool: part.tool.clone(),
            status,
            title: part.state.title.clone().filter(|title| !title.is_empty()),
            input: part.state.input.clone(),
            output: part.state.output.clone(),
            error: part.state.error.clone(),
            exit_code: part.state.metadata.exit,
        };
        match self.parts.get(&part.id) {
            Some(PartState::Tool(before)) if *before == call || rank(before.status) > rank(status) => return,
            _ => {}
        }
        self.parts.insert(part.id.clone(), PartState::Tool(call.clone()));
        self.tell(AgentEvent::Tool { part: part.id.clone(), call }, told);
    }

    fn take_step(&mut self, part: &Part, told: &mut Vec<AgentEvent>) {
        if self.parts.insert(part.id.clone(), PartState::Told).is_some() {
            return;
        }
        let model = self.messages.get(&part.message).map(Message::model_name).unwrap_or_default();
        let usage = step_usage(&self.session, &part.message, model, part.tokens, part.cost);
        self.tell(AgentEvent::StepFinish { part: part.id.clone(), reason: part.reason.clone(), usage }, told);
    }

    fn tell(&self, event: AgentEvent, told: &mut Vec<AgentEvent>) {
        let shown = match &event {
            AgentEvent::TextDelta { delta, .. } => !delta.is_empty(),
            AgentEvent::ReasoningDelta { delta, .. } => self.show_reasoning && !delta.is_empty(),
            AgentEvent::Reasoning { .. } => self.show_reasoning,
            _ => true,
        };
        if shown {
            told.push(event);
        }
    }
}

impl TextState {
    /// What an update that is not final adds to what is known. `None` if it adds nothing, or is behind the deltas.
    fn grow(&mut self, text: &str) -> Option<String> {
        let added = text.strip_prefix(self.raw.as_str()).filter(|added| !added.is_empty())?.to_owned();
        if self.told.is_some() {
            return None;
        }
        self.raw.push_str(&added);
        Some(added)
    }
}

/// A tool call never goes back, however late an event comes.
fn rank(status: ToolStatus) -> u8 {
    match status {
        ToolStatus::Pending => 0,
        ToolStatus::Running => 1,
        ToolStatus::Completed | ToolStatus::Error => 2,
    }
}

pub(super) fn step_usage(session: &str, message: &str, model: String, tokens: Tokens, cost: f64) -> StepUsage {
    StepUsage {
        agent_session: session.to_owned(),
        message_id: message.to_owned(),
        model,
        input_tokens: count(tokens.input),
        output_tokens: count(tokens.output),
        reasoning_tokens: count(tokens.reasoning),
        cache_read_tokens: count(tokens.cache.read),
        cache_write_tokens: count(tokens.cache.write),
        // Nothing is what opencode says where it knows no price, too.
        cost_usd: Some(usd(cost)).filter(|cost| !cost.is_zero()),
    }
}

/// What an assistant's message cost; `None` for others, and for one that cost nothing because it never got an answer.
pub(super) fn usage_of(session: &str, message: &Message) -> Option<StepUsage> {
    if !message.is_assistant() {
        return None;
    }
    let usage = step_usage(session, &message.id, message.model_name(), message.tokens, message.cost);
    (usage.total_tokens() > 0 || usage.cost_usd.is_some() || message.finish.is_some()).then_some(usage)
}

/// A step that was cut off before opencode knew what it cost: the provider has charged something all the same.
pub(super) fn cut_off(session: &str, message: &Message) -> Option<StepUsage> {
    let was_cut = match &message.error {
        Some(error) => error.name == "MessageAbortedError",
        None => !message.is_complete(),
    };
    (message.is_assistant() && was_cut)
        .then(|| step_usage(session, &message.id, message.model_name(), message.tokens, message.cost))
}

/// The plan that a `todo.updated` holds.
pub(super) fn plan(items: Value) -> AgentEvent {
    AgentEvent::Plan { items }
}

#[cfg(test)]
#[path = "transcript_tests.rs"]
mod tests;
