//! Scripts: what the model says, as JSON.
//!
//! A script is a list of steps, or an object `{"steps": [...], "faults": [...], "chunk_delay_ms": 5}`:
//!
//! | step | meaning |
//! | --- | --- |
//! | `{"type":"text","content":"…"}` | the model says something |
//! | `{"type":"reasoning","content":"…"}` | the model thinks aloud (`reasoning_content`) |
//! | `{"type":"tool_call","id":"…","name":"…","arguments":{…}}` | the model calls a tool |
//! | `{"type":"usage","input":9,"output":9,"reasoning":0,"cache_read":0}` | what the message costs; else it is counted |
//! | `{"type":"done"}` | the turn is over; what follows answers the next prompt |
//! | `{"type":"stall"}`, … | a fault at this place of the message, see [`fault`](super::fault) |
//!
//! A text and the calls after it, up to the next text, are one assistant message, and so are calls without a text
//! before them; the tools' results lead to the next message. Reasoning after a text or a call begins a new message;
//! before them it belongs to the one that follows. A message without calls ends the turn, as agents end theirs there
//! (unless it has no finish reason, where they go on), so `done` behind it may be left out; `done` behind a call, or
//! alone, is an empty completion. A prompt behind the script's last turn gets the first again; a request behind a
//! turn's last message gets the last again.
//!
//! In contents and arguments `{{prompt}}` stands for the last prompt's text, `{{turn}}` for the number of the turn in
//! its conversation, from 1.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::fault::{MessageFault, RequestFault};

/// Most steps that a script may have.
const MAX_STEPS: usize = 10_000;

/// A script that was read and found sound.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    pub(super) name: String,
    pub(super) turns: Vec<Vec<Message>>,
    pub(super) faults: Vec<RequestFault>,
    pub(super) chunk_delay_ms: u64,
}

/// One assistant message.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Message {
    pub(super) pieces: Vec<Piece>,
    pub(super) usage: Option<FixedUsage>,
}

/// What a message consists of, in the order of the script.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Reasoning(String),
    Call { id: String, name: String, arguments: Value },
    Fault(MessageFault),
}

/// Tokens that the script sets, as agents count them: input without what was cached, output without reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FixedUsage {
    pub(super) input: u64,
    pub(super) output: u64,
    #[serde(default)]
    pub(super) reasoning: u64,
    #[serde(default)]
    pub(super) cache_read: u64,
}

/// Why a script cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// The file cannot be read.
    #[error("cannot read the script {path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The script as a whole is wrong.
    #[error("script {script}: {problem}")]
    Script {
        /// Name of the script.
        script: String,
        /// What is wrong with it.
        problem: String,
    },
    /// One step is wrong.
    #[error("script {script}, step {step}: {problem}")]
    Step {
        /// Name of the script.
        script: String,
        /// Which step, from 1.
        step: usize,
        /// What is wrong with it.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptFile {
    steps: Vec<Value>,
    #[serde(default)]
    faults: Vec<Value>,
    #[serde(default)]
    chunk_delay_ms: u64,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Step {
    Text { content: String },
    Reasoning { content: String },
    ToolCall { id: String, name: String, arguments: Map<String, Value> },
    // Braces, because serde lets unknown fields pass for a variant without them.
    Done {},
}

impl Script {
    /// Reads a script from JSON. The name is what requests choose it by: the model `scripted/<name>` in opencode.
    pub fn parse(name: &str, json: &str) -> Result<Self, ScriptError> {
        let whole = |problem: String| ScriptError::Script { script: name.to_owned(), problem };
        if name.is_empty() || name.contains(['/', ' ']) {
            return Err(whole("a script's name is not empty and has neither slash nor blank".to_owned()));
        }
        let value: Value = serde_json::from_str(json).map_err(|error| whole(format!("not JSON: {error}")))?;
        let file = match value {
            Value::Array(steps) => ScriptFile { steps, faults: Vec::new(), chunk_delay_ms: 0 },
            value @ Value::Object(_) => serde_json::from_value(value).map_err(|error| whole(error.to_string()))?,
            _ => return Err(whole("a list of steps, or an object with \"steps\", was expected".to_owned())),
        };
        if file.steps.is_empty() {
            return Err(whole("it has no steps".to_owned()));
        }
        if file.steps.len() > MAX_STEPS {
            return Err(whole(format!("{} steps are too many, at most {MAX_STEPS} are read", file.steps.len())));
        }
        let mut faults = Vec::with_capacity(file.faults.len());
        for (index, fault) in file.faults.into_iter().enumerate() {
            faults
                .push(RequestFault::parse(fault).map_err(|problem| whole(format!("fault {}: {problem}", index + 1)))?);
        }
        let mut layout = Layout::default();
        for (index, step) in file.steps.into_iter().enumerate() {
            layout.add(step).map_err(|problem| ScriptError::Step {
                script: name.to_owned(),
                step: index + 1,
                problem,
            })?;
        }
        let turns = layout.finish().map_err(whole)?;
        Ok(Self { name: name.to_owned(), turns, faults, chunk_delay_ms: file.chunk_delay_ms })
    }

    /// Reads a script from a file, named as the file is without `.json`.
    pub fn load(path: &Path) -> Result<Self, ScriptError> {
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let json = std::fs::read_to_string(path)
            .map_err(|source| ScriptError::Unreadable { path: path.display().to_string(), source })?;
        Self::parse(&name, &json)
    }

    /// The name that requests choose it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many turns it answers before it begins again.
    pub fn turns(&self) -> usize {
        self.turns.len()
    }
}

/// Lays steps out into turns of messages.
#[derive(Default)]
struct Layout {
    turns: Vec<Vec<Message>>,
    turn: Vec<Message>,
    message: Message,
}

impl Layout {
    fn add(&mut self, value: Value) -> Result<(), String> {
        let kind = value.get("type").and_then(Value::as_str).ok_or("it has no \"type\"")?.to_owned();
        if kind == "usage" {
            return self.add_usage(value);
        }
        if MessageFault::is_kind(&kind) {
            let fault = MessageFault::parse(value)?;
            if fault.precedes_message() {
                self.begin_message();
            }
            self.message.pieces.push(Piece::Fault(fault));
            return Ok(());
        }
        match serde_json::from_value(value).map_err(|error| error.to_string())? {
            Step::Text { content } => {
                self.begin_message();
                self.message.pieces.push(Piece::Text(content));
            }
            Step::Reasoning { content } => {
                self.begin_message();
                self.message.pieces.push(Piece::Reasoning(content));
            }
            Step::ToolCall { id, name, arguments } => {
                if id.is_empty() || name.is_empty() {
                    return Err("a tool call's id and name are not empty".to_owned());
                }
                if self.message.calls().any(|known| known == id) {
                    return Err(format!("the id \"{id}\" is used twice in one message"));
                }
                self.message.pieces.push(Piece::Call { id, name, arguments: Value::Object(arguments) });
            }
            Step::Done {} => {
                if self.message.calls().next().is_some() {
                    self.end_message(false);
                }
                // The message in hand, or an empty completion.
                self.end_message(true);
            }
        }
        Ok(())
    }

    fn add_usage(&mut self, mut value: Value) -> Result<(), String> {
        if let Some(fields) = value.as_object_mut() {
            fields.remove("type");
        }
        if self.message.usage.is_some() {
            return Err("the message has a usage already".to_owned());
        }
        self.message.usage = Some(serde_json::from_value(value).map_err(|error| error.to_string())?);
        Ok(())
    }

    fn begin_message(&mut self) {
        if self.message.speaks() {
            self.end_message(self.message.ends_turn());
        }
    }

    fn end_message(&mut self, ends_turn: bool) {
        self.turn.push(std::mem::take(&mut self.message));
        if ends_turn {
            self.turns.push(std::mem::take(&mut self.turn));
        }
    }

    fn finish(mut self) -> Result<Vec<Vec<Message>>, String> {
        if !self.message.pieces.is_empty() || self.message.usage.is_some() {
            if self.message.calls().next().is_some() {
                return Err("it ends with a tool call: say what answers the tool's result, or put \"done\"".to_owned());
            }
            self.end_message(true);
        }
        Ok(self.turns)
    }
}

impl Message {
    /// Whether it has something after which a text begins a new message.
    fn speaks(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Text(_) | Piece::Call { .. }))
    }

    /// Whether an agent ends its turn with it: not if there are results to be had, and not without a finish reason.
    fn ends_turn(&self) -> bool {
        let goes_on = |piece: &Piece| match piece {
            Piece::Call { .. } => true,
            Piece::Fault(fault) => fault.withholds_finish(),
            Piece::Text(_) | Piece::Reasoning(_) => false,
        };
        !self.pieces.iter().any(goes_on)
    }

    fn calls(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Call { id, .. } => Some(id.as_str()),
            Piece::Text(_) | Piece::Reasoning(_) | Piece::Fault(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(json: &str) -> Vec<Vec<usize>> {
        let script = Script::parse("s", json).expect("script");
        script.turns.iter().map(|turn| turn.iter().map(|message| message.pieces.len()).collect()).collect()
    }

    fn problem(json: &str) -> String {
        Script::parse("s", json).expect_err("must be refused").to_string()
    }

    const CALL: &str = r#"{"type":"tool_call","id":"a","name":"bash","arguments":{}}"#;

    #[test]
    fn text_and_calls_up_to_the_next_text_are_one_message() {
        let call_b = CALL.replace("\"a\"", "\"b\"");
        let text = r#"{"type":"text","content":"t"}"#;
        let done = r#"{"type":"done"}"#;
        assert_eq!(shape(&format!("[{text},{CALL},{call_b},{text},{done},{CALL},{done}]")), [vec![3, 1], vec![1, 0]]);
        assert_eq!(shape(&format!("[{CALL},{text}]")), [vec![1, 1]]);
        assert_eq!(shape(&format!("[{text},{text}]")), [vec![1], vec![1]]);
        assert_eq!(shape(&format!("[{done}]")), [vec![0]]);
        let broken_off = r#"{"type":"finish","reason":"none"}"#;
        assert_eq!(
            shape(&format!("[{text},{broken_off},{text},{done},{text},{broken_off},{done}]")),
            [vec![2, 1], vec![2]]
        );
        let thought = r#"{"type":"reasoning","content":"r"}"#;
        assert_eq!(shape(&format!("[{thought},{text},{CALL},{thought},{text},{done}]")), [vec![3, 2]]);
    }

    #[test]
    fn errors_name_the_step() {
        assert!(problem(r#"[{"type":"text","content":"a"},{"type":"txt"}]"#).starts_with("script s, step 2: "));
        assert!(problem(r#"[{"content":"a"}]"#).contains("step 1: it has no \"type\""));
        assert!(problem(r#"[{"type":"text","contents":"a"}]"#).contains("contents"));
        assert!(problem(&format!("[{CALL},{CALL}]")).contains("step 2: the id \"a\" is used twice"));
        assert!(problem(&format!("[{CALL}]")).contains("ends with a tool call"));
        assert!(problem("[]").contains("no steps"));
        assert!(problem("{").contains("not JSON"));
        assert!(problem(r#"[{"type":"text","content":"a"},{"type":"http","status":200}]"#).contains("step 2"));
        assert!(problem(r#"{"steps":[{"type":"done"}],"faults":[{"type":"nap"}]}"#).contains("fault 1"));
    }
}
