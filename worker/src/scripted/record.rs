//! What the model was asked and what it billed, for those who check the rest of the world against it.

use std::{
    collections::{HashMap, VecDeque},
    ops::{Add, AddAssign},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio::sync::watch;

use super::wire::Position;

/// Most requests that are remembered one by one; of older ones only the sums are kept.
const MAX_RECORDS: usize = 10_000;
/// Most bytes of request bodies that are remembered.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;
/// Most bytes of a prompt that are remembered beside its request's body.
const MAX_PROMPT_BYTES: usize = 4096;
/// Most conversations whose requests for one message are counted; beyond that the count begins anew.
const MAX_COUNTED: usize = 100_000;

/// A point in time by both clocks: `instant` for durations, `clock` to compare with what Postgres says.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By the system's clock.
    pub clock: DateTime<Utc>,
    /// By the clock that never goes back.
    pub instant: Instant,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { clock: Utc::now(), instant: Instant::now() }
    }
}

/// Tokens as a provider bills them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Billed {
    /// Input tokens that were not read from the cache.
    pub input: u64,
    /// Output tokens without reasoning.
    pub output: u64,
    /// Reasoning tokens.
    pub reasoning: u64,
    /// Input tokens read from the cache.
    pub cache_read: u64,
}

impl Billed {
    /// All tokens.
    pub fn total(&self) -> u64 {
        self.input + self.output + self.reasoning + self.cache_read
    }
}

impl Add for Billed {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            input: self.input + other.input,
            output: self.output + other.output,
            reasoning: self.reasoning + other.reasoning,
            cache_read: self.cache_read + other.cache_read,
        }
    }
}

impl AddAssign for Billed {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Billed {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// One request, and how it was answered.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    /// Its number since the server's start, from 0.
    pub number: u64,
    /// The script that answered.
    pub script: String,
    /// Whether tools were offered; if not it is a request for a title, which uses no steps up.
    pub tools_offered: bool,
    /// The turn of the script's conversation, from 0.
    pub turn: usize,
    /// The message of the turn, from 0.
    pub message: usize,
    /// The last prompt's text, the first 4096 bytes of it.
    pub prompt: String,
    /// When it had arrived whole.
    pub arrived: Moment,
    /// When the last byte so far was given to the connection.
    pub last_byte: Option<Moment>,
    /// The status that it was answered with, once it was.
    pub status: Option<u16>,
    /// Whether the answer went out whole. False while it is under way, and after a fault or a client that went.
    pub complete: bool,
    /// What it billed so far. An answer that broke off bills the prompt, and what was said until then.
    pub billed: Billed,
    body: Option<Bytes>,
}

impl RecordedRequest {
    /// The request as it came; none if it is too long ago.
    pub fn body(&self) -> Option<Value> {
        serde_json::from_slice(self.body.as_ref()?).ok()
    }

    /// The conversation as the agent sent it; empty if it is too long ago.
    pub fn messages(&self) -> Vec<Value> {
        match self.body().map(|mut body| body["messages"].take()) {
            Some(Value::Array(messages)) => messages,
            _ => Vec::new(),
        }
    }
}

/// What is written down of a request when it arrives.
pub(super) struct Arrival<'a> {
    pub(super) script: String,
    pub(super) tools_offered: bool,
    pub(super) position: Position,
    pub(super) prompt: &'a str,
    pub(super) body: Bytes,
}

/// All that a server has served.
pub(super) struct Log {
    inner: Mutex<Inner>,
    revision: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    records: VecDeque<RecordedRequest>,
    next: u64,
    body_bytes: usize,
    /// The oldest record that still has its body.
    oldest_body: u64,
    /// Billed by the records that were let go, those for titles apart.
    forgotten: Billed,
    forgotten_titles: Billed,
    served: HashMap<String, u64>,
    tries: HashMap<u64, u64>,
}

impl Log {
    pub(super) fn new() -> Self {
        Self { inner: Mutex::default(), revision: watch::Sender::new(0) }
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub(super) fn add(&self, arrival: Arrival<'_>) -> u64 {
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        inner.body_bytes += arrival.body.len();
        inner.records.push_back(RecordedRequest {
            number,
            script: arrival.script,
            tools_offered: arrival.tools_offered,
            turn: arrival.position.turn,
            message: arrival.position.message,
            prompt: arrival.prompt[..arrival.prompt.floor_char_boundary(MAX_PROMPT_BYTES)].to_owned(),
            arrived: Moment::now(),
            last_byte: None,
            status: None,
            complete: false,
            billed: Billed::default(),
            body: Some(arrival.body),
        });
        inner.trim();
        drop(inner);
        self.revision.send_modify(|revision| *revision += 1);
        number
    }

    /// Changes a record; one that was let go meanwhile is left alone.
    pub(super) fn update(&self, number: u64, change: impl FnOnce(&mut RecordedRequest)) {
        if let Some(record) = self.lock().get(number) {
            change(record);
        }
        self.revision.send_modify(|revision| *revision += 1);
    }

    /// The script's next request's number, from 0.
    pub(super) fn count_served(&self, script: &str) -> u64 {
        let mut inner = self.lock();
        let served = inner.served.entry(script.to_owned()).or_default();
        *served += 1;
        *served - 1
    }

    pub(super) fn reset_served(&self, script: &str) {
        self.lock().served.remove(script);
    }

    /// How often a message of a conversation was asked for before.
    pub(super) fn count_try(&self, key: u64) -> u64 {
        let mut inner = self.lock();
        if inner.tries.len() >= MAX_COUNTED && !inner.tries.contains_key(&key) {
            inner.tries.clear();
        }
        let tries = inner.tries.entry(key).or_default();
        *tries += 1;
        *tries - 1
    }

    pub(super) fn records(&self) -> Vec<RecordedRequest> {
        self.lock().records.iter().cloned().collect()
    }

    pub(super) fn last(&self, count: usize) -> Vec<RecordedRequest> {
        let inner = self.lock();
        inner.records.iter().skip(inner.records.len().saturating_sub(count)).cloned().collect()
    }

    pub(super) fn billed(&self, titles: bool) -> Billed {
        let inner = self.lock();
        let forgotten = if titles { inner.forgotten_titles } else { inner.forgotten };
        forgotten + inner.records.iter().filter(|r| r.tools_offered != titles).map(|r| r.billed).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held leaves counters at worst one off: better than a model that no longer answers.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn get(&mut self, number: u64) -> Option<&mut RecordedRequest> {
        let first = self.records.front()?.number;
        self.records.get_mut(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    fn trim(&mut self) {
        while self.body_bytes > MAX_BODY_BYTES && self.oldest_body + 1 < self.next {
            let oldest = self.oldest_body;
            let freed = self.get(oldest).and_then(|record| record.body.take()).map_or(0, |body| body.len());
            self.body_bytes -= freed;
            self.oldest_body += 1;
        }
        while self.records.len() > MAX_RECORDS {
            let Some(record) = self.records.pop_front() else { return };
            self.body_bytes -= record.body.map_or(0, |body| body.len());
            self.oldest_body = self.oldest_body.max(record.number + 1);
            if record.tools_offered {
                self.forgotten += record.billed;
            } else {
                self.forgotten_titles += record.billed;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(bytes: usize) -> Arrival<'static> {
        Arrival {
            script: "s".to_owned(),
            tools_offered: true,
            position: Position { turn: 0, message: 0 },
            prompt: "",
            body: Bytes::from(vec![b' '; bytes]),
        }
    }

    #[test]
    fn sums_survive_the_records_that_are_let_go() {
        let log = Log::new();
        for _ in 0..MAX_RECORDS + 50 {
            let number = log.add(arrival(10));
            log.update(number, |record| record.billed.output = 2);
        }
        assert_eq!(log.records().len(), MAX_RECORDS);
        assert_eq!(log.billed(false).output, 2 * (MAX_RECORDS as u64 + 50));
        assert_eq!(log.lock().body_bytes, 10 * MAX_RECORDS);
        log.update(3, |_| panic!("the record is gone"));
    }

    #[test]
    fn bodies_are_bounded_and_the_latest_is_kept() {
        let log = Log::new();
        for _ in 0..5 {
            log.add(arrival(MAX_BODY_BYTES / 2));
        }
        let kept: Vec<_> = log.records().iter().map(|record| record.body.is_some()).collect();
        assert_eq!(kept, [false, false, false, true, true]);
        log.add(arrival(2 * MAX_BODY_BYTES));
        assert_eq!(log.records().iter().filter(|record| record.body.is_some()).count(), 1);
    }
}
