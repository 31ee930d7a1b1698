//! Reads the transcripts of all followed tasks, for all who follow them: two queries a round, however many they are.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, broadcast};

use super::{place::Place, said::TaskEvent};
use crate::{
    actions,
    api::{Api, problem::Problem},
    store::{StoreError, reads_turns::AttemptRow, streams::Standing},
};

/// News of a task that its viewers may be behind with; one that is further behind reads on by itself.
const BEHIND: usize = 256;
/// Events of a task that are read in a round.
const AT_ONCE: i64 = 200;
/// Why a task waits is asked again so often, besides whenever it has changed.
const WHY_AGAIN: Duration = Duration::from_secs(5);
/// Between rounds while the database is away.
const AWAY: Duration = Duration::from_secs(1);

/// Something new of a task, as it is sent.
#[derive(Clone, Debug)]
pub(super) struct News {
    /// Where that is; none: it is no place, but how things stand.
    pub(super) place: Option<Place>,
    /// Name of the event.
    pub(super) name: &'static str,
    /// What it says, in JSON.
    pub(super) data: Arc<str>,
}

impl News {
    pub(super) fn new(place: impl Into<Option<Place>>, event: TaskEvent<'_>) -> Self {
        let data = serde_json::to_string(&event).unwrap_or_default().into();
        Self { place: place.into(), name: event.name(), data }
    }
}

/// A task that somebody follows.
#[derive(Debug)]
struct Topic {
    viewers: broadcast::Sender<News>,
    /// All up to here was told.
    place: Place,
    standing: String,
    said_why: Option<Instant>,
}

/// The one reader.
#[derive(Debug, Default)]
pub(super) struct Reader {
    topics: Mutex<HashMap<i64, Topic>>,
    wake: Notify,
    runs: AtomicBool,
}

impl Reader {
    fn topics(&self) -> std::sync::MutexGuard<'_, HashMap<i64, Topic>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to follow a task: what comes from now on. What was before, a viewer reads by itself.
    pub(super) async fn follow(self: &Arc<Self>, api: &Api, task: i64) -> Result<broadcast::Receiver<News>, Problem> {
        if let Some(topic) = self.topics().get(&task) {
            return Ok(topic.viewers.subscribe());
        }
        let place = match api.store.end_of_transcript(task).await? {
            Some((attempt, seq)) => Place::event(attempt, seq),
            None => Place::default(),
        };
        let news = {
            let new =
                || Topic { viewers: broadcast::Sender::new(BEHIND), place, standing: String::new(), said_why: None };
            self.topics().entry(task).or_insert_with(new).viewers.subscribe()
        };
        if !self.runs.swap(true, Ordering::AcqRel) {
            tokio::spawn(self.clone().run(api.clone()));
        }
        self.wake.notify_one();
        Ok(news)
    }

    async fn run(self: Arc<Self>, api: Api) {
        let every = api.settings.timings.viewer_poll;
        loop {
            let pause = match self.round(&api).await {
                Ok(true) => every,
                Ok(false) => {
                    tokio::select! {
                        () = self.wake.notified() => continue,
                        () = api.stop.cancelled() => return,
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "followed tasks cannot be read; again soon");
                    AWAY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = api.stop.cancelled() => return,
            }
        }
    }

    /// Tells what is new; false: nobody follows anything.
    async fn round(&self, api: &Api) -> Result<bool, StoreError> {
        let followed: Vec<(i64, Place)> = {
            let mut topics = self.topics();
            topics.retain(|_, topic| topic.viewers.receiver_count() > 0);
            topics.iter().map(|(task, topic)| (*task, topic.place)).collect()
        };
        if followed.is_empty() {
            return Ok(false);
        }
        // How they stand first: the transcript of an attempt that is over by then is whole.
        let tasks: Vec<_> = followed.iter().map(|(task, place)| (*task, place.attempt)).collect();
        let standings = api.store.standings(&tasks).await?;
        let places: Vec<_> = followed.iter().filter_map(|(_, place)| Some((place.attempt, place.seq()?))).collect();
        let mut events = api.store.events_behind(&places, AT_ONCE).await?;
        for standing in standings {
            let Some((task, place)) = followed.iter().find(|(task, _)| *task == standing.task_id).copied() else {
                continue;
            };
            let mut place = place;
            let found = events.remove(&place.attempt).unwrap_or_default();
            let is_all = i64::try_from(found.len()).is_ok_and(|count| count < AT_ONCE);
            let mut news = Vec::with_capacity(found.len());
            for event in found {
                place = Place::event(event.attempt_id, event.seq);
                news.push(News::new(place, TaskEvent::Line(&event)));
            }
            if is_all {
                place = self.boundaries(api, &standing, place, &mut news).await?;
            }
            self.why(api, &standing, &mut news).await;
            self.tell(task, place, standing, news);
        }
        Ok(true)
    }

    /// Ends and beginnings of attempts, and the end of it all, once all events up to there were told.
    async fn boundaries(
        &self,
        api: &Api,
        standing: &Standing,
        mut place: Place,
        news: &mut Vec<News>,
    ) -> Result<Place, StoreError> {
        let is_over = standing.is_ended == Some(true) && place < Place::ended(place.attempt);
        if is_over || standing.next_attempt.is_some() && standing.is_ended != Some(false) {
            let attempts = api.store.attempts(standing.task_id).await?;
            let row = |id: i64| attempts.iter().find(|attempt: &&AttemptRow| attempt.id == id);
            if is_over && let Some(attempt) = row(place.attempt) {
                place = Place::ended(attempt.id);
                news.push(News::new(place, TaskEvent::Attempt(attempt)));
            }
            if let Some(next) = standing.next_attempt.and_then(row) {
                place = Place::begun(next.id);
                news.push(News::new(place, TaskEvent::Attempt(next)));
                return Ok(place);
            }
        }
        let is_read = standing.is_ended != Some(false);
        if standing.is_at_rest && is_read && standing.next_attempt.is_none() && !place.is_at_rest() {
            let window = api.window();
            // It may have been retried, or be gone, since.
            if let Ok(look) = actions::task(&api.store, standing.task_id, window).await
                && super::task::is_at_rest(&look.task.state)
            {
                place = place.at_rest();
                news.push(News::new(place, TaskEvent::Task(&look)));
            }
        }
        Ok(place)
    }

    /// Why it does not run yet, when that may have changed.
    async fn why(&self, api: &Api, standing: &Standing, news: &mut Vec<News>) {
        let is_due = {
            let mut topics = self.topics();
            let Some(topic) = topics.get_mut(&standing.task_id) else { return };
            let is_old = topic.said_why.is_none_or(|said| said.elapsed() > WHY_AGAIN);
            let is_due = standing.waits && (is_old || topic.standing != standing.standing);
            if is_due {
                topic.said_why = Some(Instant::now());
            }
            is_due
        };
        if is_due
            && let Ok(look) = actions::task(&api.store, standing.task_id, api.window()).await
            && look.why.is_some()
        {
            news.push(News::new(None, TaskEvent::Task(&look)));
        }
    }

    fn tell(&self, task: i64, place: Place, standing: Standing, news: Vec<News>) {
        let mut topics = self.topics();
        let Some(topic) = topics.get_mut(&task) else { return };
        topic.place = place;
        topic.standing = standing.standing;
        for item in news {
            // Nobody listens any more: it goes with the next round.
            let _ = topic.viewers.send(item);
        }
        if place.is_at_rest() {
            topics.remove(&task);
        }
    }
}
