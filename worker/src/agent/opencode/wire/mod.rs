//! The wire format of opencode, as far as we use it. Nothing outside `agent/opencode` may know it.
//!
//! Tolerant on purpose: a field that is missing or has another shape than expected falls back to its default, because
//! a new version of opencode must cost a warning at most, never a turn. `tests/opencode/contract.rs` holds the names used here
//! against the live `/doc`.

use std::collections::BTreeMap;

use rust_decimal::{Decimal, prelude::FromPrimitive};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

mod event;

pub(super) use event::{Event, RawEvent, read_event};

/// Takes a value of another shape for the default instead of failing the whole message.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(deserializer: D) -> Result<T, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// A message with its parts, as `GET /session/{id}/message` lists it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::agent::opencode) struct MessageWithParts {
    pub(in crate::agent::opencode) info: Message,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) parts: Vec<Part>,
}

/// A message of a user or of the assistant.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(in crate::agent::opencode) struct Message {
    pub(in crate::agent::opencode) id: String,
    #[serde(default, rename = "sessionID", deserialize_with = "lenient")]
    pub(in crate::agent::opencode) session: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) role: String,
    #[serde(default, rename = "parentID", deserialize_with = "lenient")]
    pub(in crate::agent::opencode) parent: Option<String>,
    #[serde(default, rename = "modelID", deserialize_with = "lenient")]
    pub(in crate::agent::opencode) model: Option<String>,
    #[serde(default, rename = "providerID", deserialize_with = "lenient")]
    pub(in crate::agent::opencode) provider: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) time: MessageTime,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) finish: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) error: Option<WireError>,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) cost: f64,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) tokens: Tokens,
    /// `true` on the assistant's summary that a compaction writes; an object on users' messages.
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) summary: bool,
}

impl Message {
    pub(in crate::agent::opencode) fn is_assistant(&self) -> bool {
        self.role == "assistant"
    }

    pub(in crate::agent::opencode) fn is_complete(&self) -> bool {
        self.time.completed.is_some()
    }

    /// `provider/model`, as far as it is known.
    pub(in crate::agent::opencode) fn model_name(&self) -> String {
        match (&self.provider, &self.model) {
            (Some(provider), Some(model)) => format!("{provider}/{model}"),
            (None, Some(name)) | (Some(name), None) => name.clone(),
            (None, None) => String::new(),
        }
    }
}

/// When a message was made and finished, milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub(in crate::agent::opencode) struct MessageTime {
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) created: f64,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) completed: Option<f64>,
}

/// Tokens of a step. Input excludes what was cached, output excludes reasoning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub(in crate::agent::opencode) struct Tokens {
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) input: f64,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) output: f64,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) reasoning: f64,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) cache: CacheTokens,
}

/// Tokens that went through the provider's cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub(in crate::agent::opencode) struct CacheTokens {
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) read: f64,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) write: f64,
}

/// A count of tokens that came as a JSON number.
#[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and no step has 2^53 tokens")]
pub(in crate::agent::opencode) fn count(number: f64) -> i64 {
    number.max(0.0).round() as i64
}

/// An amount of USD that came as a JSON number, to the nano-dollar.
pub(in crate::agent::opencode) fn usd(number: f64) -> Decimal {
    Decimal::from_f64(number).unwrap_or_default().max(Decimal::ZERO).round_dp(9)
}

/// What went wrong, in opencode's form: `{name, data: {message, statusCode, responseHeaders}}`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(in crate::agent::opencode) struct WireError {
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) name: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) data: WireErrorData,
}

/// The particulars of a [`WireError`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(in crate::agent::opencode) struct WireErrorData {
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) message: String,
    #[serde(default, rename = "statusCode", deserialize_with = "lenient")]
    pub(in crate::agent::opencode) status: Option<u16>,
    #[serde(default, rename = "responseHeaders", deserialize_with = "lenient")]
    pub(in crate::agent::opencode) headers: BTreeMap<String, String>,
}

impl WireError {
    /// One line for people.
    pub(in crate::agent::opencode) fn line(&self) -> String {
        match (self.name.as_str(), self.data.message.as_str()) {
            ("", "") => "an error without a name".to_owned(),
            (name, "") => name.to_owned(),
            ("", message) => message.to_owned(),
            (name, message) => format!("{name}: {message}"),
        }
    }

    /// The wait that the provider asks for, in seconds.
    pub(in crate::agent::opencode) fn retry_after(&self) -> Option<u64> {
        let header = |wanted: &str| {
            let mut headers = self.data.headers.iter();
            headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
        };
        header("retry-after-ms")
            .and_then(|value| value.parse::<u64>().ok())
            .map(|ms| ms.div_ceil(1000))
            .or_else(|| header("retry-after")?.parse().ok())
    }
}

/// A part of a message. Flat: what a kind of part does not have stays empty.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::agent::opencode) struct Part {
    pub(in crate::agent::opencode) id: String,
    #[serde(default, rename = "messageID", deserialize_with = "lenient")]
    pub(in crate::agent::opencode) message: String,
    #[serde(default, rename = "type", deserialize_with = "lenient")]
    pub(in crate::agent::opencode) kind: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) text: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) time: PartTime,
    #[serde(default, rename = "callID", deserialize_with = "lenient")]
    pub(in crate::agent::opencode) call: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) tool: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) state: ToolState,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) reason: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) cost: f64,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) tokens: Tokens,
}

/// When a part began and ended.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(in crate::agent::opencode) struct PartTime {
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) end: Option<f64>,
}

/// How far a tool call is.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::agent::opencode) struct ToolState {
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) status: String,
    #[serde(default)]
    pub(in crate::agent::opencode) input: Value,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) output: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) error: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) title: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) metadata: ToolMetadata,
}

/// What we read of a tool's metadata.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::agent::opencode) struct ToolMetadata {
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) exit: Option<i64>,
}

/// What a session is doing. Idle ones are not listed.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(in crate::agent::opencode) enum Status {
    /// Nothing.
    Idle,
    /// It waits to ask the provider again.
    Retry {
        #[serde(default, deserialize_with = "lenient")]
        attempt: i64,
        #[serde(default, deserialize_with = "lenient")]
        message: String,
        /// When, milliseconds since 1970.
        #[serde(default, deserialize_with = "lenient")]
        next: Option<f64>,
    },
    /// A turn runs; also what we take an unknown status for.
    #[serde(other)]
    Busy,
}

/// An open permission ask.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::agent::opencode) struct Ask {
    pub(in crate::agent::opencode) id: String,
    #[serde(rename = "sessionID")]
    pub(in crate::agent::opencode) session: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) permission: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) patterns: Vec<String>,
}

/// An open question.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::agent::opencode) struct Question {
    pub(in crate::agent::opencode) id: String,
    #[serde(rename = "sessionID")]
    pub(in crate::agent::opencode) session: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) questions: Vec<QuestionInfo>,
}

/// One of the questions that are asked together.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::agent::opencode) struct QuestionInfo {
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) question: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) options: Vec<QuestionChoice>,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) multiple: bool,
}

/// An answer that the agent proposes.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::agent::opencode) struct QuestionChoice {
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) label: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) description: String,
}

/// A conversation.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::agent::opencode) struct Session {
    pub(in crate::agent::opencode) id: String,
    #[serde(default, rename = "parentID", deserialize_with = "lenient")]
    pub(in crate::agent::opencode) parent: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) directory: String,
}

/// A mode of opencode, which it calls an agent.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::agent::opencode) struct Mode {
    pub(in crate::agent::opencode) name: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) mode: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) hidden: bool,
    /// Steps after which the model is told to stop.
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) steps: Option<u32>,
}

/// The answer of `GET /config/providers`: providers that can be used.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::agent::opencode) struct Providers {
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) providers: Vec<Provider>,
}

/// A provider and its models.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::agent::opencode) struct Provider {
    pub(in crate::agent::opencode) id: String,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) models: BTreeMap<String, Model>,
}

/// A model of a provider.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::agent::opencode) struct Model {
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) variants: BTreeMap<String, Value>,
}

/// What we read of `GET /config`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::agent::opencode) struct Config {
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) model: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) default_agent: Option<String>,
}

/// The answer of `GET /global/health`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::agent::opencode) struct Health {
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) healthy: bool,
    #[serde(default, deserialize_with = "lenient")]
    pub(in crate::agent::opencode) version: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_fields_fall_back_and_unknown_events_keep_their_session() {
        let message: Message =
            serde_json::from_str(r#"{"id":"m","role":"assistant","tokens":"many","cost":null,"finish":7,"new":[1]}"#)
                .expect("a message");
        assert_eq!((message.tokens, message.cost, message.finish), (Tokens::default(), 0.0, None));
        let event = read_event(r#"{"payload":{"type":"session.dreamt","properties":{"sessionID":"ses_1"}}}"#);
        let event = event.expect("an event");
        assert_eq!((event.session.as_deref(), event.is_known()), (Some("ses_1"), false));
        assert!(matches!(event.read(), Event::Unknown));
        assert!(read_event("{").is_none());
        let odd = read_event(r#"{"payload":{"type":"message.updated","properties":{"info":7}}}"#).expect("an event");
        assert!(matches!(odd.read(), Event::Unknown));
    }

    #[test]
    fn retry_after_is_read_from_either_header() {
        let error = |headers: &[(&str, &str)]| WireError {
            data: WireErrorData {
                headers: headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
                ..Default::default()
            },
            ..Default::default()
        };
        assert_eq!(error(&[("Retry-After", "3600")]).retry_after(), Some(3600));
        assert_eq!(error(&[("retry-after-ms", "1500")]).retry_after(), Some(2));
        assert_eq!(error(&[("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")]).retry_after(), None);
        assert_eq!(error(&[]).retry_after(), None);
    }

    #[test]
    fn money_is_exact_to_the_nano_dollar() {
        assert_eq!(usd(0.1 + 0.2), Decimal::new(3, 1));
        assert_eq!(usd(f64::NAN), Decimal::ZERO);
        assert_eq!(usd(-1.0), Decimal::ZERO);
        assert_eq!(count(-3.0), 0);
    }
}
