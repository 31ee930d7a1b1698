//! The loops of a worker, with turns that do nothing: woken, polling, stopping, taking over.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use millhand::{
    config::{RetentionSettings, Timings},
    model::{outcome::Ending, outcome::ErrorClass, retry::Verdict},
    service::{Settings, Worker},
    store::queue::{Claimed, Finish},
    store::{Connect, Store},
    turn::{
        Runner,
        lease::{Lease, Leases, StopReason},
    },
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{HOST, LEASE, Queue};
use crate::support;

async fn wait_until(what: &str, within: Duration, condition: impl AsyncFnMut() -> bool) {
    support::wait_until(what, within, condition).await.expect("in time");
}

/// Turns that take as long as they are told, and note what happened.
#[derive(Default)]
pub(super) struct Turns {
    store: Mutex<Option<Store>>,
    takes: Duration,
    begun: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    stopped: Mutex<Vec<Option<StopReason>>>,
}

impl Turns {
    /// How many have begun.
    pub(super) fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Runner for Turns {
    async fn run(&self, claimed: Claimed, lease: Lease) {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        let stopped = tokio::select! {
            () = lease.stopped().cancelled() => true,
            () = tokio::time::sleep(self.takes) => false,
        };
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        let store = self.store.lock().expect("lock").clone().expect("store");
        let (outcome, error_class, verdict) = if stopped {
            self.stopped.lock().expect("lock").push(lease.reason());
            if lease.reason() == Some(StopReason::LeaseLost) {
                return;
            }
            let again = Verdict::Again { wait: Duration::ZERO, charged: false, infra_loss: false, keep_message: true };
            (Ending::Aborted, Some(ErrorClass::InfrastructureLost), again)
        } else {
            (Ending::Completed, None, Verdict::Completed)
        };
        let finish = Finish {
            token: claimed.token,
            outcome: outcome.as_str(),
            error_class,
            error_message: None,
            verdict,
            summary: None,
            host_id: HOST,
        };
        drop(store.finish(&finish).await);
    }
}

pub(super) fn quick() -> Timings {
    Timings {
        lease: Duration::from_secs(2),
        heartbeat: Duration::from_millis(200),
        poll_min: Duration::from_millis(100),
        poll_max: Duration::from_secs(1),
        rescue: Duration::from_millis(200),
        listen_check: Duration::from_millis(500),
        ..Timings::default()
    }
}

pub(super) async fn start_on(store: Store, takes: Duration, listen: bool, timings: Timings) -> (Worker, Arc<Turns>) {
    let turns = Arc::new(Turns { store: Mutex::new(Some(store.clone())), takes, ..Turns::default() });
    let settings = Settings {
        host_id: HOST.to_owned(),
        hostname: "test".to_owned(),
        concurrency: 3,
        listen,
        agents: vec!["opencode".to_owned()],
        max_infra_losses: 5,
        retention: RetentionSettings::default(),
        timings,
    };
    let leases = Leases::new(timings.lease);
    let worker = Worker::start(settings, store, turns.clone(), leases, None).await.expect("start");
    (worker, turns)
}

pub(super) async fn start(q: &Queue, takes: Duration, listen: bool, timings: Timings) -> (Worker, Arc<Turns>) {
    start_on(q.db.store().expect("store"), takes, listen, timings).await
}

pub(super) async fn stop(worker: Worker) {
    worker.stop(Duration::from_secs(5), CancellationToken::new()).await;
}

pub(super) async fn until_state(q: &Queue, task: i64, state: &str) {
    wait_until(&format!("t{task} is {state}"), Duration::from_secs(10), async || q.state(task).await == state).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notify_wakes_the_worker_long_before_its_poll() {
    let q = Queue::new().await;
    let timings = Timings { poll_min: Duration::from_secs(60), poll_max: Duration::from_secs(60), ..quick() };
    let (worker, turns) = start(&q, Duration::ZERO, true, timings).await;
    wait_until("it listens", Duration::from_secs(5), async || {
        q.one::<i64>("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'millhand listener' AND datname = current_database()").await > 0
    })
    .await;
    for n in 1..=5 {
        let (_, task) = q.open().await;
        until_state(&q, task, "completed").await;
        assert_eq!(turns.begun.load(Ordering::SeqCst), n);
    }
    stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_dead_listener_and_in_poll_only_mode_tasks_start_within_the_poll() {
    let q = Queue::new().await;
    let (worker, _) = start(&q, Duration::ZERO, false, quick()).await;
    let (_, task) = q.open().await;
    until_state(&q, task, "completed").await;
    stop(worker).await;

    // The listening connection is cut again and again while tasks come in.
    let timings = Timings { poll_min: Duration::from_millis(100), poll_max: Duration::from_millis(400), ..quick() };
    let (worker, _) = start(&q, Duration::ZERO, true, timings).await;
    for _ in 0..5 {
        q.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'millhand listener' AND datname = current_database()").await;
        let (_, task) = q.open().await;
        until_state(&q, task, "completed").await;
    }
    stop(worker).await;
}

/// The process that listens for a worker.
async fn listener(q: &Queue) -> Option<i32> {
    let sql = "SELECT pid FROM pg_stat_activity \
               WHERE application_name = 'millhand listener' AND datname = current_database() AND state = 'idle'";
    q.sql(sql).await.first().map(|row| row.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_was_cut_off_listens_again_and_what_came_meanwhile_is_found() {
    let q = Queue::new().await;
    let timings = Timings { poll_min: Duration::from_secs(60), poll_max: Duration::from_secs(60), ..quick() };
    let (worker, _) = start(&q, Duration::ZERO, true, timings).await;
    for _ in 0..3 {
        wait_until("it listens", Duration::from_secs(10), async || listener(&q).await.is_some()).await;
        let cut = listener(&q).await.expect("it listens");
        q.sql(&format!("SELECT pg_terminate_backend({cut})")).await;
        // Nobody hears of this one, or the new listener does: it looks as soon as it listens.
        let (_, task) = q.open().await;
        until_state(&q, task, "completed").await;
        wait_until("another one listens", Duration::from_secs(10), async || {
            listener(&q).await.is_some_and(|pid| pid != cut)
        })
        .await;
        let (_, task) = q.open().await;
        until_state(&q, task, "completed").await;
    }
    stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_due_time_is_met_without_a_nudge() {
    let q = Queue::new().await;
    let timings = Timings { poll_min: Duration::from_secs(60), poll_max: Duration::from_secs(60), ..quick() };
    let (worker, _) = start(&q, Duration::ZERO, true, timings).await;
    let task: i64 = q
        .one("INSERT INTO millhand.tasks (project, prompt, run_at) VALUES ('acme', 'x', now() + interval '1 second') RETURNING id")
        .await;
    let began = Instant::now();
    until_state(&q, task, "completed").await;
    assert!(began.elapsed() > Duration::from_millis(800), "too early: {:?}", began.elapsed());
    stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_runs_as_many_turns_at_once_as_it_has_slots_and_a_session_one_by_one() {
    let q = Queue::new().await;
    let (session, _) = q.open().await;
    for _ in 0..4 {
        q.append(session).await;
    }
    q.sql("INSERT INTO millhand.tasks (project, prompt) SELECT 'acme', 'n' || n FROM generate_series(1, 12) n").await;
    let (worker, turns) = start(&q, Duration::from_millis(50), true, quick()).await;
    wait_until("all are done", Duration::from_secs(20), async || {
        q.one::<i64>("SELECT count(*) FROM millhand.tasks WHERE state <> 'completed'").await == 0
    })
    .await;
    assert_eq!(turns.most_at_once.load(Ordering::SeqCst), 3);
    let overlaps: i64 = q
        .one(
            "SELECT count(*) FROM millhand.attempts a JOIN millhand.tasks ta ON ta.id = a.task_id
             JOIN millhand.attempts b ON b.id > a.id JOIN millhand.tasks tb ON tb.id = b.task_id AND tb.session_id = ta.session_id
             WHERE b.started_at < a.ended_at",
        )
        .await;
    assert_eq!(overlaps, 0);
    stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_keep_a_turn_that_outlives_its_lease_and_a_cancel_stops_it() {
    let q = Queue::new().await;
    let (worker, turns) = start(&q, Duration::from_secs(600), true, quick()).await;
    let (_, task) = q.open().await;
    until_state(&q, task, "running").await;
    let began = Instant::now();
    wait_until("three leases' time has passed", Duration::from_secs(10), async || {
        began.elapsed() > Duration::from_secs(6)
    })
    .await;
    assert_eq!((q.state(task).await.as_str(), turns.begun.load(Ordering::SeqCst)), ("running", 1));
    q.sql(&format!("SELECT millhand.cancel_task({task})")).await;
    until_state(&q, task, "cancelled").await;
    assert_eq!(*turns.stopped.lock().expect("lock"), [Some(StopReason::Cancelled)]);
    stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_hands_its_tasks_back_uncharged_and_the_next_takes_them_up() {
    let q = Queue::new().await;
    let (worker, _) = start(&q, Duration::from_secs(600), true, quick()).await;
    let (_, task) = q.open().await;
    until_state(&q, task, "running").await;
    worker.stop(Duration::from_millis(300), CancellationToken::new()).await;
    let row = &q.sql(&format!("SELECT state, attempts, infra_losses FROM millhand.tasks WHERE id = {task}")).await[0];
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1), row.get::<_, i32>(2)), ("pending", 0, 0));
    assert_eq!(q.one::<i64>("SELECT count(*) FROM millhand.leases").await, 0);
    let (worker, _) = start(&q, Duration::ZERO, true, quick()).await;
    until_state(&q, task, "completed").await;
    stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_cut_off_from_the_database_stops_its_turns_before_their_leases_end_and_another_goes_on() {
    let q = Queue::new().await;
    let proxy = q.db.proxy().await.expect("proxy");
    let cut_off = Store::new(Connect::plain(q.db.config_through(&proxy), 4)).expect("store");
    let (worker, turns) = start_on(cut_off, Duration::from_secs(600), true, quick()).await;
    let (_, task) = q.open().await;
    until_state(&q, task, "running").await;

    proxy.black_hole();
    let began = Instant::now();
    wait_until("the turn is stopped", Duration::from_secs(10), async || {
        !turns.stopped.lock().expect("lock").is_empty()
    })
    .await;
    assert_eq!(*turns.stopped.lock().expect("lock"), [Some(StopReason::LeaseLost)]);
    assert!(began.elapsed() < quick().lease, "stopped after its lease: {:?}", began.elapsed());

    // Another host's worker rescues it by the database's clock.
    let direct = q.db.store().expect("store");
    wait_until("the lease is rescued", Duration::from_secs(10), async || {
        !direct.rescue_expired(Duration::from_secs(1), 5, 10).await.expect("rescue").is_empty()
    })
    .await;
    assert_eq!(q.claim_one().await.task_id, task);
    proxy.forward();
    stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_reply_was_lost_is_given_back_at_once_and_uncharged() {
    let q = Queue::new().await;
    let proxy = q.db.proxy().await.expect("proxy");
    let through = Store::new(Connect::plain(q.db.config_through(&proxy), 4)).expect("store");
    let patient = Timings { lease: Duration::from_secs(600), ..quick() };
    let (worker, turns) = start_on(through, Duration::ZERO, true, patient).await;
    // Only a claim names lanes.
    proxy.drop_reply_to("/opencode");
    let (_, task) = q.open().await;
    proxy.reply_dropped().await.expect("dropped");
    until_state(&q, task, "completed").await;
    let row = &q.sql(&format!("SELECT infra_losses, last_attempt FROM millhand.tasks WHERE id = {task}")).await[0];
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1)), (0, 2));
    let outcomes = q.sql("SELECT outcome FROM millhand.attempts ORDER BY number").await;
    assert_eq!(outcomes.iter().map(|r| r.get::<_, String>(0)).collect::<Vec<_>>(), ["lost", "completed"]);
    assert_eq!(turns.begun.load(Ordering::SeqCst), 1);
    stop(worker).await;
}

#[tokio::test]
async fn what_a_worker_holds_is_not_given_back_and_neither_is_anybody_elses() {
    let q = Queue::new().await;
    q.open().await;
    q.open().await;
    let (held, lost) = (q.claim_one().await, q.claim_one().await);
    let given = q.store.release_unheld(uuid::Uuid::new_v4(), &[], 5).await.expect("release");
    assert!(given.is_empty(), "another worker's");
    let given = q.store.release_unheld(q.worker, &[held.token], 5).await.expect("release");
    assert_eq!(given.iter().map(|task| task.task_id).collect::<Vec<_>>(), [lost.task_id]);
    assert_eq!(q.state(held.task_id).await, "running");
    assert_eq!(q.state(lost.task_id).await, "pending");
}

#[tokio::test]
async fn a_lease_that_ends_too_late_is_shortened_and_others_are_left_alone() {
    let q = Queue::new().await;
    q.open().await;
    q.open().await;
    let (late, fine) = (q.claim_one().await, q.claim_one().await);
    // What a clock that was set back by an hour leaves.
    let set = "UPDATE millhand.leases SET expires_at = expires_at + interval '1 hour' WHERE token =";
    q.sql(&format!("{set} '{}'", late.token)).await;
    let end = async |token| {
        q.one::<f64>(&format!(
            "SELECT extract(epoch FROM expires_at)::float8 FROM millhand.leases WHERE token = '{token}'"
        ))
        .await
    };
    let before = end(fine.token).await;
    let now = q.store.clamp_leases(LEASE).await.expect("clamp").as_secs_f64();
    assert!((end(fine.token).await - before).abs() < f64::EPSILON);
    assert!((end(late.token).await - now - LEASE.as_secs_f64()).abs() < 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_workers_task_is_rescued_by_whoever_lives() {
    let q = Queue::new().await;
    let (_, task) = q.open().await;
    // Its worker sends no heartbeat.
    q.claim_one().await;
    q.sql("UPDATE millhand.leases SET expires_at = now() + interval '1 second'").await;
    let (worker, turns) = start(&q, Duration::ZERO, true, quick()).await;
    until_state(&q, task, "completed").await;
    assert_eq!(turns.begun.load(Ordering::SeqCst), 1);
    stop(worker).await;
}
