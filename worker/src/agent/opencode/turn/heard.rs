//! The messages of a turn as the stream told them: what a GET would say, if nothing was missed.
//!
//! A GET right behind the end waits until opencode has done its bookkeeping, so one that would say nothing new is worth not asking.

use crate::agent::opencode::{
    tree,
    wire::{Event, Message, MessageWithParts, Part},
};

/// What is kept at most, in bytes of events.
const MAX_BYTES: usize = 8 << 20;

/// Messages that were heard of, each in its newest form.
#[derive(Debug, Default)]
pub(super) struct Heard {
    messages: Vec<MessageWithParts>,
    bytes: usize,
    /// Something happened that these do not show.
    is_partial: bool,
}

impl Heard {
    /// Takes an event of the conversation's own: its name, what it says, and how long it is.
    pub(super) fn take(&mut self, name: &str, event: &Event, bytes: usize) {
        match event {
            Event::Message(info) => self.message(info),
            Event::Part(part) => self.part(part),
            // What a part comes to is told once more when it is whole.
            Event::Delta { .. } => return,
            Event::Status(_) | Event::Idle | Event::Ask(_) | Event::Question(_) | Event::Plan(_) => return,
            Event::Ignored if !name.starts_with("message.") => return,
            Event::Ignored | Event::Error(_) | Event::Compacted | Event::Unknown => self.is_partial = true,
        }
        self.bytes += bytes;
        if self.is_partial || self.bytes > MAX_BYTES {
            self.is_partial = true;
            self.messages = Vec::new();
        }
    }

    /// Our message and all that follow it, if they end with an answer after which the agent does not go on.
    pub(super) fn answered(&self, ours: &str) -> Option<Vec<MessageWithParts>> {
        let messages = tree::since(self.messages.clone(), ours);
        (!self.is_partial && is_final_answer(&messages)).then_some(messages)
    }

    fn message(&mut self, info: &Message) {
        match self.messages.iter_mut().find(|known| known.info.id == info.id) {
            Some(known) => known.info.clone_from(info),
            None => self.messages.push(MessageWithParts { info: info.clone(), parts: Vec::new() }),
        }
    }

    fn part(&mut self, part: &Part) {
        let Some(message) = self.messages.iter_mut().rev().find(|known| known.info.id == part.message) else {
            self.is_partial = true;
            return;
        };
        match message.parts.iter_mut().find(|known| known.id == part.id) {
            Some(known) => known.clone_from(part),
            None => message.parts.push(part.clone()),
        }
    }
}

/// Whether the last message is a whole answer of the agent, without an error. It goes on by itself behind calls of tools, behind a summary, and
/// where the provider gave no reason for the end.
fn is_final_answer(messages: &[MessageWithParts]) -> bool {
    messages.last().is_some_and(|last| {
        let (info, calls) = (&last.info, last.parts.iter().any(|part| part.kind == "tool"));
        let goes_on = info.finish.as_deref().is_none_or(|finish| matches!(finish, "tool-calls" | "unknown"));
        info.is_assistant() && info.is_complete() && info.error.is_none() && !goes_on && !calls && !info.summary
    })
}

#[cfg(test)]
mod tests {
    use super::{Heard, MAX_BYTES};
    use crate::agent::opencode::wire::{Event, Message, MessageTime, Part, Status, WireError};

    fn prompt() -> Message {
        Message {
            id: "ours".to_owned(),
            role: "user".to_owned(),
            time: MessageTime { created: 1.0, completed: None },
            ..Message::default()
        }
    }

    fn answer() -> Message {
        Message {
            id: "answer".to_owned(),
            role: "assistant".to_owned(),
            parent: Some("ours".to_owned()),
            finish: Some("stop".to_owned()),
            time: MessageTime { created: 2.0, completed: Some(3.0) },
            ..Message::default()
        }
    }

    fn part(kind: &str, text: &str) -> Part {
        Part {
            id: kind.to_owned(),
            message: "answer".to_owned(),
            kind: kind.to_owned(),
            text: text.to_owned(),
            ..Part::default()
        }
    }

    fn heard(events: impl IntoIterator<Item = Event>) -> Heard {
        let mut heard = Heard::default();
        for event in events {
            heard.take("message.updated", &event, 10);
        }
        heard
    }

    #[test]
    fn what_a_part_and_a_message_came_to_is_what_counts() {
        let begun = Message { finish: None, time: MessageTime { created: 2.0, completed: None }, ..answer() };
        let mut heard = heard([Event::Message(prompt()), Event::Message(begun), Event::Part(part("text", ""))]);
        assert!(heard.answered("ours").is_none(), "it is not complete");
        heard.take("message.part.updated", &Event::Part(part("text", "Done.")), 10);
        heard.take("session.updated", &Event::Ignored, 10);
        heard.take("message.updated", &Event::Message(answer()), 10);
        heard.take("session.status", &Event::Status(Status::Idle), 10);
        let messages = heard.answered("ours").expect("an answer");
        let texts = messages.iter().map(|message| message.parts.iter().map(|part| part.text.as_str()).collect());
        assert_eq!(texts.collect::<Vec<Vec<_>>>(), [vec![], vec!["Done."]]);
        assert!(heard.answered("another").is_none(), "that prompt was not heard of");
    }

    #[test]
    fn only_a_whole_answer_without_calls_is_known_to_be_the_last() {
        type Change = fn(&mut Message);
        let changes: [(&str, Change); 6] = [
            ("a prompt", |message| message.role = "user".to_owned()),
            ("not complete", |message| message.time.completed = None),
            ("no finish", |message| message.finish = None),
            ("goes on", |message| message.finish = Some("tool-calls".to_owned())),
            ("failed", |message| message.error = Some(WireError::default())),
            ("a summary", |message| message.summary = true),
        ];
        for (what, change) in changes {
            let mut last = answer();
            change(&mut last);
            assert!(heard([Event::Message(prompt()), Event::Message(last)]).answered("ours").is_none(), "{what}");
        }
        let called = heard([Event::Message(prompt()), Event::Message(answer()), Event::Part(part("tool", ""))]);
        assert!(called.answered("ours").is_none(), "a call");
    }

    #[test]
    fn what_the_messages_do_not_show_has_to_be_read() {
        let whole = || heard([Event::Message(prompt()), Event::Message(answer()), Event::Part(part("text", "Done."))]);
        assert!(whole().answered("ours").is_some());
        let cases = [
            ("message.removed", Event::Ignored, 10),
            ("session.error", Event::Error(WireError::default()), 10),
            ("session.compacted", Event::Compacted, 10),
            ("session.dreamt", Event::Unknown, 10),
            ("message.updated", Event::Message(answer()), MAX_BYTES),
            ("message.part.updated", Event::Part(Part { message: "unheard".to_owned(), ..part("text", "") }), 10),
        ];
        for (name, event, bytes) in cases {
            let mut heard = whole();
            heard.take(name, &event, bytes);
            // It stays so, whatever comes later.
            for message in [prompt(), answer()] {
                heard.take("message.updated", &Event::Message(message), 10);
            }
            assert!(heard.answered("ours").is_none(), "{name}");
        }
    }
}
