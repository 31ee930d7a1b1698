//! The wire format of chat completions: what requests say, and how answers are put.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::record::Billed;

/// A request, as far as the model looks at it.
#[derive(Debug, Deserialize)]
pub(super) struct ChatRequest {
    pub(super) model: String,
    pub(super) messages: Vec<Value>,
    #[serde(default)]
    pub(super) stream: bool,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    tools: Option<Vec<Value>>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// Where a conversation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// How many turns were answered before this one.
    pub(super) turn: usize,
    /// How many assistant messages this turn has.
    pub(super) message: usize,
}

impl ChatRequest {
    pub(super) fn tools_offered(&self) -> bool {
        self.tools.as_ref().is_some_and(|tools| !tools.is_empty())
    }

    pub(super) fn include_usage(&self) -> bool {
        self.stream_options.as_ref().is_some_and(|options| options.include_usage)
    }

    /// Where the conversation stands. Prompts that follow one another without an answer between them (the first failed
    /// before the model said anything, say) count as one.
    pub(super) fn position(&self) -> Position {
        let mut position = Position { turn: 0, message: 0 };
        let mut answered = false;
        for message in &self.messages {
            match message.get("role").and_then(Value::as_str) {
                Some("assistant") => {
                    position.message += 1;
                    answered = true;
                }
                Some("user") if answered => {
                    position = Position { turn: position.turn + 1, message: 0 };
                    answered = false;
                }
                _ => {}
            }
        }
        position
    }

    /// The text of the last prompt. Agents put it first, and reminders of their own into further parts.
    pub(super) fn prompt(&self) -> &str {
        let Some(message) = self.messages.iter().rev().find(|message| message["role"] == "user") else { return "" };
        match &message["content"] {
            Value::String(text) => text,
            Value::Array(parts) => parts.iter().find_map(|part| part["text"].as_str()).unwrap_or(""),
            _ => "",
        }
    }

    /// The prompt's tokens, by rule of thumb: a token for every four characters of all messages, rounded up.
    pub(super) fn prompt_tokens(&self) -> u64 {
        self.messages.iter().map(count_chars).sum::<u64>().div_ceil(4)
    }
}

/// Characters in all strings of a value.
fn count_chars(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.chars().count() as u64,
        Value::Array(items) => items.iter().map(count_chars).sum(),
        Value::Object(fields) => fields.values().map(count_chars).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// What all chunks of one answer have in common.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    pub(super) id: String,
    pub(super) model: String,
    pub(super) created: i64,
}

impl Envelope {
    /// A chunk with something that was added.
    pub(super) fn delta(&self, delta: Value) -> Bytes {
        self.chunk(json!([{"index": 0, "delta": delta, "finish_reason": null}]), None)
    }

    /// The chunk that says why the model stopped.
    pub(super) fn finish(&self, reason: &str) -> Bytes {
        self.chunk(json!([{"index": 0, "delta": {}, "finish_reason": reason}]), None)
    }

    /// The chunk with the usage.
    pub(super) fn usage(&self, billed: Billed) -> Bytes {
        self.chunk(json!([]), Some(usage_value(billed)))
    }

    /// Half a chunk.
    pub(super) fn broken(&self) -> Bytes {
        Bytes::from(format!("data: {{\"id\":\"{}\",\"choices\":[{{\"index\":0,\"del\n\n", self.id))
    }

    fn chunk(&self, choices: Value, usage: Option<Value>) -> Bytes {
        let mut value = json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
            "choices": choices,
        });
        if let Some(usage) = usage {
            value["usage"] = usage;
        }
        Bytes::from(format!("data: {value}\n\n"))
    }

    /// A whole answer, for a request that does not stream.
    pub(super) fn whole(&self, message: Value, finish: Option<&str>, billed: Billed) -> Value {
        json!({
            "id": self.id, "object": "chat.completion", "created": self.created, "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage_value(billed),
        })
    }
}

/// The end of every stream that ends well.
pub(super) const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

fn usage_value(billed: Billed) -> Value {
    let prompt = billed.input + billed.cache_read;
    let completion = billed.output + billed.reasoning;
    json!({
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": billed.cache_read},
        "completion_tokens_details": {"reasoning_tokens": billed.reasoning},
    })
}

/// An error's body.
pub(super) fn error_body(status: u16, message: &str) -> Value {
    let kind = match status {
        429 => "rate_limit_error",
        401 | 403 => "authentication_error",
        400..500 => "invalid_request_error",
        _ => "server_error",
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": status.to_string()}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(roles: &[&str]) -> ChatRequest {
        let messages: Vec<_> = roles.iter().map(|role| json!({"role": role, "content": "abc"})).collect();
        serde_json::from_value(json!({"model": "m", "messages": messages})).expect("request")
    }

    #[test]
    fn position_follows_from_the_messages() {
        let at = |roles: &[&str]| {
            let position = request(roles).position();
            (position.turn, position.message)
        };
        assert_eq!(at(&["system", "user"]), (0, 0));
        assert_eq!(at(&["system", "user", "assistant", "tool", "tool"]), (0, 1));
        assert_eq!(at(&["system", "user", "assistant", "tool", "assistant", "user"]), (1, 0));
        assert_eq!(at(&["user", "user"]), (0, 0), "an unanswered prompt uses nothing up");
        assert_eq!(at(&["user", "assistant", "user", "user", "assistant"]), (1, 1));
    }

    #[test]
    fn prompt_is_the_first_text_of_the_last_user_message() {
        let request: ChatRequest = serde_json::from_value(json!({"model": "m", "messages": [
            {"role": "user", "content": "one"}, {"role": "assistant", "content": "x"},
            {"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "text", "text": "reminder"}]},
        ]}))
        .expect("request");
        assert_eq!(request.prompt(), "two");
    }

    #[test]
    fn prompt_tokens_are_counted_in_characters_not_bytes() {
        let request: ChatRequest =
            serde_json::from_value(json!({"model": "m", "messages": [{"content": "äöüß"}]})).expect("request");
        assert_eq!(request.prompt_tokens(), 1);
    }
}
