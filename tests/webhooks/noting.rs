//! What is noted as a delivery: each item once, by whoever looks, and none is passed over.

use millhand::{
    model::{retry::Verdict, webhook::Kind},
    store::Store,
};

use super::{Loops, OVERLAP, deliveries, end_one, quick, receiver, wait_until, webhook};
use crate::queue::Queue;

const NOBODY: &str = "http://127.0.0.1:9/";

/// One look of the notifier at everything.
async fn look(store: &Store) {
    let Some(outlook) = store.outlook(OVERLAP).await.expect("outlook") else { return };
    store.note_inbox(outlook, OVERLAP, 500).await.expect("inbox");
    store.note_completed(outlook, OVERLAP, 500).await.expect("completed");
    store.note_hosts(500, 1000).await.expect("hosts");
    store.move_watermarks(outlook.now, OVERLAP / 20).await.expect("watermarks");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_is_noted_once_however_many_look_and_a_new_failure_is_a_new_item() {
    let q = Queue::new().await;
    webhook(&q, NOBODY, &[]).await;
    let task = end_one(&q, Verdict::Failed).await;
    futures::future::join_all((0..8).map(|_| look(&q.store))).await;
    look(&q.store).await;
    let row = &q.sql("SELECT dedupe_key, event, task_id, payload FROM millhand.deliveries").await;
    assert_eq!(row.len(), 1);
    let key: String = row[0].get(0);
    assert!(key.starts_with(&format!("task:{task}:attempt:1:failed:")), "{key}");
    assert_eq!((row[0].get::<_, &str>(1), row[0].get::<_, i64>(2)), ("task.failed", task));
    let payload: serde_json::Value = row[0].get(3);
    assert_eq!((&payload["v"], &payload["type"]), (&1.into(), &"task.failed".into()));
    let data = &payload["data"];
    assert_eq!((&data["task"], &data["project"]), (&format!("t{task}").into(), &"acme".into()));
    assert_eq!((&data["attempt"], &data["reason"]), (&1.into(), &"agent_failed".into()));
    assert_eq!(data["message"], "it stalled");
    assert!(!payload.to_string().contains("do it"), "neither the prompt nor the title, which is taken from it");

    q.sql(&format!("SELECT millhand.retry_task({task})")).await;
    look(&q.store).await;
    let claimed = q.claim_one().await;
    q.finish(&claimed, Verdict::Failed).await;
    look(&q.store).await;
    assert_eq!(deliveries(&q).await, 2);
}

#[tokio::test]
async fn each_webhook_is_told_what_it_asked_for_from_when_it_was_registered() {
    let q = Queue::new().await;
    end_one(&q, Verdict::Failed).await;
    let (failed, _) = webhook(&q, NOBODY, &[Kind::TaskFailed]).await;
    let (blocked, _) = webhook(&q, "http://127.0.0.1:9/b", &[Kind::TaskBlocked]).await;
    let (all, _) = webhook(&q, "http://127.0.0.1:9/c", &Kind::ALL).await;
    let (other, _) = webhook(&q, "http://127.0.0.1:9/d", &Kind::ALL).await;
    let (off, _) = webhook(&q, "http://127.0.0.1:9/e", &Kind::ALL).await;
    q.sql("SELECT millhand.add_project('other', '/src/other')").await;
    q.sql(&format!("UPDATE millhand.webhooks SET project = 'other' WHERE id = {other}")).await;
    q.store.switch_webhook(off, false).await.expect("off");
    let (fails, blocks, completes) = (
        end_one(&q, Verdict::Failed).await,
        end_one(&q, Verdict::Blocked).await,
        end_one(&q, Verdict::Completed).await,
    );
    // Something new in the inbox, of a kind that nobody knows yet, and a task that was dismissed before anybody looked.
    let dismissed = end_one(&q, Verdict::Failed).await;
    q.sql(&format!("SELECT millhand.dismiss_task({dismissed})")).await;
    q.sql(&format!(
        "INSERT INTO millhand.change_sets (session_id, task_id, attempt_id, project, agent, base_commit, commit_id, tree_id, \
         patch_sha256, files, additions, deletions, state) SELECT t.session_id, t.id, a.id, 'acme', 'opencode', 'b', 'c', 't', 'p', \
         3, 20, 10, 'open' FROM millhand.tasks t JOIN millhand.attempts a ON a.task_id = t.id WHERE t.id = {completes}"
    ))
    .await;
    look(&q.store).await;
    let rows = q.sql("SELECT webhook_id, event, task_id FROM millhand.deliveries ORDER BY 1, 3, 2").await;
    let told: Vec<(i64, String, i64)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let expected = [
        (failed, "task.failed", fails),
        (blocked, "task.blocked", blocks),
        (all, "task.failed", fails),
        (all, "task.blocked", blocks),
        (all, "change_set.ready", completes),
        (all, "task.completed", completes),
    ];
    assert_eq!(told, expected.map(|(webhook, event, task)| (webhook, event.to_owned(), task)));
    let payload: serde_json::Value =
        q.one("SELECT payload FROM millhand.deliveries WHERE event = 'change_set.ready'").await;
    assert_eq!((&payload["data"]["files"], &payload["data"]["additions"]), (&3.into(), &20.into()));

    // Turned on, it is told what comes from then on.
    q.store.switch_webhook(off, true).await.expect("on");
    look(&q.store).await;
    end_one(&q, Verdict::Failed).await;
    look(&q.store).await;
    assert_eq!(q.one::<i64>(&format!("SELECT count(*) FROM millhand.deliveries WHERE webhook_id = {off}")).await, 1);
}

#[tokio::test]
async fn what_a_running_turn_asks_is_told_too() {
    let q = Queue::new().await;
    webhook(&q, NOBODY, &[]).await;
    q.open().await;
    let claimed = q.claim_one().await;
    let ask = "INSERT INTO millhand.asks (task_id, attempt_id, external_id, kind, what, summary, deadline_at) SELECT";
    for (id, deadline) in [("one", "1 hour"), ("two", "1 hour"), ("late", "-1 minute")] {
        q.sql(&format!(
            "{ask} {}, {}, '{id}', 'question', '{{}}', 'which {id}?', now() + interval '{deadline}'",
            claimed.task_id, claimed.attempt_id
        ))
        .await;
    }
    look(&q.store).await;
    look(&q.store).await;
    let rows = q.sql("SELECT event, payload -> 'data' FROM millhand.deliveries ORDER BY dedupe_key").await;
    assert_eq!(rows.len(), 2);
    for (row, (ask, message)) in rows.iter().zip([("a1", "which one?"), ("a2", "which two?")]) {
        let data: serde_json::Value = row.get(1);
        assert_eq!(row.get::<_, &str>(0), "task.needs_you");
        assert_eq!(
            (&data["ask"], &data["message"], &data["reason"]),
            (&ask.into(), &message.into(), &"question".into())
        );
        assert!(data["deadline"].is_string(), "{data}");
    }
}

#[tokio::test]
async fn what_is_committed_late_is_not_missed() {
    let q = Queue::new().await;
    webhook(&q, NOBODY, &[]).await;
    let (_, task) = q.open().await;
    let mut client = q.client().await;
    let late = client.transaction().await.expect("begin");
    late.batch_execute(&format!(
        "UPDATE millhand.tasks SET state = 'failed', lane = NULL, finished_at = now() WHERE id = {task}"
    ))
    .await
    .expect("fails");
    look(&q.store).await;
    // As if nine minutes had gone by.
    q.sql("UPDATE millhand.webhooks SET watermark = now() + interval '9 minutes', enabled_at = enabled_at - interval '1 hour'")
        .await;
    late.commit().await.expect("commit");
    q.sql("UPDATE millhand.tasks SET finished_at = finished_at - interval '1 second'").await;
    look(&q.store).await;
    assert_eq!(deliveries(&q).await, 1);
    let ahead: bool = q.one("SELECT bool_or(watermark > now()) FROM millhand.webhooks").await;
    assert!(!ahead, "a clock that was set back takes the watermark with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_larger_than_a_batch_is_noted_whole_by_two_at_once() {
    let q = Queue::new().await;
    let there = receiver().await;
    webhook(&q, &there.url(), &[]).await;
    q.store.switch_webhook(1, false).await.expect("off: nothing is posted");
    let backlog = "
        INSERT INTO millhand.tasks (project, prompt) SELECT 'acme', 'n' || n FROM generate_series(1, 1700) n;
        UPDATE millhand.tasks SET state = 'failed', lane = NULL, last_attempt = 1, finished_at = now() - id * interval '1 minute';
        UPDATE millhand.webhooks SET watermark = now() - interval '3 days', enabled_at = now() - interval '3 days', enabled = true;";
    q.client().await.batch_execute(backlog).await.expect("backlog");
    let workers = [Loops::start(&q.store, quick()), Loops::start(&q.db.store().expect("store"), quick())];
    wait_until("all are noted", async || deliveries(&q).await == 1700).await;
    for worker in workers {
        worker.kill();
    }
    assert_eq!(q.one::<i64>("SELECT count(DISTINCT task_id) FROM millhand.deliveries").await, 1700);
}

#[tokio::test]
async fn a_host_that_is_gone_is_told_once_however_much_waits_for_it() {
    let q = Queue::new().await;
    webhook(&q, NOBODY, &[]).await;
    q.sql("INSERT INTO millhand.tasks (project, prompt) SELECT 'acme', 'n' || n FROM generate_series(1, 1200) n").await;
    q.sql(
        "UPDATE millhand.tasks SET lane = 'host-b/' || split_part(lane, '/', 2) || '/opencode' WHERE state = 'pending'",
    )
    .await;
    crate::queue::register(&q.store, uuid::Uuid::new_v4(), "host-b").await;
    look(&q.store).await;
    assert_eq!(deliveries(&q).await, 0, "it is there");
    q.sql("UPDATE millhand.workers SET heartbeat_at = now() - interval '11 minutes', started_at = now() - interval '1 hour' \
           WHERE host_id = 'host-b'")
        .await;
    for _ in 0..3 {
        look(&q.store).await;
    }
    let payloads = q.sql("SELECT payload FROM millhand.deliveries").await;
    assert_eq!(payloads.len(), 1);
    let payload: serde_json::Value = payloads[0].get(0);
    assert_eq!((&payload["type"], &payload["data"]["host"]), (&"host.gone".into(), &"host-b".into()));
    assert_eq!(payload["data"]["tasks"], 1000, "counted up to there");
}

#[tokio::test]
async fn looking_reads_what_is_new_only() {
    let q = Queue::new().await;
    webhook(&q, NOBODY, &Kind::ALL).await;
    let many = "
        SET session_replication_role = replica;
        INSERT INTO millhand.sessions (project, title) SELECT 'acme', '' FROM generate_series(1, 100);
        INSERT INTO millhand.chats (session_id) SELECT id FROM millhand.sessions;
        INSERT INTO millhand.tasks (project, session_id, chat_id, prompt, agent, state, max_attempts, finished_at, last_attempt)
            SELECT 'acme', 1 + n % 100, 1 + n % 100, 'x', 'opencode', CASE WHEN n % 10 = 0 THEN 'failed' ELSE 'completed' END, 3,
                   now() - n * interval '10 seconds', 1
            FROM generate_series(1, 100000) n;
        SET session_replication_role = origin;
        ANALYZE millhand.tasks;
        UPDATE millhand.webhooks SET enabled_at = now() - interval '1 year'";
    q.client().await.batch_execute(many).await.expect("rows");
    for (sql, index) in [
        (include_str!("../../worker/src/store/sql/note_inbox.sql"), "tasks_inbox"),
        (include_str!("../../worker/src/store/sql/note_completed.sql"), "tasks_completed"),
    ] {
        let client = q.client().await;
        // After a few runs a prepared statement may get a plan for any arguments.
        let run = "EXECUTE look (now() - interval '10 minutes', 600, 0);".repeat(8);
        let plan = format!(
            "PREPARE look AS {sql}; {run} EXPLAIN (ANALYZE, COSTS OFF) EXECUTE look (now() - interval '10 minutes', 600, 500)"
        );
        let rows = client.simple_query(&plan).await.expect("plan");
        let lines: Vec<String> = rows
            .iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .collect();
        assert!(lines.iter().any(|line| line.contains(index)), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.contains("Seq Scan on tasks")), "{lines:#?}");
    }
    look(&q.store).await;
    // Ten minutes at six a minute.
    assert_eq!(deliveries(&q).await, 60);
}

#[tokio::test]
async fn deliveries_that_ended_long_ago_go_and_are_not_made_again() {
    let q = Queue::new().await;
    let (id, _) = webhook(&q, NOBODY, &[]).await;
    for _ in 0..4 {
        end_one(&q, Verdict::Failed).await;
    }
    look(&q.store).await;
    q.sql("UPDATE millhand.deliveries SET created_at = now() - interval '40 days'").await;
    q.sql("UPDATE millhand.deliveries SET state = 'delivered', ended_at = now() - interval '31 days' WHERE id <= 2")
        .await;
    q.sql("UPDATE millhand.deliveries SET state = 'dead', ended_at = now() - interval '29 days' WHERE id = 3").await;
    q.sql("UPDATE millhand.webhooks SET watermark = now() - interval '40 days'").await;
    assert_eq!(q.store.prune_deliveries(30, 100).await.expect("prune"), 0, "the notifier could find them anew");
    q.sql("UPDATE millhand.webhooks SET watermark = now()").await;
    assert_eq!(q.store.prune_deliveries(30, 1).await.expect("prune"), 1);
    assert_eq!(q.store.prune_deliveries(30, 100).await.expect("prune"), 1);
    assert_eq!(q.store.prune_deliveries(30, 100).await.expect("prune"), 0);
    assert_eq!(deliveries(&q).await, 2, "what is pending stays, and so does what ended lately");
    q.store.remove_webhook(id).await.expect("removed");
    assert_eq!(deliveries(&q).await, 0);
}
