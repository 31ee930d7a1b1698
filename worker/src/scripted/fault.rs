//! Faults: what goes wrong with an answer, when a script or a test wants it to.
//!
//! | fault | meaning |
//! | --- | --- |
//! | `{"type":"http","status":429,"retry_after":"1"}` | this status and an error body instead of an answer; also `retry_after_ms`, `message` |
//! | `{"type":"html"}` | status 200 and a page of HTML, as from a proxy's login |
//! | `{"type":"wait","ms":500}` | nothing, not even headers, for so long; without `ms` for ever |
//! | `{"type":"stall","ms":500}` | the stream pauses for so long; without `ms` for ever |
//! | `{"type":"cut"}` | the connection breaks |
//! | `{"type":"broken_chunk"}` | half a JSON object, then the end |
//! | `{"type":"finish","reason":"length"}` | this finish reason; `"none"`: the stream ends without one |
//! | `{"type":"delay","ms":5}` | a pause before every chunk that follows |
//! | `{"type":"endless","content":"…"}` | this text over and over, until the client goes |
//!
//! As a **step** a fault belongs to a message: `http`, `html` and `wait` to the one that follows, the rest to the one
//! that it stands in, at that place. `"times": 2` makes it strike the first two requests for that message in each
//! conversation; without it, every one. (What the agent heard of an answer before it broke off can become part of the
//! conversation, and the next request is then for the next message.) In a script's **`faults`** list (or by
//! [`ScriptedModel::set_faults`](super::ScriptedModel::set_faults)) a fault counts the script's requests, of all
//! conversations together: `"after": 3, "times": 2` strikes the fourth and fifth; what belongs into a stream strikes in
//! its middle. Requests for titles are neither counted nor struck.

use serde::Deserialize;
use serde_json::Value;

/// The finish reason that stands for none.
pub(super) const NO_REASON: &str = "none";

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// A status instead of an answer.
    Http {
        /// The status, 400 to 599.
        status: u16,
        /// The header `Retry-After`: seconds, or a date.
        #[serde(default)]
        retry_after: Option<String>,
        /// The header `retry-after-ms`, which some clients prefer.
        #[serde(default)]
        retry_after_ms: Option<u64>,
        /// The error's message.
        #[serde(default)]
        message: Option<String>,
    },
    /// Status 200 and HTML.
    Html {},
    /// Nothing at all, not even headers.
    Wait {
        /// For so long; none: for ever.
        #[serde(default)]
        ms: Option<u64>,
    },
    /// The stream pauses.
    Stall {
        /// For so long; none: for ever.
        #[serde(default)]
        ms: Option<u64>,
    },
    /// The connection breaks.
    Cut {},
    /// Half a JSON object, then the end.
    BrokenChunk {},
    /// Another finish reason.
    Finish {
        /// The reason; `none` for no reason.
        reason: String,
    },
    /// A pause before every chunk.
    Delay {
        /// How long.
        ms: u64,
    },
    /// A text that never ends.
    Endless {
        /// The text that is repeated.
        content: String,
    },
}

impl Fault {
    fn check(self) -> Result<Self, String> {
        match &self {
            Self::Http { status, .. } if !(400..600).contains(status) => {
                Err(format!("status {status} is no error: 400 to 599 are"))
            }
            Self::Http { retry_after: Some(value), .. } if !value.chars().all(|c| c == ' ' || c.is_ascii_graphic()) => {
                Err("\"retry_after\" cannot be sent as a header".to_owned())
            }
            Self::Finish { reason } if reason.is_empty() => Err("\"reason\" is empty".to_owned()),
            Self::Endless { content } if content.is_empty() => Err("\"content\" is empty".to_owned()),
            _ => Ok(self),
        }
    }

    pub(super) fn precedes_message(&self) -> bool {
        matches!(self, Self::Http { .. } | Self::Html {} | Self::Wait { .. })
    }
}

/// A fault of one message of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MessageFault {
    pub(super) fault: Fault,
    pub(super) times: Option<u64>,
}

impl MessageFault {
    pub(super) fn is_kind(kind: &str) -> bool {
        matches!(kind, "http" | "html" | "wait" | "stall" | "cut" | "broken_chunk" | "finish" | "delay" | "endless")
    }

    pub(super) fn parse(mut value: Value) -> Result<Self, String> {
        let times = take_count(&mut value, "times")?;
        Ok(Self { fault: parse_fault(value)?, times })
    }

    pub(super) fn precedes_message(&self) -> bool {
        self.fault.precedes_message()
    }

    pub(super) fn withholds_finish(&self) -> bool {
        matches!(&self.fault, Fault::Finish { reason } if reason == NO_REASON)
    }
}

/// A fault that counts the requests of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFault {
    /// So many requests are served first.
    pub after: u64,
    /// So many requests it strikes; none: all that follow.
    pub times: Option<u64>,
    /// What goes wrong.
    pub fault: Fault,
}

impl RequestFault {
    /// Reads a fault from JSON; the error says what is wrong.
    pub fn parse(mut value: Value) -> Result<Self, String> {
        let after = take_count(&mut value, "after")?.unwrap_or(0);
        let times = take_count(&mut value, "times")?;
        Ok(Self { after, times, fault: parse_fault(value)? })
    }

    /// Whether it strikes a script's request with this number, from 0.
    pub(super) fn strikes(&self, request: u64) -> bool {
        request >= self.after && self.times.is_none_or(|times| request - self.after < times)
    }
}

fn parse_fault(mut value: Value) -> Result<Fault, String> {
    // Retry-After may be written as the number that it mostly is.
    if let Some(seconds) = value.get_mut("retry_after").filter(|value| value.is_u64()) {
        *seconds = Value::String(seconds.to_string());
    }
    serde_json::from_value::<Fault>(value).map_err(|error| error.to_string())?.check()
}

fn take_count(value: &mut Value, key: &str) -> Result<Option<u64>, String> {
    match value.as_object_mut().and_then(|fields| fields.remove(key)) {
        None => Ok(None),
        Some(count) => count.as_u64().map(Some).ok_or_else(|| format!("\"{key}\" is a number, 0 or more")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fault_strikes_after_and_for_as_many_requests_as_it_says() {
        let fault = RequestFault::parse(json!({"type": "http", "status": 500, "after": 2, "times": 2})).expect("fault");
        assert_eq!((0..6).map(|n| fault.strikes(n)).collect::<Vec<_>>(), [false, false, true, true, false, false]);
        let lasting = RequestFault::parse(json!({"type": "html", "after": 1})).expect("fault");
        assert!(!lasting.strikes(0) && lasting.strikes(1) && lasting.strikes(1_000_000));
    }

    #[test]
    fn unsound_faults_are_refused() {
        for (value, word) in [
            (json!({"type": "http", "status": 200}), "no error"),
            (json!({"type": "http"}), "status"),
            (json!({"type": "cut", "ms": 1}), "ms"),
            (json!({"type": "finish", "reason": ""}), "empty"),
            (json!({"type": "stall", "times": -1}), "times"),
            (json!({"type": "http", "status": 429, "retry_after": "1\n"}), "header"),
        ] {
            let problem = RequestFault::parse(value.clone()).expect_err("must be refused");
            assert!(problem.contains(word), "{value}: {problem}");
        }
    }
}
