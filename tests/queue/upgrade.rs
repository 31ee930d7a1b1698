//! Migrations while workers run: those of the version before, and those of a version to come.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use millhand::store::migrate::SchemaState;
use tokio_postgres::{Client, Statement, types::Json};
use uuid::Uuid;

use super::{HOST, Queue, loops, version::at_version};
use crate::support::{TestDb, wait_until};

/// What a worker of version 2 asks the database.
struct OldWorker {
    client: Client,
    advance: Statement,
    claim: Statement,
    append: Statement,
    finish: Statement,
}

impl OldWorker {
    async fn new(db: &TestDb) -> Self {
        let client = db.client().await.expect("client");
        let prepare = async |sql: &str| client.prepare(sql).await.expect("prepared");
        let advance = prepare("SELECT millhand.advance()").await;
        let claim = prepare(&include_str!("version2/claim.sql").replace("LIMIT $5", "LIMIT 2")).await;
        let append = prepare(include_str!("version2/append_events.sql")).await;
        let finish = prepare(include_str!("version2/finish.sql")).await;
        Self { client, advance, claim, append, finish }
    }

    /// A round of turns that do nothing. Returns how many, and how many transcripts were refused.
    async fn round(&self) -> (u64, u64) {
        self.client.query(&self.advance, &[]).await.expect("advance");
        let lanes = vec!["*/1/opencode"];
        let rows = self.client.query(&self.claim, &[&lanes, &Uuid::new_v4(), &20_f64, &HOST]).await.expect("claim");
        let mut refused = 0;
        for row in &rows {
            let (attempt, token): (i64, Uuid) = (row.get("attempt_id"), row.get("token"));
            let event = (vec![1_i32], vec!["text"], vec![Some("p")], vec![Json(serde_json::json!({}))], vec!["p"]);
            let appended =
                self.client.execute(&self.append, &[&attempt, &event.0, &event.1, &event.2, &event.3, &event.4]).await;
            refused += u64::from(appended.is_err());
            let none: Option<&str> = None;
            let ended = self
                .client
                .query(
                    &self.finish,
                    &[&token, &"completed", &none, &none, &"completed", &0_f64, &true, &false, &false, &none, &HOST],
                )
                .await
                .expect("finish");
            assert_eq!(ended.len(), 1);
        }
        (rows.len() as u64, refused)
    }
}

async fn old_database() -> TestDb {
    let db = TestDb::empty().await.expect("database");
    at_version(&db, 2).await;
    let client = db.client().await.expect("client");
    client.batch_execute("SELECT millhand.add_project('acme', 'https://example.org/acme')").await.expect("project");
    db
}

/// A turn that does nothing takes no longer than this, whoever migrates.
const NOBODY_WAITS_LONGER: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_task_fails_while_workers_of_the_version_before_and_of_this_one_run_and_the_schema_is_migrated() {
    let db = Arc::new(old_database().await);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut old = Vec::new();
    for _ in 0..3 {
        let (db, stop, done) = (db.clone(), stop.clone(), done.clone());
        old.push(tokio::spawn(async move {
            let worker = OldWorker::new(&db).await;
            while !stop.load(Ordering::SeqCst) {
                let (turns, _) = worker.round().await;
                done.fetch_add(turns, Ordering::SeqCst);
            }
        }));
    }
    let people = {
        let (db, stop) = (db.clone(), stop.clone());
        tokio::spawn(async move {
            let client = db.client().await.expect("client");
            while !stop.load(Ordering::SeqCst) {
                let sql = "INSERT INTO millhand.tasks (project, prompt) VALUES ('acme', 'x'), ('acme', 'y')";
                client.batch_execute(sql).await.expect("insert");
                let sql = "INSERT INTO millhand.tasks (session_id, prompt) SELECT max(id), 'z' FROM millhand.sessions";
                client.batch_execute(sql).await.expect("insert");
            }
        })
    };
    let after = async |more: u64| {
        let wanted = done.load(Ordering::SeqCst) + more;
        wait_until("turns", NOBODY_WAITS_LONGER, async || done.load(Ordering::SeqCst) >= wanted).await.expect("turns");
    };
    after(100).await;
    let store = db.store().expect("store");
    store.migrate().await.expect("migrate");
    after(100).await;
    // A worker of this version joins in, and the old ones leave.
    let (worker, turns) = loops::start_on(store.clone(), Duration::ZERO, true, loops::quick()).await;
    wait_until("new turns", NOBODY_WAITS_LONGER, async || turns.begun() > 50).await.expect("turns");
    stop.store(true, Ordering::SeqCst);
    people.await.expect("people");
    for old in old {
        old.await.expect("an old worker");
    }
    let client = db.client().await.expect("client");
    let left = "SELECT count(*) FROM millhand.tasks WHERE state <> 'completed'";
    wait_until("all is done", Duration::from_secs(120), async || {
        client.query_one(left, &[]).await.is_ok_and(|row| row.get::<_, i64>(0) == 0)
    })
    .await
    .expect("all done");
    loops::stop(worker).await;
    let sql = "SELECT count(*), sum(last_attempt)::bigint, sum(attempts)::bigint, sum(infra_losses)::bigint FROM millhand.tasks";
    let row = client.query_one(sql, &[]).await.expect("counts");
    let [tasks, last, charged, losses] = [0, 1, 2, 3].map(|column| row.get::<_, i64>(column));
    assert_eq!((last, charged, losses), (tasks, tasks, 0), "each was done once");
    assert_eq!(store.counters().all().keys().filter(|name| name.starts_with("repaired")).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_gives_way_to_who_is_at_work_and_comes_through_when_they_are_done() {
    let db = old_database().await;
    let worker = OldWorker::new(&db).await;
    let mut reader = db.client().await.expect("client");
    // Somebody reads transcripts for a long time, as a backup does.
    let reading = reader.transaction().await.expect("begin");
    reading.batch_execute("LOCK TABLE millhand.turn_events IN ACCESS SHARE MODE").await.expect("lock");
    let store = db.store().expect("store");
    let migrating = tokio::spawn({
        let store = store.clone();
        async move { store.migrate().await }
    });
    let client = db.client().await.expect("client");
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    wait_until("the migration waits", Duration::from_secs(10), async || {
        client.query_one(waits, &[]).await.is_ok_and(|row| row.get::<_, i64>(0) > 0)
    })
    .await
    .expect("it waits");
    for _ in 0..3 {
        client
            .batch_execute("INSERT INTO millhand.tasks (project, prompt) VALUES ('acme', 'x')")
            .await
            .expect("insert");
        let round = tokio::time::timeout(NOBODY_WAITS_LONGER, worker.round()).await.expect("nobody waits for long");
        assert_eq!(round, (1, 0));
    }
    assert!(!migrating.is_finished());
    reading.rollback().await.expect("end");
    migrating.await.expect("task").expect("migrated");
    assert_eq!(store.schema_state().await.expect("state"), SchemaState::Current);
    assert_eq!(
        client.query_one("SELECT count(*) FROM millhand.turn_events", &[]).await.expect("count").get::<_, i64>(0),
        3
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_goes_on_with_a_newer_schema_that_it_can_work_with_and_drains_from_one_that_it_cannot() {
    let q = Queue::new().await;
    let (worker, _) = loops::start(&q, Duration::from_millis(1500), true, loops::quick()).await;
    let future = "INSERT INTO millhand.schema_history SELECT max(version) + 1, 'future', max(applied_on), max(checksum) \
                  FROM millhand.schema_history";
    q.sql(future).await;
    assert!(matches!(q.store.schema_state().await.expect("state"), SchemaState::Compatible { .. }));
    let (_, task) = q.open().await;
    loops::until_state(&q, task, "completed").await;

    let (_, running) = q.open().await;
    loops::until_state(&q, running, "running").await;
    q.client()
        .await
        .batch_execute("CREATE OR REPLACE FUNCTION millhand.oldest_program() RETURNS int LANGUAGE sql AS 'SELECT 999'")
        .await
        .expect("a step from the future");
    tokio::time::timeout(Duration::from_secs(10), worker.outdated()).await.expect("it notices");
    wait_until("it says so", Duration::from_secs(10), async || {
        q.one::<bool>("SELECT bool_or(draining) FROM millhand.workers").await
    })
    .await
    .expect("draining");
    let (_, later) = q.open().await;
    loops::until_state(&q, running, "completed").await;
    assert_eq!(q.state(later).await, "pending", "it takes no more");
    loops::stop(worker).await;
    assert_eq!(q.state(later).await, "pending");
    let words = q.store.schema_state().await.expect("state").require_current().expect_err("newer").to_string();
    assert!(words.contains("upgrade millhand"), "{words}");
}
