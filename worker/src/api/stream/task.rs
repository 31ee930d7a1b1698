//! One viewer of a task.

use axum::response::sse::Event;
use tokio::sync::{broadcast, mpsc};

use super::{place::Place, reader::News, said::TaskEvent};
use crate::{
    actions,
    api::{Api, problem::Problem},
};

/// Events read at once by a viewer that is behind.
const PAGE: i64 = 500;

/// Whether a task runs no more, unless somebody retries it.
pub(super) fn is_at_rest(state: &str) -> bool {
    matches!(state, "completed" | "failed" | "blocked" | "cancelled")
}

/// Someone who follows a task.
pub(super) struct Viewer {
    pub(super) api: Api,
    pub(super) task: i64,
    /// All up to here has come.
    pub(super) place: Place,
    /// It has seen nothing yet, and begins with the newest attempt.
    pub(super) is_new: bool,
    pub(super) out: mpsc::Sender<Event>,
}

/// The viewer has gone, or all was said.
struct Over;

impl Viewer {
    pub(super) async fn run(mut self, news: broadcast::Receiver<News>) {
        let stop = self.api.stop.clone();
        tokio::select! {
            _ = self.view(news) => {}
            () = stop.cancelled() => {}
        }
    }

    async fn view(&mut self, mut news: broadcast::Receiver<News>) -> Result<(), Over> {
        loop {
            // What was said before, or what was missed.
            if let Err(problem) = self.catch_up().await? {
                tracing::debug!(task = self.task, ?problem, "a viewer's task cannot be read");
                // Whoever comes again with the last id goes on where this ended.
                return Err(Over);
            }
            loop {
                match news.recv().await {
                    Ok(item) => self.send(item).await?,
                    Err(broadcast::error::RecvError::Lagged(_)) => break,
                    Err(broadcast::error::RecvError::Closed) => return Err(Over),
                }
            }
        }
    }

    /// Sends an item, unless it has come before.
    async fn send(&mut self, item: News) -> Result<(), Over> {
        let mut event = Event::default().event(item.name).data(&item.data);
        if let Some(place) = item.place {
            if place <= self.place {
                return Ok(());
            }
            self.place = place;
            event = event.id(place.to_string());
        }
        self.out.send(event).await.map_err(|_| Over)?;
        if self.place.is_at_rest() { Err(Over) } else { Ok(()) }
    }

    /// Reads on from where it is to where the task is.
    async fn catch_up(&mut self) -> Result<Result<(), Problem>, Over> {
        loop {
            match self.step().await? {
                Ok(true) => {}
                Ok(false) => return Ok(Ok(())),
                Err(problem) => return Ok(Err(problem)),
            }
        }
    }

    /// One step of that; false: there is nothing more by now.
    async fn step(&mut self) -> Result<Result<bool, Problem>, Over> {
        let store = self.api.store.clone();
        // The state first: an attempt that is over by then has its whole transcript written.
        let look = match actions::task(&store, self.task, self.api.window()).await {
            Ok(look) => look,
            Err(error) => return Ok(Err(error.into())),
        };
        let attempts = match store.attempts(self.task).await {
            Ok(attempts) => attempts,
            Err(error) => return Ok(Err(error.into())),
        };
        let is_done = |attempt: i64| self.place >= Place::ended(attempt);
        let current = match self.is_new {
            true => attempts.last(),
            false => attempts.iter().find(|attempt| !is_done(attempt.id)),
        };
        self.is_new = false;
        let Some(attempt) = current else {
            if is_at_rest(&look.task.state) {
                self.send(News::new(self.place.at_rest(), TaskEvent::Task(&look))).await?;
            } else if look.why.is_some() {
                self.send(News::new(None, TaskEvent::Task(&look))).await?;
            }
            return Ok(Ok(false));
        };
        if self.place < Place::begun(attempt.id) {
            self.send(News::new(Place::begun(attempt.id), TaskEvent::Attempt(attempt))).await?;
        }
        let seq = self.place.seq().unwrap_or(0);
        let events = match store.turn_events(attempt.id, seq, PAGE).await {
            Ok(events) => events,
            Err(error) => return Ok(Err(error.into())),
        };
        for event in &events {
            self.send(News::new(Place::event(event.attempt_id, event.seq), TaskEvent::Line(event))).await?;
        }
        if !events.is_empty() {
            return Ok(Ok(true));
        }
        if attempt.ended_at.is_some() {
            self.send(News::new(Place::ended(attempt.id), TaskEvent::Attempt(attempt))).await?;
            return Ok(Ok(true));
        }
        Ok(Ok(false))
    }
}
