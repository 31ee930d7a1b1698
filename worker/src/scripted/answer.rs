//! One answer: a message of a script, laid out into what goes over the wire, one thing after another.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    fault::{Fault, NO_REASON},
    placeholder::Placeholders,
    record::{Billed, Log, Moment},
    script::{FixedUsage, Message, Piece},
    wire::{DONE, Envelope},
};

/// Chunks that a text is cut into at most, however long it is.
const MAX_CHUNKS: usize = 200;
/// Characters of a chunk, if that makes no more chunks than the above.
const CHUNK_CHARS: usize = 16;
/// Pause between the chunks of an endless text, so that it is a stream and not a flood.
const ENDLESS_PAUSE: Duration = Duration::from_millis(2);
/// Time for what was sent to leave before the connection is broken.
const CUT_PAUSE: Duration = Duration::from_millis(20);

/// What goes over the wire next.
#[derive(Clone, Debug)]
enum Emit {
    Delta { delta: Value, output_chars: u64, reasoning_chars: u64 },
    Pause(Option<Duration>),
    Endless(String),
    Broken,
    Cut,
    Finish(String),
    Usage,
    Done,
}

/// An answer that is ready to be sent.
pub(super) struct Answer {
    emits: VecDeque<Emit>,
    /// The message whole, for a request that does not stream.
    message: Value,
    finish: Option<String>,
    usage: Billed,
}

/// What an answer is made of, beside the message.
pub(super) struct Terms<'a> {
    pub(super) placeholders: Placeholders<'a>,
    pub(super) prompt_tokens: u64,
    pub(super) include_usage: bool,
    pub(super) chunk_delay_ms: u64,
    /// Faults that strike in the middle of the answer.
    pub(super) in_the_middle: Vec<Fault>,
}

impl Answer {
    /// Lays a message out. `strikes` says which of the message's own faults strike this time.
    pub(super) fn compile(message: &Message, terms: &Terms<'_>, strikes: impl Fn(Option<u64>) -> bool) -> Self {
        let mut layout = Layout::new(terms.chunk_delay_ms);
        for piece in &message.pieces {
            match piece {
                Piece::Text(text) => layout.text(&terms.placeholders.fill(text)),
                Piece::Reasoning(text) => layout.reasoning(&terms.placeholders.fill(text)),
                Piece::Call { id, name, arguments } => {
                    layout.call(id, name, &terms.placeholders.fill_value(arguments).to_string());
                }
                Piece::Fault(fault) if strikes(fault.times) => {
                    let end = layout.emits.len();
                    layout.fault(&fault.fault, end);
                }
                Piece::Fault(_) => {}
            }
        }
        for fault in &terms.in_the_middle {
            let middle = layout.emits.len().div_ceil(2);
            layout.fault(fault, middle);
        }
        layout.finish(message.usage, terms)
    }

    /// The answer to a request for a title.
    pub(super) fn title(terms: &Terms<'_>) -> Self {
        let mut layout = Layout::new(0);
        layout.text("Scripted session");
        layout.finish(None, terms)
    }

    /// Begins to send it.
    pub(super) fn play(self, envelope: Envelope, ledger: Ledger, stop: CancellationToken) -> Playback {
        Playback { emits: self.emits, usage: self.usage, envelope, ledger, stop, over: false }
    }

    /// Sends it as a whole. The waits of its faults are kept; none if the connection is to be broken.
    pub(super) async fn whole(
        self,
        envelope: &Envelope,
        ledger: &mut Ledger,
        stop: &CancellationToken,
    ) -> Option<Bytes> {
        let mut broken = false;
        for emit in &self.emits {
            match emit {
                Emit::Pause(pause) => pause_for(*pause, stop).await?,
                Emit::Cut | Emit::Endless(_) => return None,
                Emit::Broken => broken = true,
                Emit::Delta { output_chars, reasoning_chars, .. } => ledger.spoke(*output_chars, *reasoning_chars),
                Emit::Finish(_) | Emit::Usage | Emit::Done => {}
            }
        }
        let text = envelope.whole(self.message, self.finish.as_deref(), self.usage).to_string();
        if broken {
            let half = text.chars().take(text.chars().count() / 2).collect::<String>();
            return Some(Bytes::from(half));
        }
        ledger.completed(self.usage);
        Some(Bytes::from(text))
    }
}

struct Layout {
    emits: Vec<Emit>,
    delay: Option<Duration>,
    text: String,
    reasoning: String,
    calls: Vec<Value>,
    output_chars: u64,
    reasoning_chars: u64,
    finish: Option<String>,
}

impl Layout {
    fn new(delay_ms: u64) -> Self {
        Self {
            emits: Vec::new(),
            delay: Some(delay_ms).filter(|ms| *ms > 0).map(Duration::from_millis),
            text: String::new(),
            reasoning: String::new(),
            calls: Vec::new(),
            output_chars: 0,
            reasoning_chars: 0,
            finish: None,
        }
    }

    fn delta(&mut self, delta: Value, output_chars: u64, reasoning_chars: u64) {
        if let Some(delay) = self.delay {
            self.emits.push(Emit::Pause(Some(delay)));
        }
        self.output_chars += output_chars;
        self.reasoning_chars += reasoning_chars;
        self.emits.push(Emit::Delta { delta, output_chars, reasoning_chars });
    }

    fn text(&mut self, text: &str) {
        self.text.push_str(text);
        for (chunk, chars) in chunks(text) {
            self.delta(json!({"role": "assistant", "content": chunk}), chars, 0);
        }
    }

    fn reasoning(&mut self, text: &str) {
        self.reasoning.push_str(text);
        for (chunk, chars) in chunks(text) {
            self.delta(json!({"role": "assistant", "reasoning_content": chunk}), 0, chars);
        }
    }

    fn call(&mut self, id: &str, name: &str, arguments: &str) {
        let index = self.calls.len();
        let head = json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}});
        self.delta(json!({"role": "assistant", "tool_calls": [head]}), name.chars().count() as u64, 0);
        for (chunk, chars) in chunks(arguments) {
            self.delta(json!({"tool_calls": [{"index": index, "function": {"arguments": chunk}}]}), chars, 0);
        }
        self.calls.push(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}));
    }

    fn fault(&mut self, fault: &Fault, at: usize) {
        let emit = match fault {
            Fault::Stall { ms } => Emit::Pause(ms.map(Duration::from_millis)),
            Fault::Cut {} => Emit::Cut,
            Fault::BrokenChunk {} => Emit::Broken,
            Fault::Endless { content } => Emit::Endless(content.clone()),
            Fault::Finish { reason } => {
                self.finish = Some(reason.clone());
                return;
            }
            Fault::Delay { ms } => {
                self.delay = Some(Duration::from_millis(*ms));
                // In the middle of an answer that is laid out already: before each chunk that is left.
                let rest = self.emits.split_off(at);
                for emit in rest {
                    self.emits.extend([Emit::Pause(self.delay), emit]);
                }
                return;
            }
            // These come before the answer; the server has seen to them.
            Fault::Http { .. } | Fault::Html {} | Fault::Wait { .. } => return,
        };
        self.emits.insert(at, emit);
    }

    fn finish(mut self, fixed: Option<FixedUsage>, terms: &Terms<'_>) -> Answer {
        let usage = match fixed {
            Some(fixed) => Billed {
                input: fixed.input,
                output: fixed.output,
                reasoning: fixed.reasoning,
                cache_read: fixed.cache_read,
            },
            None => count(terms.prompt_tokens, self.output_chars, self.reasoning_chars),
        };
        let finish = match self.finish {
            None => Some(if self.calls.is_empty() { "stop" } else { "tool_calls" }.to_owned()),
            Some(reason) => Some(reason).filter(|reason| reason != NO_REASON),
        };
        // A stream that ends without a reason is one that a proxy gave up: no usage either.
        if let Some(reason) = &finish {
            self.emits.push(Emit::Finish(reason.clone()));
            if terms.include_usage {
                self.emits.push(Emit::Usage);
            }
        }
        self.emits.push(Emit::Done);
        let mut message = json!({"role": "assistant", "content": self.text});
        if !self.reasoning.is_empty() {
            message["reasoning_content"] = json!(self.reasoning);
        }
        if !self.calls.is_empty() {
            message["tool_calls"] = json!(self.calls);
        }
        Answer { emits: self.emits.into(), message, finish, usage }
    }
}

/// Tokens by rule of thumb: one for every four characters, rounded up.
fn count(prompt_tokens: u64, output_chars: u64, reasoning_chars: u64) -> Billed {
    Billed {
        input: prompt_tokens,
        output: output_chars.div_ceil(4),
        reasoning: reasoning_chars.div_ceil(4),
        cache_read: 0,
    }
}

/// Cuts a text between characters, with the number of characters of each chunk.
fn chunks(text: &str) -> impl Iterator<Item = (String, u64)> {
    let chars: Vec<char> = text.chars().collect();
    let size = CHUNK_CHARS.max(chars.len().div_ceil(MAX_CHUNKS));
    let chunks: Vec<_> = chars.chunks(size).map(|chunk| (chunk.iter().collect(), chunk.len() as u64)).collect();
    chunks.into_iter()
}

/// Waits; none if the server stops meanwhile.
pub(super) async fn pause_for(pause: Option<Duration>, stop: &CancellationToken) -> Option<()> {
    let pause = async {
        match pause {
            Some(pause) => tokio::time::sleep(pause).await,
            None => std::future::pending().await,
        }
    };
    stop.run_until_cancelled(pause).await
}

/// Keeps a request's record up to date while it is answered.
pub(super) struct Ledger {
    log: Arc<Log>,
    number: u64,
    prompt: Billed,
    /// The most output and reasoning that an unfinished answer can bill, if the script sets its usage.
    fixed: Option<Billed>,
    output_chars: u64,
    reasoning_chars: u64,
}

impl Ledger {
    pub(super) fn new(log: Arc<Log>, number: u64, usage: Option<FixedUsage>, prompt_tokens: u64) -> Self {
        let fixed = usage.map(|usage| Billed {
            input: usage.input,
            output: usage.output,
            reasoning: usage.reasoning,
            cache_read: usage.cache_read,
        });
        let prompt = match fixed {
            Some(fixed) => Billed { output: 0, reasoning: 0, ..fixed },
            None => Billed { input: prompt_tokens, ..Billed::default() },
        };
        Self { log, number, prompt, fixed, output_chars: 0, reasoning_chars: 0 }
    }

    /// The answer begins: from here on the prompt is billed.
    pub(super) fn began(&self) {
        let prompt = self.prompt;
        self.log.update(self.number, |record| {
            record.status = Some(200);
            record.billed = prompt;
        });
    }

    /// It is answered with a status, and bills nothing.
    pub(super) fn refused(&self, status: u16) {
        self.log.update(self.number, |record| {
            record.status = Some(status);
            record.last_byte = Some(Moment::now());
        });
    }

    fn spoke(&mut self, output_chars: u64, reasoning_chars: u64) {
        self.output_chars += output_chars;
        self.reasoning_chars += reasoning_chars;
        let mut billed = self.prompt + count(0, self.output_chars, self.reasoning_chars);
        if let Some(fixed) = self.fixed {
            billed.output = billed.output.min(fixed.output);
            billed.reasoning = billed.reasoning.min(fixed.reasoning);
        }
        self.log.update(self.number, |record| {
            record.billed = billed;
            record.last_byte = Some(Moment::now());
        });
    }

    fn completed(&mut self, usage: Billed) {
        self.log.update(self.number, |record| {
            record.billed = usage;
            record.complete = true;
            record.last_byte = Some(Moment::now());
        });
    }
}

/// An answer on its way.
pub(super) struct Playback {
    emits: VecDeque<Emit>,
    usage: Billed,
    envelope: Envelope,
    ledger: Ledger,
    stop: CancellationToken,
    over: bool,
}

impl Playback {
    /// The next bytes; none at the end; an error breaks the connection.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, io::Error>> {
        while !self.over {
            match self.emits.pop_front()? {
                Emit::Delta { delta, output_chars, reasoning_chars } => {
                    self.ledger.spoke(output_chars, reasoning_chars);
                    return Some(Ok(self.envelope.delta(delta)));
                }
                Emit::Pause(pause) => {
                    if pause_for(pause, &self.stop).await.is_none() {
                        return Some(Err(self.broken("the scripted model stops")));
                    }
                }
                Emit::Endless(content) => {
                    if pause_for(Some(ENDLESS_PAUSE), &self.stop).await.is_none() {
                        return Some(Err(self.broken("the scripted model stops")));
                    }
                    self.ledger.spoke(content.chars().count() as u64, 0);
                    let delta = self.envelope.delta(json!({"role": "assistant", "content": content.clone()}));
                    self.emits.push_front(Emit::Endless(content));
                    return Some(Ok(delta));
                }
                Emit::Broken => {
                    self.over = true;
                    return Some(Ok(self.envelope.broken()));
                }
                Emit::Cut => {
                    // Otherwise what was said before would be lost along with the connection.
                    pause_for(Some(CUT_PAUSE), &self.stop).await;
                    return Some(Err(self.broken("cut, as the script says")));
                }
                Emit::Finish(reason) => return Some(Ok(self.envelope.finish(&reason))),
                Emit::Usage => return Some(Ok(self.envelope.usage(self.usage))),
                Emit::Done => {
                    self.ledger.completed(self.usage);
                    return Some(Ok(DONE));
                }
            }
        }
        None
    }

    fn broken(&mut self, why: &str) -> io::Error {
        self.over = true;
        io::Error::other(why)
    }
}
