//! The queue alone: how fast a task is claimed, however full the queue is, and how many can go through it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Figure, Samples};
use crate::{
    config::{RetentionSettings, Timings},
    model::{outcome::Ending, retry::Verdict},
    service::{Settings, Worker},
    store::{
        Store, StoreError,
        queue::{Claimed, Finish, WorkerRow},
    },
    turn::{
        Runner,
        lease::{Lease, Leases},
    },
};

const HOST: &str = "bench";
const PROJECT: &str = "bench";
const LEASE: Duration = Duration::from_secs(20);

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Tasks in the fullest queue.
    pub fullest: i64,
    /// Claims timed at each depth.
    pub claims: usize,
    /// Inserts timed.
    pub inserts: usize,
    /// No-op tasks put through.
    pub no_ops: usize,
}

impl Size {
    /// What the README's figures are made with.
    pub const FULL: Self = Self { fullest: 1_000_000, claims: 500, inserts: 500, no_ops: 6_000 };
    /// A quick look.
    pub const QUICK: Self = Self { fullest: 100_000, claims: 100, inserts: 100, no_ops: 1_000 };
}

/// Measures the queue in a database that is made for it, see [`in_scratch`](super::in_scratch).
pub async fn run(store: &Store, size: Size, report: &mut dyn FnMut(Figure)) -> Result<(), StoreError> {
    store.load_project(PROJECT).await?;
    let worker = Uuid::new_v4();
    store
        .register_worker(&WorkerRow { id: worker, host_id: HOST, hostname: HOST, version: "bench", capacity: 1 })
        .await?;
    insert_to_claimed(store, size, report).await?;
    for workers in [1, 4, 8] {
        no_ops(store, worker, size, workers, report).await?;
    }
    claims_by_depth(store, worker, size, report).await
}

/// A worker's claim: what is claimable, then one of it.
async fn claim_one(store: &Store, worker: Uuid) -> Result<Option<Claimed>, StoreError> {
    let (_, lanes, _) = store.advance_and_list_lanes().await?;
    let mine: Vec<String> =
        lanes.into_iter().filter(|lane| lane.starts_with("*/") || lane.starts_with("bench/")).collect();
    Ok(store.claim(&mine, 1, worker, HOST, LEASE).await?.pop())
}

async fn complete(store: &Store, claimed: &Claimed) -> Result<(), StoreError> {
    let finish = Finish {
        token: claimed.token,
        outcome: Ending::Completed.as_str(),
        error_class: None,
        error_message: None,
        verdict: Verdict::Completed,
        summary: None,
        host_id: HOST,
    };
    store.finish(&finish).await.map(drop)
}

async fn time_claims(store: &Store, worker: Uuid, count: usize) -> Result<Samples, StoreError> {
    let mut samples = Samples::default();
    for n in 0..count + count / 10 {
        let began = Instant::now();
        let claimed = claim_one(store, worker).await?;
        let took = began.elapsed();
        // The first ones warm the caches.
        if n >= count / 10 {
            samples.push(took);
        }
        match claimed {
            Some(claimed) => complete(store, &claimed).await?,
            None => return Err(StoreError::Unexpected("nothing to claim in a full queue".to_owned())),
        }
    }
    Ok(samples)
}

async fn claims_by_depth(
    store: &Store,
    worker: Uuid,
    size: Size,
    report: &mut dyn FnMut(Figure),
) -> Result<(), StoreError> {
    store.unload().await?;
    let mut depth = 0;
    for wanted in [1_000, 100_000, 1_000_000] {
        if wanted > size.fullest {
            break;
        }
        store.load_sessions(PROJECT, wanted - depth, None).await?;
        store.settle_load().await?;
        depth = wanted;
        let samples = time_claims(store, worker, size.claims).await?;
        report(samples.figure("queue", format!("claim, {wanted} pending")).aim("flat within 20 %"));
    }
    store.unload().await?;
    store.load_line(PROJECT, 100_000).await?;
    store.load_sessions(PROJECT, 1_000, None).await?;
    store.settle_load().await?;
    let samples = time_claims(store, worker, size.claims.min(900)).await?;
    report(samples.figure("queue", "claim, 100000 waiting behind one session"));
    store.unload().await?;
    store.load_sessions(PROJECT, 100_000, Some("elsewhere")).await?;
    store.load_sessions(PROJECT, 1_000, None).await?;
    store.settle_load().await?;
    let samples = time_claims(store, worker, size.claims.min(900)).await?;
    report(samples.figure("queue", "claim, 100000 of another host in front"));
    Ok(())
}

/// No-op tasks through claim → heartbeat → finish, each claimed, renewed and finished by statements of its own.
async fn no_ops(
    store: &Store,
    worker: Uuid,
    size: Size,
    workers: usize,
    report: &mut dyn FnMut(Figure),
) -> Result<(), StoreError> {
    store.unload().await?;
    store.load_sessions(PROJECT, i64::try_from(size.no_ops).unwrap_or(i64::MAX), None).await?;
    store.settle_load().await?;
    let began = Instant::now();
    let loops = (0..workers).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut done = 0_usize;
            while let Some(claimed) = claim_one(&store, worker).await? {
                store.heartbeat(worker, &[claimed.token], LEASE, LEASE).await?;
                complete(&store, &claimed).await?;
                done += 1;
            }
            Ok::<_, StoreError>(done)
        })
    });
    let mut done = 0;
    for handle in futures::future::join_all(loops).await {
        done += handle.map_err(|error| StoreError::Unexpected(error.to_string()))??;
    }
    #[expect(clippy::cast_precision_loss, reason = "a count of thousands")]
    let rate = done as f64 / began.elapsed().as_secs_f64();
    let mut figure = Figure::value("queue", format!("no-op tasks, fenced, {workers} at once"), rate, "tasks/s");
    figure.samples = done;
    report(figure.aim("over 2,700"));
    Ok(())
}

/// Turns that note when they were begun.
#[derive(Default)]
struct Noted {
    begun: Mutex<HashMap<i64, Instant>>,
    noted: Notify,
    store: Option<Store>,
}

#[async_trait]
impl Runner for Noted {
    async fn run(&self, claimed: Claimed, _lease: Lease) {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).insert(claimed.task_id, Instant::now());
        self.noted.notify_one();
        if let Some(store) = &self.store {
            drop(complete(store, &claimed).await);
        }
    }
}

/// From sending an INSERT to a turn's first line, through NOTIFY and a real worker.
async fn insert_to_claimed(store: &Store, size: Size, report: &mut dyn FnMut(Figure)) -> Result<(), StoreError> {
    let runner = Arc::new(Noted { store: Some(store.clone()), ..Noted::default() });
    let settings = Settings {
        host_id: HOST.to_owned(),
        hostname: HOST.to_owned(),
        concurrency: 4,
        listen: true,
        agents: vec!["opencode".to_owned()],
        max_infra_losses: 10,
        retention: RetentionSettings::default(),
        timings: Timings::default(),
    };
    let leases = Leases::new(settings.timings.lease);
    let worker = Worker::start(settings, store.clone(), runner.clone(), leases, None).await?;
    let mut samples = Samples::default();
    for n in 0..size.inserts + 20 {
        let began = Instant::now();
        let task = store.load_one(PROJECT).await?;
        let begun = loop {
            let noted = runner.noted.notified();
            if let Some(begun) = runner.begun.lock().unwrap_or_else(PoisonError::into_inner).remove(&task) {
                break begun;
            }
            if tokio::time::timeout(Duration::from_secs(30), noted).await.is_err() {
                return Err(StoreError::Unexpected("an inserted task was not claimed within 30 s".to_owned()));
            }
        };
        if n >= 20 {
            samples.push(begun.duration_since(began));
        }
    }
    worker.stop(Duration::from_secs(5), CancellationToken::new()).await;
    report(samples.figure("queue", "INSERT → claimed").aim("p50 < 3 ms, p99 < 10 ms"));
    Ok(())
}
