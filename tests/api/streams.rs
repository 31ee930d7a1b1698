//! Streams: nothing is lost and nothing comes twice, however often a viewer is cut off, or the server starts anew.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millhand::{
    model::{event::AgentEvent, retry::Verdict},
    store::{Store, queue::Claimed, turns::EventRow},
};
use reqwest::Response;
use serde_json::Value;
use uuid::Uuid;

use super::Rig;
use crate::queue::{AGAIN, claim_as, finish_as, register};

/// How long a test waits for the next event.
const WITHIN: Duration = Duration::from_secs(30);

/// An event, as it came.
#[derive(Clone, Debug, Default, PartialEq)]
struct Came {
    name: String,
    id: String,
    data: Value,
}

/// A stream that is read.
struct Reading {
    answer: Response,
    text: String,
    /// Comments that came.
    beats: usize,
}

impl Reading {
    async fn open(rig: &Rig, path: &str, last: Option<&str>) -> Result<Self> {
        let mut request = rig.http.get(rig.url(path));
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let answer = request.send().await?;
        ensure!(answer.status() == 200, "{path}: {}", answer.status());
        ensure!(answer.headers()["content-type"] == "text/event-stream");
        Ok(Self { answer, text: String::new(), beats: 0 })
    }

    /// The next event; none: the stream has ended.
    async fn next(&mut self) -> Result<Option<Came>> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                let mut came = Came::default();
                for line in block.lines() {
                    match line.split_once(':') {
                        Some(("event", name)) => came.name = name.trim().to_owned(),
                        Some(("id", id)) => came.id = id.trim().to_owned(),
                        Some(("data", data)) => came.data = serde_json::from_str(data)?,
                        _ => self.beats += 1,
                    }
                }
                if !came.name.is_empty() {
                    return Ok(Some(came));
                }
                continue;
            }
            let more = tokio::time::timeout(WITHIN, self.answer.chunk()).await.context("nothing comes")??;
            match more {
                Some(bytes) => self.text.push_str(std::str::from_utf8(&bytes)?),
                None => return Ok(None),
            }
        }
    }

    /// All until it ends.
    async fn rest(&mut self) -> Result<Vec<Came>> {
        let mut all = Vec::new();
        while let Some(came) = self.next().await? {
            all.push(came);
        }
        Ok(all)
    }

    /// The next of this name.
    async fn named(&mut self, name: &str) -> Result<Came> {
        loop {
            let came = self.next().await?.context("the stream ended")?;
            if came.name == name {
                return Ok(came);
            }
        }
    }
}

/// A task whose turn is written by the test.
async fn turn(rig: &Rig) -> Result<(Store, Claimed)> {
    let store = rig.world.db.store()?;
    let worker = Uuid::new_v4();
    register(&store, worker, "h1").await;
    rig.world.queue("do it").await?;
    let claimed = claim_as(&store, worker, "h1", 1).await.pop().context("something to claim")?;
    Ok((store, claimed))
}

async fn say(store: &Store, claimed: &Claimed, seqs: std::ops::RangeInclusive<i32>) -> Result<()> {
    let row = |seq| EventRow { seq, event: AgentEvent::Status { message: format!("event {seq}") }, began: None };
    Ok(store.append_events(claimed.attempt_id, &seqs.map(row).collect::<Vec<_>>()).await?)
}

fn seqs(came: &[Came]) -> Vec<i64> {
    came.iter().filter(|came| came.name == "event").filter_map(|came| came.data["seq"].as_i64()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_that_is_cut_off_again_and_again_misses_nothing_and_gets_nothing_twice() -> Result<()> {
    const ALL: i32 = 600;
    let mut rig = Rig::new(&[]).await?;
    let (store, claimed) = turn(&rig).await?;
    let path = format!("/api/tasks/{}/stream", claimed.task_id);
    let writer = tokio::spawn({
        let (store, claimed) = (store.clone(), claimed.clone());
        async move {
            for first in (1..=ALL).step_by(3) {
                say(&store, &claimed, first..=first + 2).await?;
            }
            finish_as(&store, &claimed, Verdict::Completed).await;
            anyhow::Ok(())
        }
    });
    let (mut found, mut last, mut cuts) = (Vec::new(), None::<String>, 0);
    'streams: loop {
        let mut reading = Reading::open(&rig, &path, last.as_deref()).await?;
        for _ in 0..25 {
            let Some(came) = reading.next().await? else { break 'streams };
            if !came.id.is_empty() {
                last = Some(came.id.clone());
            }
            found.push(came);
        }
        drop(reading);
        cuts += 1;
        if cuts == 5 {
            rig = rig.again().await?;
        }
    }
    writer.await??;
    assert_eq!(seqs(&found), (1..=i64::from(ALL)).collect::<Vec<_>>());
    let names = |name: &str| found.iter().filter(|came| came.name == name).count();
    assert_eq!((names("attempt"), names("ended")), (2, 1), "begun and over, once each");
    assert_eq!(found.last().map(|came| came.name.as_str()), Some("ended"));
    assert!(cuts >= 20, "{cuts}");
    // Who knows that nothing comes any more is told to stay away.
    let id = last.context("an id")?;
    let answer = rig.http.get(rig.url(&path)).header("Last-Event-ID", &id).send().await?;
    assert_eq!(answer.status().as_u16(), 204);
    let answer = rig.http.get(rig.url(&format!("{path}?last_event_id={id}"))).send().await?;
    assert_eq!(answer.status().as_u16(), 204);
    let answer = rig.http.get(rig.url(&path)).header("Last-Event-ID", "nonsense").send().await?;
    assert_eq!(answer.status().as_u16(), 400);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_viewers_get_the_same_and_one_that_does_not_read_holds_nobody_up() -> Result<()> {
    const ALL: i32 = 3_000;
    let rig = Rig::new(&[]).await?;
    let (store, claimed) = turn(&rig).await?;
    let path = format!("/api/tasks/{}/stream", claimed.task_id);
    let mut idle = Reading::open(&rig, &path, None).await?;
    let mut viewers = Vec::new();
    for _ in 0..20 {
        viewers.push(Reading::open(&rig, &path, None).await?);
    }
    for first in (1..=ALL).step_by(100) {
        say(&store, &claimed, first..=first + 99).await?;
    }
    finish_as(&store, &claimed, Verdict::Completed).await;
    let all: Vec<_> = (1..=i64::from(ALL)).collect();
    for viewer in &mut viewers {
        assert_eq!(seqs(&viewer.rest().await?), all);
    }
    assert_eq!(seqs(&idle.rest().await?), all, "what it was behind with, it reads later");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_through_all_attempts_of_a_task() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    let task = rig.world.queue("do it").await?;
    let mut reading = Reading::open(&rig, &format!("/api/tasks/t{task}/stream"), None).await?;
    let waits = reading.named("waits").await?;
    assert!(waits.data["why"].as_str().is_some_and(|why| why.contains("no worker")), "{waits:?}");
    let store = rig.world.db.store()?;
    let worker = Uuid::new_v4();
    register(&store, worker, "h1").await;
    let first = claim_as(&store, worker, "h1", 1).await.pop().context("something to claim")?;
    say(&store, &first, 1..=3).await?;
    finish_as(&store, &first, AGAIN).await;
    let second = claim_as(&store, worker, "h1", 1).await.pop().context("something to claim again")?;
    say(&store, &second, 1..=2).await?;
    finish_as(&store, &second, Verdict::Completed).await;
    let rest = reading.rest().await?;
    let told: Vec<_> = rest.iter().filter(|came| came.name != "waits").map(|came| came.id.clone()).collect();
    let (a, b) = (first.attempt_id, second.attempt_id);
    let expected = [
        format!("{a}.0"),
        format!("{a}.1"),
        format!("{a}.2"),
        format!("{a}.3"),
        format!("{a}.ended"),
        format!("{b}.0"),
        format!("{b}.1"),
        format!("{b}.2"),
        format!("{b}.ended"),
        format!("{b}.rest"),
    ];
    assert_eq!(told, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_beats_and_ends_with_the_server() -> Result<()> {
    let mut rig = Rig::new(&[]).await?;
    rig.world.settings.timings.viewer_beat = Duration::from_millis(50);
    let rig = rig.again().await?;
    let (_, claimed) = turn(&rig).await?;
    let mut reading = Reading::open(&rig, &format!("/api/tasks/{}/stream", claimed.task_id), None).await?;
    reading.named("attempt").await?;
    while reading.beats < 3 {
        let bytes = tokio::time::timeout(WITHIN, reading.answer.chunk()).await??.context("the stream ended")?;
        reading.beats += std::str::from_utf8(&bytes)?.matches(":\n").count();
    }
    let Rig { served, world, .. } = rig;
    let ended = tokio::spawn(async move { while reading.answer.chunk().await.is_ok_and(|more| more.is_some()) {} });
    tokio::time::timeout(Duration::from_secs(4), served.stop()).await.context("the server waits for a stream")?;
    ended.await?;
    drop(world);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fleets_stream_tells_what_changed_and_goes_on_behind_the_last_notice() -> Result<()> {
    let mut rig = Rig::new(&[]).await?;
    rig.world.settings.timings.fleet_poll = Duration::from_millis(50);
    let rig = rig.again().await?;
    let mut reading = Reading::open(&rig, "/api/stream", None).await?;
    let picture = reading.named("activity").await?;
    assert_eq!(picture.data["pending"], 0);
    let first = rig.world.queue("one").await?;
    let change = reading.named("change").await?;
    assert_eq!((&change.data["kind"], &change.data["id"]), (&Value::from("task"), &Value::from(first)));
    drop(reading);
    let second = rig.world.queue("two").await?;
    rig.world.sql(&format!("SELECT millhand.cancel_task({first})")).await?;
    let mut again = Reading::open(&rig, "/api/stream", Some(&change.id)).await?;
    let mut missed = std::collections::BTreeSet::new();
    while missed.len() < 2 {
        let came = again.next().await?.context("the stream ended")?;
        assert_ne!(came.name, "reset", "it is known what was missed");
        if came.name == "change" {
            missed.insert(came.data["id"].as_i64().context("id")?);
        }
    }
    assert_eq!(missed.into_iter().collect::<Vec<_>>(), [first, second]);
    let mut other = Reading::open(&rig, "/api/stream?last_event_id=1-1", None).await?;
    assert_eq!(other.next().await?.context("the stream ended")?.name, "reset");
    Ok(())
}
