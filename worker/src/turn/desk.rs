//! Puts what an agent asks before people, by way of the database, and waits for their answer.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::time::Instant;
use uuid::Uuid;

use super::persist::pauses;
use crate::{
    agent::AskDesk,
    config::Timings,
    model::ask::{Decision, OpenAsk},
    store::Store,
};

/// The desk of one attempt.
pub(super) struct Desk<'a> {
    store: &'a Store,
    token: Uuid,
    attempt_id: i64,
    timings: &'a Timings,
    /// Something was asked.
    was_used: AtomicBool,
}

impl<'a> Desk<'a> {
    pub(super) fn new(store: &'a Store, token: Uuid, attempt_id: i64, timings: &'a Timings) -> Self {
        Self { store, token, attempt_id, timings, was_used: AtomicBool::new(false) }
    }

    /// The turn is over: nobody waits for answers any more.
    pub(super) async fn close(&self) {
        // What cannot be written here is not shown either: its attempt has ended.
        if self.was_used.load(Ordering::Relaxed)
            && let Err(error) = self.store.withdraw_asks(self.attempt_id).await
        {
            tracing::debug!(%error, "the asks of a turn that is over could not be closed");
        }
    }
}

#[async_trait]
impl AskDesk for Desk<'_> {
    async fn decide(&self, ask: &OpenAsk) -> Decision {
        self.was_used.store(true, Ordering::Relaxed);
        // The database counts the time; without it, nobody can answer either.
        let last = Instant::now() + self.timings.person_answer + self.timings.lease;
        let mut tries = pauses();
        let id = loop {
            match self.store.open_ask(self.token, ask, self.timings.person_answer).await {
                Ok(Some(id)) => break id,
                Ok(None) => {
                    tracing::debug!(ask = %ask.id, "an ask that another turn left behind");
                    return Decision::by_deadline();
                }
                Err(error) if Instant::now() < last && error.is_unreachable() => {
                    tracing::debug!(%error, "an ask could not be put before people yet");
                    tokio::time::sleep(tries.next().unwrap_or_default()).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "an ask could not be put before people");
                    return Decision::by_deadline();
                }
            }
        };
        tracing::info!(ask = id, "the agent asks a person");
        loop {
            match self.store.ask_answer(id).await {
                Ok(Some(decision)) => return decision,
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "whether an ask was answered could not be read"),
            }
            if Instant::now() >= last {
                return Decision::by_deadline();
            }
            tokio::time::sleep(self.timings.poll_min).await;
        }
    }
}
