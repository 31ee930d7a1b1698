//! Writes the transcript of an attempt while it runs.
//!
//! Events are numbered here and written in batches. Text deltas are coalesced, and the database drops them once their part
//! is whole. When the database cannot be reached, deltas are let go first: the whole part follows.

use std::{collections::HashMap, time::Duration};

use tokio::{sync::mpsc, task::JoinHandle};
use tracing::Instrument as _;

use super::lease::Meter;
use crate::{
    model::{event::AgentEvent, usage::StepUsage},
    store::{
        Store, StoreError,
        queue::Claimed,
        turns::{EventRow, Owner},
    },
};

/// Events under way to the writer; a slow database slows nobody until these are full.
const QUEUE: usize = 1024;
/// Between writes, so that a viewer sees text move and the database sees few statements.
const EVERY: Duration = Duration::from_millis(100);
/// Rows kept while the database cannot be reached; beyond it deltas go first, then the oldest events.
const KEPT: usize = 10_000;
/// How long the end of a turn waits for its transcript.
const CLOSE_WITHIN: Duration = Duration::from_secs(30);

/// The transcript of one attempt.
pub(super) struct Transcript {
    events: mpsc::Sender<AgentEvent>,
    writer: JoinHandle<()>,
}

impl Transcript {
    /// Starts its writer.
    pub(super) fn start(store: Store, claimed: &Claimed, meter: Meter) -> Self {
        let (events, queue) = mpsc::channel(QUEUE);
        let writer = Writer {
            store,
            meter,
            attempt_id: claimed.attempt_id,
            task_id: claimed.task_id,
            session_id: claimed.session_id,
            project: claimed.project.clone(),
            agent: crate::model::lane::split_agent(&claimed.agent).0.to_owned(),
            next_seq: 1,
            began: HashMap::new(),
            rows: Vec::new(),
            steps: Vec::new(),
        };
        Self { events, writer: tokio::spawn(writer.run(queue).in_current_span()) }
    }

    /// Where events go.
    pub(super) fn events(&self) -> &mpsc::Sender<AgentEvent> {
        &self.events
    }

    /// Adds one event of ours.
    pub(super) async fn say(&self, event: AgentEvent) {
        // The writer ends only with its senders.
        drop(self.events.send(event).await);
    }

    /// Writes what is left, within a bound.
    pub(super) async fn close(self) {
        drop(self.events);
        let abort = self.writer.abort_handle();
        if tokio::time::timeout(CLOSE_WITHIN, self.writer).await.is_err() {
            abort.abort();
            tracing::warn!("the end of the transcript could not be written in time");
        }
    }

    /// Lets go of what is left.
    pub(super) async fn discard(self) {
        self.writer.abort();
    }
}

struct Writer {
    store: Store,
    meter: Meter,
    attempt_id: i64,
    task_id: i64,
    session_id: i64,
    project: String,
    agent: String,
    next_seq: i32,
    /// Where parts began that stream.
    began: HashMap<String, i32>,
    rows: Vec<EventRow>,
    steps: Vec<StepUsage>,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<AgentEvent>) {
        loop {
            let Some(event) = queue.recv().await else { break };
            self.take(event);
            // The first event of a batch opens a window; what comes in it is written together.
            let window = tokio::time::sleep(EVERY);
            tokio::pin!(window);
            let open = loop {
                // What was spent is recorded at once: a limit may be reached, and the agent is about to spend more.
                if !self.steps.is_empty() {
                    break true;
                }
                tokio::select! {
                    () = &mut window => break true,
                    event = queue.recv() => match event {
                        Some(event) => self.take(event),
                        None => break false,
                    },
                }
            };
            self.flush().await;
            if !open {
                break;
            }
        }
        let mut tries = 0;
        while !(self.rows.is_empty() && self.steps.is_empty()) && tries < 20 {
            self.flush().await;
            tries += 1;
            if !self.rows.is_empty() {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }

    fn take(&mut self, event: AgentEvent) {
        if let AgentEvent::StepFinish { usage, .. } = &event {
            self.steps.push(usage.clone());
        }
        let began = self.began(&event);
        match (&event, self.rows.last_mut().map(|row| &mut row.event)) {
            (AgentEvent::TextDelta { part, delta }, Some(AgentEvent::TextDelta { part: last, delta: text }))
                if part == last =>
            {
                text.push_str(delta);
                return;
            }
            (
                AgentEvent::ReasoningDelta { part, delta },
                Some(AgentEvent::ReasoningDelta { part: last, delta: text }),
            ) if part == last => {
                text.push_str(delta);
                return;
            }
            (AgentEvent::Text { part, .. } | AgentEvent::Reasoning { part, .. }, _) => {
                // Deltas not yet written need not be: the part is whole now.
                self.rows.retain(|row| !is_delta_of(&row.event, part));
            }
            _ => {}
        }
        self.rows.push(EventRow { seq: self.next_seq, event, began });
        self.next_seq += 1;
        if self.rows.len() > KEPT {
            self.rows
                .retain(|row| !matches!(row.event, AgentEvent::TextDelta { .. } | AgentEvent::ReasoningDelta { .. }));
            let over = self.rows.len().saturating_sub(KEPT);
            self.rows.drain(..over);
        }
    }

    /// Where a part began that is whole now.
    fn began(&mut self, event: &AgentEvent) -> Option<i32> {
        match event {
            AgentEvent::TextDelta { part, .. } | AgentEvent::ReasoningDelta { part, .. } => {
                if !self.began.contains_key(part) {
                    self.began.insert(part.clone(), self.next_seq);
                }
                None
            }
            // It may be told again.
            AgentEvent::Text { part, .. } | AgentEvent::Reasoning { part, .. } => self.began.get(part).copied(),
            _ => None,
        }
    }

    async fn flush(&mut self) {
        let owner = Owner {
            attempt_id: self.attempt_id,
            task_id: self.task_id,
            session_id: self.session_id,
            project: &self.project,
            agent: &self.agent,
        };
        if !self.steps.is_empty() {
            match self.store.record_usage_so_far(owner, &self.steps).await {
                Ok(()) => {
                    self.steps.clear();
                    self.check_budget().await;
                }
                // The end of the turn records all steps once more.
                Err(error) => tracing::debug!(%error, "usage waits for the database"),
            }
        }
        if !self.rows.is_empty() {
            match self.store.append_events(self.attempt_id, &self.rows).await {
                Ok(()) => self.rows.clear(),
                Err(error) if error.is_unreachable() => tracing::debug!(%error, "transcript waits for the database"),
                Err(error) => {
                    tracing::warn!(%error, "part of the transcript was refused");
                    self.rows.clear();
                }
            }
        }
    }

    /// Stops the turn if what it has just spent reaches a limit, and has all workers look after their turns then. By a statement that
    /// begins after the recording was committed: of those who reach a limit together, the last sees what all have spent.
    async fn check_budget(&self) {
        let checked = async {
            if let Some(limit) = self.store.over_budget(self.task_id).await? {
                self.meter.stop(limit);
                self.store.announce_spending().await?;
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = checked.await {
            tracing::debug!(%error, "what was spent could not be held against the limits; the heartbeat does");
        }
    }
}

fn is_delta_of(event: &AgentEvent, whole: &str) -> bool {
    matches!(event,
        AgentEvent::TextDelta { part, .. } | AgentEvent::ReasoningDelta { part, .. } if part == whole)
}
