//! The fleet's stream: small notices of what changed, and the picture of what runs. A notice is a hint: whoever shows something asks for it again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::response::sse::Event;
use serde_json::Value;
use tokio::sync::{broadcast, mpsc};

use super::said::{Change, FleetEvent};
use crate::{
    actions::{ActionError, Activity},
    api::{Api, fleet::picture},
    store::streams::News,
};

/// Events that are kept for those who come again.
const KEPT: usize = 1_000;
/// Events that a viewer may be behind with before it is told to look at all anew.
const BEHIND: usize = 256;
/// New rows of a table that are told one by one.
const ROWS: i64 = 200;
/// Keys are given out before they are committed: so many before the newest are looked at again.
const LATE: i64 = 100;
/// How long what happens is still told when nobody looks: who was cut off comes again.
const LINGER: Duration = Duration::from_secs(60);
/// Between rounds while the database is away.
const AWAY: Duration = Duration::from_secs(1);

/// An event, as it is sent.
#[derive(Clone, Debug)]
struct Notice {
    number: u64,
    name: &'static str,
    data: Arc<str>,
}

/// What was told.
#[derive(Debug)]
struct Told {
    /// Of this process: numbers of another one mean something else.
    epoch: u32,
    last: u64,
    kept: VecDeque<Notice>,
    activity: Option<Arc<str>>,
}

/// The one reader of the fleet.
#[derive(Debug)]
pub(super) struct Fleet {
    told: Mutex<Told>,
    viewers: broadcast::Sender<Notice>,
    runs: AtomicBool,
}

impl Default for Fleet {
    fn default() -> Self {
        let told = Told { epoch: rand::random(), last: 0, kept: VecDeque::new(), activity: None };
        Self { told: Mutex::new(told), viewers: broadcast::Sender::new(BEHIND), runs: AtomicBool::new(false) }
    }
}

/// What rounds know of the one before.
#[derive(Default)]
struct Known {
    /// By kind: the newest key, and those told lately.
    keys: HashMap<&'static str, (i64, BTreeSet<i64>)>,
    is_primed: bool,
    turns: BTreeMap<(i64, i32), i64>,
    workers: BTreeSet<String>,
    picture: Option<Value>,
}

/// In the order of the query.
const KINDS: [&str; 5] = ["task", "audit", "ask", "apply", "comment"];

/// Someone who follows the fleet.
pub(super) struct Viewer {
    fleet: Arc<Fleet>,
    first: Vec<Notice>,
    reset: bool,
    activity: Option<Arc<str>>,
    news: broadcast::Receiver<Notice>,
}

impl Fleet {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to follow, behind the last event that came, if there was one.
    pub(super) fn follow(self: Arc<Self>, api: &Api, last: Option<String>) -> Viewer {
        let (news, first, reset, activity) = {
            let told = self.told();
            let news = self.viewers.subscribe();
            let missed = last.as_deref().map(|last| told.behind(last));
            let reset = matches!(missed, Some(None));
            let first = missed.flatten().unwrap_or_default();
            (news, first, reset, told.activity.clone())
        };
        if !self.runs.swap(true, Ordering::AcqRel) {
            tokio::spawn(self.clone().run(api.clone()));
        }
        Viewer { fleet: self, first, reset, activity, news }
    }

    async fn run(self: Arc<Self>, api: Api) {
        let mut known = Known::default();
        let mut looked = Instant::now();
        loop {
            let mut pause = api.settings.timings.fleet_poll;
            if self.viewers.receiver_count() > 0 {
                looked = Instant::now();
            }
            if looked.elapsed() > LINGER {
                // What happens while nobody looks is not told: who comes again then looks at all anew.
                self.forget(&mut known);
            } else if let Err(error) = self.round(&api, &mut known).await {
                tracing::debug!(%error, "the fleet cannot be looked at; again soon");
                pause = AWAY;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = api.stop.cancelled() => return,
            }
        }
    }

    fn forget(&self, known: &mut Known) {
        let mut told = self.told();
        if !told.kept.is_empty() || told.activity.is_some() {
            told.kept.clear();
            told.epoch = rand::random();
            told.activity = None;
        }
        *known = Known::default();
    }

    async fn round(&self, api: &Api, known: &mut Known) -> Result<(), ActionError> {
        let activity = picture(api).await?;
        let behind = KINDS.map(|kind| known.keys.get(kind).map_or(i64::MAX, |(newest, _)| (newest - LATE).max(0)));
        let rows = if known.is_primed { api.store.news(behind, ROWS).await? } else { Vec::new() };
        let mut notices = known.of_rows(rows);
        if !known.is_primed {
            // From now on: the newest of each.
            for row in api.store.news([0; 5], LATE).await? {
                known.is_told(&row);
            }
            for kind in KINDS {
                known.keys.entry(kind).or_default();
            }
        }
        notices.extend(known.of_activity(&activity));
        known.is_primed = true;
        let picture = serde_json::to_value(&activity).unwrap_or_default();
        let mut told = self.told();
        for notice in notices {
            let (name, data) = as_sent(&FleetEvent::Change(&notice));
            let notice = told.keep(name, data);
            let _ = self.viewers.send(notice);
        }
        if known.picture.as_ref() != Some(&picture) {
            let (name, data) = as_sent(&FleetEvent::Activity(&activity));
            known.picture = Some(picture);
            told.activity = Some(data.clone());
            // Not kept: whoever comes again gets the newest.
            told.last += 1;
            let _ = self.viewers.send(Notice { number: told.last, name, data });
        }
        Ok(())
    }
}

impl Told {
    fn keep(&mut self, name: &'static str, data: Arc<str>) -> Notice {
        self.last += 1;
        let notice = Notice { number: self.last, name, data };
        self.kept.push_back(notice.clone());
        if self.kept.len() > KEPT {
            self.kept.pop_front();
        }
        notice
    }

    /// What came behind an id; none: that is not known any more.
    fn behind(&self, id: &str) -> Option<Vec<Notice>> {
        let (epoch, number) = id.split_once('-')?;
        let number: u64 = number.parse().ok()?;
        if u32::from_str_radix(epoch, 16).ok()? != self.epoch || number > self.last {
            return None;
        }
        let is_whole = self.kept.len() < KEPT || self.kept.front().is_some_and(|first| first.number <= number + 1);
        is_whole.then(|| self.kept.iter().filter(|notice| notice.number > number).cloned().collect())
    }
}

impl Known {
    /// Whether a row was told before; it counts as told from now on.
    fn is_told(&mut self, row: &News) -> bool {
        let Some(kind) = KINDS.into_iter().find(|kind| *kind == row.kind) else { return true };
        let (newest, lately) = self.keys.entry(kind).or_default();
        *newest = (*newest).max(row.id);
        let is_new = lately.insert(row.id);
        while lately.len() > (2 * LATE) as usize {
            lately.pop_first();
        }
        !is_new
    }

    fn of_rows(&mut self, mut rows: Vec<News>) -> Vec<Change> {
        rows.sort_by_key(|row| row.id);
        rows.retain(|row| !self.is_told(row));
        rows.iter().map(notice_of).collect()
    }

    /// Turns that began and ended, workers that came and went.
    fn of_activity(&mut self, activity: &Activity) -> Vec<Change> {
        let turns: BTreeMap<_, _> =
            activity.turns.iter().map(|turn| ((turn.task_id, turn.number), turn.session_id)).collect();
        let workers: BTreeSet<_> = activity.workers.iter().map(|worker| worker.id.to_string()).collect();
        let mut notices = Vec::new();
        if self.is_primed {
            let began = turns.iter().filter(|(turn, _)| !self.turns.contains_key(turn));
            let ended = self.turns.iter().filter(|(turn, _)| !turns.contains_key(turn));
            for ((task, _), session) in began.chain(ended) {
                notices.push(Change {
                    kind: "task",
                    id: Some(*task),
                    task_id: Some(*task),
                    session_id: Some(*session),
                    ..Change::default()
                });
            }
            for ((task, _), session) in self.turns.iter().filter(|(turn, _)| !turns.contains_key(turn)) {
                let (task_id, session_id) = (Some(*task), Some(*session));
                notices.push(Change { kind: "change_set", task_id, session_id, ..Change::default() });
            }
            if workers != self.workers {
                notices.push(Change { kind: "worker", ..Change::default() });
            }
        }
        (self.turns, self.workers) = (turns, workers);
        notices
    }
}

fn as_sent(event: &FleetEvent<'_>) -> (&'static str, Arc<str>) {
    (event.name(), serde_json::to_string(event).unwrap_or_default().into())
}

/// A row as a notice: of what kind the thing is that changed, rather than where that is written.
fn notice_of(row: &News) -> Change {
    let action = row.action.as_deref().unwrap_or_default();
    let kind = match row.kind.as_str() {
        "audit" if row.task_id.is_some() => "task",
        "audit" if action.contains("webhook") => "webhook",
        "audit" if action.contains("token") || action.contains("login") => "token",
        "audit" if row.project.is_some() => "project",
        "apply" | "comment" => "change_set",
        "ask" => "ask",
        "task" => "task",
        _ => "change",
    };
    let id = if kind == "task" { row.task_id } else { Some(row.id).filter(|_| row.kind == kind) };
    let (project, action) = (row.project.clone(), row.action.clone());
    Change { kind, id, task_id: row.task_id, session_id: row.session_id, project, action }
}

impl Viewer {
    /// Sends what comes, until nobody takes it.
    pub(super) async fn run(mut self, out: mpsc::Sender<Event>) {
        if self.reset && !self.reset(&out).await {
            return;
        }
        let mut last = 0;
        for notice in std::mem::take(&mut self.first) {
            last = notice.number;
            if !self.notice(&out, &notice).await {
                return;
            }
        }
        if let Some(activity) = self.activity.take()
            && !self.send(&out, None, "activity", &activity).await
        {
            return;
        }
        loop {
            let is_taken = match self.news.recv().await {
                Ok(notice) if notice.number <= last => true,
                Ok(notice) => self.notice(&out, &notice).await,
                Err(broadcast::error::RecvError::Lagged(_)) => self.reset(&out).await,
                Err(broadcast::error::RecvError::Closed) => false,
            };
            if !is_taken || out.is_closed() {
                return;
            }
        }
    }

    async fn reset(&self, out: &mpsc::Sender<Event>) -> bool {
        let (name, data) = as_sent(&FleetEvent::Change(&Change { kind: Change::RESET, ..Change::default() }));
        self.send(out, None, name, &data).await
    }

    async fn notice(&self, out: &mpsc::Sender<Event>, notice: &Notice) -> bool {
        self.send(out, Some(notice.number), notice.name, &notice.data).await
    }

    async fn send(&self, out: &mpsc::Sender<Event>, number: Option<u64>, name: &str, data: &str) -> bool {
        let id = {
            let told = self.fleet.told();
            format!("{:x}-{}", told.epoch, number.unwrap_or(told.last))
        };
        out.send(Event::default().event(name).data(data).id(id)).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(notices: u64) -> Told {
        let mut told = Told { epoch: 0xab, last: 0, kept: VecDeque::new(), activity: None };
        for _ in 0..notices {
            told.keep("change", "{}".into());
        }
        told
    }

    #[test]
    fn who_comes_again_gets_what_it_missed_or_is_told_to_look_anew() {
        let missed = |told: &Told, id: &str| told.behind(id).map(|notices| notices.len());
        let few = told(5);
        for (id, expected) in [
            ("ab-5", Some(0)),
            ("ab-3", Some(2)),
            ("ab-0", Some(5)),
            // Of another process; never given; no id at all.
            ("ac-3", None),
            ("ab-6", None),
            ("ab", None),
            ("x-1", None),
        ] {
            assert_eq!(missed(&few, id), expected, "{id}");
        }
        let many = told(KEPT as u64 + 10);
        assert_eq!((missed(&many, "ab-9"), missed(&many, "ab-10")), (None, Some(KEPT)));
    }
}
