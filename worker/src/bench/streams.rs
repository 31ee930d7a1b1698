//! Streams: many people, each watching a turn of its own as it goes on, by a `millhand api` of this program.
//!
//! **Seen** is from just before a row is sent to the database, as a worker writes it, until a viewer has read its event: the commit, the reader's
//! next look, and the way through a connection are all in it. Who writes and who watches is one process, so that there is one clock.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use reqwest::Response;
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use super::{Bench, Figure, Samples, place::Place, served::Served};
use crate::{
    model::event::AgentEvent,
    store::{
        Store,
        queue::{Claimed, WorkerRow},
        turns::EventRow,
    },
};

const GROUP: &str = "streams";
const PROJECT: &str = "bench";
const HOST: &str = "bench";
const LEASE: Duration = Duration::from_secs(3600);
/// Between two writes of a turn, as of a worker's.
const EVERY: Duration = Duration::from_millis(100);
/// Longest that a viewer waits for what comes next.
const NEXT_WITHIN: Duration = Duration::from_secs(30);

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Turns, each with one who watches.
    pub streams: usize,
    /// Rows that each turn writes, one every tenth of a second.
    pub rows: i32,
}

impl Size {
    /// What the README's figures are made with.
    pub const FULL: Self = Self { streams: 200, rows: 300 };
    /// A quick look.
    pub const QUICK: Self = Self { streams: 200, rows: 50 };
}

/// Measures, with a home below the user's and a database that is made for it, see [`in_scratch`](super::in_scratch).
pub async fn run(bench: &Bench<'_>, store: &Store, size: Size, report: &mut dyn FnMut(Figure)) -> Result<()> {
    let place = Place::new(bench.settings)?;
    let measured = within(bench, store, &place, size, report).await;
    place.remove().await?;
    measured
}

async fn within(
    bench: &Bench<'_>,
    store: &Store,
    place: &Place,
    size: Size,
    report: &mut dyn FnMut(Figure),
) -> Result<()> {
    let turns = begin(store, size.streams).await?;
    let served = Served::start(bench, store, place).await?;
    let measured = bench.unless_stopped(measure(store, &served, &turns, size, report)).await;
    served.stop().await?;
    measured
}

/// Turns that run, as far as the database knows.
async fn begin(store: &Store, turns: usize) -> Result<Vec<Claimed>> {
    let worker = Uuid::new_v4();
    store
        .register_worker(&WorkerRow { id: worker, host_id: HOST, hostname: HOST, version: "bench", capacity: 1 })
        .await?;
    store.load_project(PROJECT).await?;
    store.load_sessions(PROJECT, i64::try_from(turns)?, None).await?;
    let (_, lanes, _) = store.advance_and_list_lanes().await?;
    let claimed = store.claim(&lanes, turns, worker, HOST, LEASE).await?;
    ensure!(claimed.len() == turns, "{} of {turns} turns began", claimed.len());
    Ok(claimed)
}

async fn measure(
    store: &Store,
    served: &Served,
    turns: &[Claimed],
    size: Size,
    report: &mut dyn FnMut(Figure),
) -> Result<()> {
    let epoch = Instant::now();
    let mut viewers = Vec::with_capacity(turns.len());
    for turn in turns {
        viewers.push(Viewer::attach(served, turn.task_id).await?);
    }
    let (used, began) = (served.cpu()?, Instant::now());
    let watching = try_join_all(viewers.into_iter().map(|viewer| viewer.watch(epoch, size.rows)));
    let count = u32::try_from(turns.len()).unwrap_or(u32::MAX).max(1);
    // Spread over a tenth of a second, as turns are that know nothing of one another.
    let starts = (0..count).map(|n| began + EVERY * n / count);
    let writing =
        try_join_all(turns.iter().zip(starts).map(|(turn, start)| write(store, turn, start, epoch, size.rows)));
    let (seen, _) = tokio::try_join!(watching, writing)?;
    let (used, took) = (served.cpu()?.saturating_sub(used), began.elapsed());
    let mut samples = Samples::default();
    seen.into_iter().flatten().for_each(|sample| samples.push(sample));
    let rows = f64::from(size.rows) * f64::from(count);
    report(samples.figure(GROUP, format!("event → viewer, {count} streams")).aim("p99 under 300 ms"));
    report(Figure::value(GROUP, "rows written meanwhile", rows / took.as_secs_f64(), "a second").aim("2,000"));
    let share = used.as_secs_f64() / took.as_secs_f64() * 100.0;
    report(Figure::value(GROUP, "millhand's own processor time", share, "% of a core").aim("under 15 %"));
    Ok(())
}

/// Writes a turn's transcript, a row at a time. What each says is when it was written.
async fn write(store: &Store, turn: &Claimed, start: Instant, epoch: Instant, rows: i32) -> Result<()> {
    let mut ticks = tokio::time::interval_at(start, EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for seq in 1..=rows {
        ticks.tick().await;
        let delta = epoch.elapsed().as_nanos().to_string();
        let row = EventRow { seq, event: AgentEvent::TextDelta { part: "part".to_owned(), delta }, began: None };
        store.append_events(turn.attempt_id, &[row]).await?;
    }
    Ok(())
}

/// Someone who watches a turn.
struct Viewer {
    answer: Response,
    text: String,
}

/// An event: its name, and what it says.
type Event = (String, String);

impl Viewer {
    /// Attaches, and waits until it is told that the turn has begun.
    async fn attach(served: &Served, task: i64) -> Result<Self> {
        let answer = served.open(&format!("/api/tasks/{task}/stream")).await?;
        let mut made = Self { answer, text: String::new() };
        while made.next().await?.0 != "attempt" {}
        Ok(made)
    }

    async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let event = event_of(block);
                self.text = rest.to_owned();
                return Ok(event);
            }
            let more = tokio::time::timeout(NEXT_WITHIN, self.answer.chunk()).await.context("nothing comes")?;
            // What we send is ASCII in this part: no character is cut.
            self.text.push_str(std::str::from_utf8(&more?.context("the stream ended")?)?);
        }
    }

    /// How long each of so many rows took to be seen; each comes once, and in order.
    async fn watch(mut self, epoch: Instant, rows: i32) -> Result<Vec<Duration>> {
        let mut seen = Vec::new();
        while seen.len() < usize::try_from(rows)? {
            let (name, data) = self.next().await?;
            if name != "event" {
                continue;
            }
            let now = epoch.elapsed();
            let row: Value = serde_json::from_str(&data)?;
            ensure!(row["seq"].as_u64() == Some(seen.len() as u64 + 1), "row {} comes as {row}", seen.len() + 1);
            let written = row["data"]["delta"].as_str().and_then(|nanos| nanos.parse().ok());
            seen.push(now.saturating_sub(Duration::from_nanos(written.context("when it was written")?)));
        }
        Ok(seen)
    }
}

/// An event of a block of lines. Ours have one line of data.
fn event_of(block: &str) -> Event {
    let field = |name: &str| {
        let found = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.unwrap_or_default().trim_start().to_owned()
    };
    (field("event"), field("data"))
}
