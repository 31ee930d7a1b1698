//! Following a task live, by asking: its state, and what its transcript has gained.
//!
//! Asking works through every pooler and after every cut; a listener would only make it a little faster.

use std::time::Duration;

use super::{Look, Result, look::look_at};
use crate::{
    model::ids::TaskId,
    store::{
        Store,
        reads_turns::{AttemptRow, TurnEventRow},
    },
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(120);
/// Events taken at once, so that a long transcript is not held in memory whole.
const AT_ONCE: i64 = 500;

/// Something new about a followed task.
#[derive(Clone, Debug, PartialEq)]
pub enum Followed {
    /// It does not run yet, for this reason.
    Waits(Look),
    /// An attempt runs, or ran.
    AttemptStarted(AttemptRow),
    /// A line of its transcript.
    Event(TurnEventRow),
    /// The attempt is over, and another one will follow or not.
    AttemptEnded(AttemptRow),
    /// The task has come to rest.
    Ended(Look),
}

/// Follows one task through all its attempts.
#[derive(Debug)]
pub struct Follower {
    store: Store,
    task: TaskId,
    window: Duration,
    said_why: Option<String>,
    current: Option<Current>,
    is_over: bool,
}

/// The attempt that is being read.
#[derive(Debug)]
struct Current {
    id: i64,
    number: i32,
    /// Place of the last event that was said.
    seq: i32,
    said_end: bool,
}

impl Current {
    fn new(attempt: &AttemptRow) -> Self {
        Self { id: attempt.id, number: attempt.number, seq: -1, said_end: false }
    }
}

impl Follower {
    /// A follower that starts at the newest attempt. `window` is how long a lease lives.
    pub fn new(store: Store, task: TaskId, window: Duration) -> Self {
        Self { store, task, window, said_why: None, current: None, is_over: false }
    }

    /// Waits for something new. Empty once the task has come to rest and all was said.
    pub async fn next(&mut self) -> Result<Vec<Followed>> {
        while !self.is_over {
            let news = self.look().await?;
            if !news.is_empty() {
                return Ok(news);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(Vec::new())
    }

    async fn look(&mut self) -> Result<Vec<Followed>> {
        let mut news = Vec::new();
        // The state first: an attempt that is over by then has its whole transcript written.
        let look = look_at(&self.store, self.task.0, self.window).await?;
        let attempts = self.store.attempts(self.task.0).await?;
        let row = match &self.current {
            // A new follower is not told of attempts long gone.
            None => attempts.last(),
            Some(current) => attempts.iter().find(|attempt| attempt.number == current.number),
        };
        if let Some(row) = row {
            if self.current.is_none() {
                self.current = Some(Current::new(row));
                news.push(Followed::AttemptStarted(row.clone()));
            }
            if self.read_events(row, &mut news).await? {
                return Ok(news);
            }
            // All of it was said; the next one, if there is one by now.
            if let Some(next) = attempts.iter().find(|attempt| attempt.number > row.number) {
                self.current = Some(Current::new(next));
                self.said_why = None;
                news.push(Followed::AttemptStarted(next.clone()));
                return Ok(news);
            }
        }
        match look.task.state.as_str() {
            "completed" | "failed" | "blocked" | "cancelled" => {
                self.is_over = true;
                news.push(Followed::Ended(look));
            }
            _ => {
                // A countdown is news once, not each second.
                let reason = look.why.as_deref().map(|why| why.split(" in ").next().unwrap_or(why).to_owned());
                if reason != self.said_why {
                    self.said_why.clone_from(&reason);
                    if reason.is_some() {
                        news.push(Followed::Waits(look));
                    }
                }
            }
        }
        Ok(news)
    }

    /// Takes what the transcript has gained; true while there may be more of this attempt.
    async fn read_events(&mut self, row: &AttemptRow, news: &mut Vec<Followed>) -> Result<bool> {
        let Some(current) = &mut self.current else {
            return Ok(false);
        };
        let mut events = self.store.turn_events(current.id, current.seq, AT_ONCE).await?;
        if let Some(last) = events.last() {
            current.seq = last.seq;
            // As it was when it streamed.
            events.sort_by_key(TurnEventRow::place);
            news.extend(events.into_iter().map(Followed::Event));
            return Ok(true);
        }
        if row.ended_at.is_some() && !current.said_end {
            current.said_end = true;
            news.push(Followed::AttemptEnded(row.clone()));
        }
        Ok(row.ended_at.is_none())
    }
}
