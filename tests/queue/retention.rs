//! What is kept for how long: transcripts by day, tasks of closed sessions; what was paid, for ever.

use std::time::Duration;

use millhand::{
    model::{event::AgentEvent, retry::Verdict},
    store::{queue::Claimed, turns::EventRow},
};
use tokio::time::Instant;

use super::{Queue, version::at_version};
use crate::support::TestDb;

fn text(seq: i32) -> EventRow {
    EventRow { seq, event: AgentEvent::Text { part: format!("p{seq}"), text: format!("line {seq}") }, began: None }
}

async fn days(q: &Queue) -> Vec<String> {
    let sql = "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
               WHERE i.inhparent = 'millhand.turn_events'::regclass ORDER BY 1";
    q.sql(sql).await.iter().map(|row| row.get(0)).collect()
}

/// Moves the start of an attempt, before anything is written of it.
async fn started_days_ago(q: &Queue, claimed: &Claimed, days: i32) {
    let sql = format!(
        "UPDATE millhand.attempts SET started_at = now() - interval '{days} days' WHERE id = {}",
        claimed.attempt_id
    );
    q.sql(&sql).await;
}

#[tokio::test]
async fn a_transcript_goes_to_the_day_of_its_attempt_which_is_made_when_it_is_missing() {
    let q = Queue::new().await;
    assert_eq!(days(&q).await, Vec::<String>::new());
    q.open().await;
    let claimed = q.claim_one().await;
    started_days_ago(&q, &claimed, 3).await;
    // At once, by several: the table is made once, and each row is there once.
    let appends = (1..=8).map(|seq| {
        let store = &q.store;
        async move { store.append_events(claimed.attempt_id, &[text(seq / 2 + 1)]).await.expect("events") }
    });
    futures::future::join_all(appends).await;
    assert_eq!(days(&q).await.len(), 1);
    let row = &q.sql("SELECT count(*), count(DISTINCT seq), min(now()::date - day), max(now()::date - day) FROM millhand.turn_events").await[0];
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (5, 5));
    assert_eq!((row.get::<_, i32>(2), row.get::<_, i32>(3)), (3, 3));
    let read = q.store.turn_events(claimed.attempt_id, 2, 10).await.expect("read");
    assert_eq!(read.iter().map(|row| row.seq).collect::<Vec<_>>(), [3, 4, 5]);
    // Nobody writes for an attempt that is gone, and with it goes what was written.
    q.sql("DELETE FROM millhand.sessions").await;
    q.store.append_events(claimed.attempt_id, &[text(9)]).await.expect("nothing to do");
    assert_eq!(q.one::<i64>("SELECT count(*) FROM millhand.turn_events").await, 0);
}

#[tokio::test]
async fn the_days_to_come_are_made_ahead_and_old_ones_dropped() {
    let q = Queue::new().await;
    let mut attempts = Vec::new();
    for age in [40, 31, 30, 0] {
        q.open().await;
        let claimed = q.claim_one().await;
        started_days_ago(&q, &claimed, age).await;
        q.store.append_events(claimed.attempt_id, &[text(1)]).await.expect("events");
        attempts.push(claimed);
    }
    assert_eq!(q.store.make_event_days(3).await.expect("days"), 3, "today was there");
    assert_eq!(q.store.make_event_days(3).await.expect("days"), 0);
    assert_eq!(days(&q).await.len(), 7);
    assert_eq!(q.store.drop_event_days(30).await.expect("drop"), 2);
    assert_eq!(q.store.drop_event_days(30).await.expect("drop"), 0);
    for (claimed, left) in attempts.iter().zip([0, 0, 1, 1]) {
        assert_eq!(q.store.turn_events(claimed.attempt_id, 0, 10).await.expect("read").len(), left);
        // A turn that goes on for longer than that is still written down.
        q.store.append_events(claimed.attempt_id, &[text(2)]).await.expect("events");
    }
}

#[tokio::test]
async fn a_reader_of_old_transcripts_keeps_them_and_nobody_waits_long() {
    let q = Queue::new().await;
    for age in [40, 0] {
        q.open().await;
        let claimed = q.claim_one().await;
        started_days_ago(&q, &claimed, age).await;
        q.store.append_events(claimed.attempt_id, &[text(1)]).await.expect("events");
        if age == 0 {
            let mut reader = q.client().await;
            let reading = reader.transaction().await.expect("begin");
            reading.query("SELECT count(*) FROM millhand.turn_events", &[]).await.expect("read");
            let began = Instant::now();
            let write = async {
                for seq in 2..20 {
                    q.store.append_events(claimed.attempt_id, &[text(seq)]).await.expect("events");
                }
            };
            let (dropped, ()) = tokio::join!(q.store.drop_event_days(30), write);
            assert_eq!(dropped.expect("later"), 0);
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
            reading.rollback().await.expect("end");
            assert_eq!(q.store.drop_event_days(30).await.expect("drop"), 1);
        }
    }
    assert_eq!(q.one::<i64>("SELECT count(*) FROM millhand.turn_events").await, 19);
}

#[tokio::test]
async fn reading_and_writing_look_into_one_day_only() {
    let q = Queue::new().await;
    q.store.make_event_days(20).await.expect("days");
    q.open().await;
    let claimed = q.claim_one().await;
    q.store.append_events(claimed.attempt_id, &[text(1)]).await.expect("events");
    let sql = include_str!("../../worker/src/store/sql/attempt_events.sql")
        .replace("$1", &claimed.attempt_id.to_string())
        .replace("$2", "0")
        .replace("$3", "100");
    let plan: Vec<String> =
        q.sql(&format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {sql}")).await.iter().map(|row| row.get(0)).collect();
    let scans: Vec<_> =
        plan.iter().filter(|line| line.contains("turn_events_2")).filter(|line| line.contains(" on ")).collect();
    let run: Vec<_> = scans.iter().filter(|line| !line.contains("never executed")).collect();
    assert_eq!(run.len(), 1, "{plan:#?}");
}

#[tokio::test]
async fn transcripts_of_before_the_days_are_all_kept_by_the_migration() {
    let db = TestDb::empty().await.expect("database");
    at_version(&db, 2).await;
    let client = db.client().await.expect("client");
    let before = "
        SELECT millhand.add_project('acme', '/src');
        INSERT INTO millhand.tasks (project, prompt) SELECT 'acme', 'n' || n FROM generate_series(1, 9) n;
        INSERT INTO millhand.attempts (task_id, number, prompt, worker_id, host_id, token, agent_requested, started_at)
            SELECT id, 1, 'x', gen_random_uuid(), 'h', gen_random_uuid(), 'opencode', now() - id * interval '7 hours'
            FROM millhand.tasks;
        INSERT INTO millhand.turn_events (attempt_id, seq, kind, part, data)
            SELECT a.id, n, 'text', 'p', jsonb_build_object('text', 'line ' || n) FROM millhand.attempts a, generate_series(1, 50) n;";
    client.batch_execute(before).await.expect("rows");
    let digest = "SELECT md5(string_agg(concat_ws(' ', attempt_id, seq, kind, part, data, created_at), '|' ORDER BY attempt_id, seq)) \
                  FROM millhand.turn_events";
    let was: String = client.query_one(digest, &[]).await.expect("digest").get(0);
    let store = db.store().expect("store");
    store.migrate().await.expect("migrate");
    let is: String = client.query_one(digest, &[]).await.expect("digest").get(0);
    assert_eq!(was, is);
    for attempt in 1..=9 {
        assert_eq!(store.turn_events(attempt, 0, 100).await.expect("read").len(), 50);
    }
}

#[tokio::test]
async fn old_tasks_of_closed_sessions_go_with_all_but_their_costs_and_what_nobody_decided_on() {
    let q = Queue::new().await;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let (session, task) = q.open().await;
        let claimed = q.claim_one().await;
        q.store.append_events(claimed.attempt_id, &[text(1)]).await.expect("events");
        q.sql(&format!(
            "INSERT INTO millhand.usage (attempt_id, task_id, project, agent, model, agent_session, message_id, cost_usd) \
             VALUES ({}, {task}, 'acme', 'opencode', 'm', 's', 'm{task}', 1.5)",
            claimed.attempt_id
        ))
        .await;
        q.finish(&claimed, Verdict::Completed).await;
        sessions.push((session, task));
    }
    // One has been replaced, one waits to be reviewed; the third is closed lately, the fourth open.
    let set = |task: i64, state: &str| {
        format!(
            "INSERT INTO millhand.change_sets (session_id, task_id, project, agent, base_commit, commit_id, tree_id, patch_sha256, \
             files, additions, deletions, state) SELECT session_id, id, 'acme', 'opencode', 'b', 'c', 't', 'p', 1, 1, 1, '{state}' \
             FROM millhand.tasks WHERE id = {task}"
        )
    };
    q.sql(&set(sessions[0].1, "superseded")).await;
    q.sql(&set(sessions[1].1, "open")).await;
    for (session, _) in &sessions[..3] {
        q.sql(&format!("SELECT millhand.close_session({session})")).await;
    }
    q.sql("UPDATE millhand.tasks SET finished_at = now() - interval '8 days'").await;
    q.sql("UPDATE millhand.sessions SET created_at = now() - interval '8 days'").await;
    q.sql(&format!("UPDATE millhand.tasks SET finished_at = now() - interval '6 days' WHERE id = {}", sessions[2].1))
        .await;

    let pruned = q.store.prune(7, 100).await.expect("prune").expect("nobody else");
    assert_eq!((pruned.tasks, pruned.sessions), (1, 1), "its session has nothing left");
    let pruned = q.store.prune(7, 100).await.expect("prune").expect("nobody else");
    assert_eq!((pruned.tasks, pruned.sessions), (0, 0));
    let left = q.sql("SELECT id FROM millhand.tasks ORDER BY id").await;
    assert_eq!(
        left.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(),
        sessions[1..].iter().map(|s| s.1).collect::<Vec<_>>()
    );
    assert_eq!(q.one::<i64>("SELECT count(*) FROM millhand.turn_events").await, 3);
    assert_eq!(q.one::<i64>("SELECT count(*) FROM millhand.change_sets WHERE state = 'superseded'").await, 0);
    assert_eq!(q.one::<i64>("SELECT count(*) FROM millhand.usage").await, 4, "what was paid stays");
    assert_eq!(q.one::<i64>("SELECT steps FROM millhand.cost_by_project").await, 4);
}

#[tokio::test]
async fn one_worker_prunes_at_a_time_in_small_batches() {
    let q = Queue::new().await;
    let closed = "
        INSERT INTO millhand.tasks (project, prompt) SELECT 'acme', 'n' || n FROM generate_series(1, 25) n;
        UPDATE millhand.tasks SET state = 'completed', lane = NULL, finished_at = now() - interval '9 days';
        UPDATE millhand.sessions SET state = 'closed', created_at = now() - interval '9 days';";
    q.client().await.batch_execute(closed).await.expect("rows");
    let busy = "SELECT pg_advisory_lock(x'7072756e65'::bigint)";
    let other = q.client().await;
    other.batch_execute(busy).await.expect("lock");
    assert_eq!(q.store.prune(7, 10).await.expect("prune"), None);
    other.batch_execute("SELECT pg_advisory_unlock_all()").await.expect("unlock");
    let mut counts = Vec::new();
    loop {
        let pruned = q.store.prune(7, 10).await.expect("prune").expect("nobody else");
        counts.push(pruned.tasks);
        if pruned.tasks == 0 && pruned.sessions == 0 {
            break;
        }
    }
    assert_eq!(counts.iter().sum::<i64>(), 25);
    assert_eq!(counts.iter().max(), Some(&10));
    assert_eq!(q.one::<i64>("SELECT count(*) FROM millhand.sessions").await, 0);
}
