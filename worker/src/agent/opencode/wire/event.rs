//! Events of `/global/event`.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use super::{Ask, Message, Part, Question, Session, Status, WireError, lenient};

/// An event of `/global/event`, before its properties are read.
#[derive(Debug)]
pub(in crate::agent::opencode) struct RawEvent {
    /// opencode's name for it.
    pub(in crate::agent::opencode) name: String,
    /// The session that it is about.
    pub(in crate::agent::opencode) session: Option<String>,
    /// Its properties, as JSON.
    pub(in crate::agent::opencode) properties: Box<RawValue>,
}

/// An event that says something of a session.
#[derive(Clone, Debug)]
pub(in crate::agent::opencode) enum Event {
    /// A message is new or has changed.
    Message(Message),
    /// A part is new or has changed.
    Part(Part),
    /// A part grew.
    Delta { message: String, part: String, field: String, delta: String },
    /// The session does something else now.
    Status(Status),
    /// The session has come to rest.
    Idle,
    /// Something failed; this alone does not end a turn.
    Error(WireError),
    /// A permission ask.
    Ask(Ask),
    /// A question.
    Question(Question),
    /// The agent's list of what it will do.
    Plan(Value),
    /// The conversation was summarised to make room.
    Compacted,
    /// Known, and of no use to a turn.
    Ignored,
    /// Not known to this version of ours, or of another shape than we know.
    Unknown,
}

/// The head of an event: `{directory, payload: {type, properties}}`.
#[derive(Deserialize)]
struct Envelope {
    payload: Payload,
}

#[derive(Deserialize)]
struct Payload {
    #[serde(default, rename = "type")]
    name: String,
    #[serde(default)]
    properties: Option<Box<RawValue>>,
}

#[derive(Default, Deserialize)]
struct SessionOf {
    #[serde(default, rename = "sessionID", deserialize_with = "lenient")]
    session: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    part: Option<Owner>,
    #[serde(default, deserialize_with = "lenient")]
    info: Option<Owner>,
}

#[derive(Default, Deserialize)]
struct Owner {
    #[serde(default, rename = "sessionID")]
    session: Option<String>,
}

/// Reads the head of an event; `None` for what is no event at all.
pub(in crate::agent::opencode) fn read_event(json: &str) -> Option<RawEvent> {
    let Payload { name, properties } = serde_json::from_str::<Envelope>(json).ok()?.payload;
    let properties = match properties {
        Some(properties) => properties,
        None => RawValue::from_string("{}".to_owned()).ok()?,
    };
    let of: SessionOf = serde_json::from_str(properties.get()).unwrap_or_default();
    let session = of.session.or(of.part.and_then(|p| p.session)).or(of.info.and_then(|i| i.session));
    Some(RawEvent { name, session, properties })
}

impl RawEvent {
    /// Reads the properties.
    pub(in crate::agent::opencode) fn read(&self) -> Event {
        #[derive(Deserialize)]
        struct Info {
            info: Message,
        }
        #[derive(Deserialize)]
        struct PartOf {
            part: Part,
        }
        #[derive(Deserialize)]
        struct Delta {
            #[serde(rename = "messageID")]
            message: String,
            #[serde(rename = "partID")]
            part: String,
            field: String,
            delta: String,
        }
        #[derive(Deserialize)]
        struct StatusOf {
            status: Status,
        }
        #[derive(Deserialize)]
        struct ErrorOf {
            #[serde(default, deserialize_with = "lenient")]
            error: WireError,
        }
        #[derive(Deserialize)]
        struct Todos {
            todos: Value,
        }
        fn parse<T: DeserializeOwned>(json: &RawValue, event: impl FnOnce(T) -> Event) -> Event {
            serde_json::from_str(json.get()).map_or(Event::Unknown, event)
        }
        let json = &*self.properties;
        match self.name.as_str() {
            "message.updated" => parse(json, |of: Info| Event::Message(of.info)),
            "message.part.updated" => parse(json, |of: PartOf| Event::Part(of.part)),
            "message.part.delta" => parse(json, |of: Delta| {
                let Delta { message, part, field, delta } = of;
                Event::Delta { message, part, field, delta }
            }),
            "session.status" => parse(json, |of: StatusOf| Event::Status(of.status)),
            "session.idle" => Event::Idle,
            "session.error" => parse(json, |of: ErrorOf| Event::Error(of.error)),
            "permission.asked" => parse(json, Event::Ask),
            "question.asked" => parse(json, Event::Question),
            "todo.updated" => parse(json, |of: Todos| Event::Plan(of.todos)),
            "session.compacted" => Event::Compacted,
            name if is_ignored(name) => Event::Ignored,
            _ => Event::Unknown,
        }
    }

    /// The session that a `session.created` opens, with its parent.
    pub(in crate::agent::opencode) fn created_session(&self) -> Option<Session> {
        #[derive(Deserialize)]
        struct Info {
            info: Session,
        }
        if self.name != "session.created" && self.name != "session.updated" {
            return None;
        }
        serde_json::from_str::<Info>(self.properties.get()).ok().map(|of| of.info)
    }

    /// Whether this version of ours knows the name.
    pub(in crate::agent::opencode) fn is_known(&self) -> bool {
        is_ignored(&self.name)
            || matches!(
                self.name.as_str(),
                "message.updated"
                    | "message.part.updated"
                    | "message.part.delta"
                    | "session.status"
                    | "session.idle"
                    | "session.error"
                    | "permission.asked"
                    | "question.asked"
                    | "todo.updated"
                    | "session.compacted"
            )
    }
}

/// Names, or beginnings of names, of events that say nothing that a turn needs.
const IGNORED: &[&str] = &[
    "sync",
    "server.",
    "global.disposed",
    "session.next.",
    "session.created",
    "session.updated",
    "session.deleted",
    "session.diff",
    "message.removed",
    "message.part.removed",
    "permission.replied",
    "permission.v2.",
    "question.replied",
    "question.rejected",
    "question.v2.",
    "file.",
    "lsp.",
    "vcs.",
    "mcp.",
    "pty.",
    "tui.",
    "plugin.",
    "project.",
    "catalog.",
    "models-dev.",
    "integration.",
    "reference.",
    "installation.",
    "workspace.",
    "worktree.",
    "command.executed",
];

fn is_ignored(name: &str) -> bool {
    IGNORED.iter().any(|known| name == *known || (known.ends_with('.') && name.starts_with(known)))
}
