//! Claiming: each task once, in order, only from lanes that the worker can run.

use std::{collections::HashSet, sync::Arc};

use millhand::model::retry::Verdict;
use uuid::Uuid;

use super::{HOST, Queue, claim_as, finish_as, register};

#[tokio::test]
async fn heads_are_claimed_by_priority_then_due_time_and_never_before_it() {
    let q = Queue::new().await;
    let insert = async |priority: i32, run_at: &str| {
        q.one::<i64>(&format!(
            "INSERT INTO millhand.tasks (project, prompt, priority, run_at) \
             VALUES ('acme', 'x', {priority}, now() {run_at}) RETURNING id"
        ))
        .await
    };
    let late = insert(0, "").await;
    let urgent = insert(-1, "").await;
    let early = insert(0, "- interval '1 minute'").await;
    let future = insert(-9, "+ interval '1 hour'").await;
    let order: Vec<_> = q.claim(10).await.iter().map(|c| c.task_id).collect();
    assert_eq!(order, [urgent, early, late]);
    assert_eq!(q.state(future).await, "pending");
}

#[tokio::test]
async fn a_session_that_has_a_home_is_claimed_there_only() {
    let q = Queue::new().await;
    let (session, _) = q.open().await;
    let second = q.append(session).await;
    let claimed = q.claim_one().await;
    assert!(q.store.settle_session(claimed.token, Some("main"), "c0ffee", HOST, "/wt", "b").await.expect("settle"));
    q.finish(&claimed, Verdict::Completed).await;

    let stranger = Uuid::new_v4();
    register(&q.store, stranger, "host-b").await;
    assert!(claim_as(&q.store, stranger, "host-b", 10).await.is_empty());
    let next = q.claim_one().await;
    assert_eq!((next.task_id, next.base_commit.as_deref()), (second, Some("c0ffee")));
}

#[tokio::test]
async fn a_task_for_an_agent_that_nobody_has_stays_and_is_not_thrown_away() {
    let q = Queue::new().await;
    q.sql("INSERT INTO millhand.tasks (project, prompt, agent) VALUES ('acme', 'x', 'nosuch/mode')").await;
    let (_, lanes, _) = q.store.advance_and_list_lanes().await.expect("lanes");
    assert_eq!(lanes, ["*/1/nosuch"]);
    let agents = ["opencode".to_owned()];
    assert!(!millhand::model::lane::Lane::parse(&lanes[0]).expect("lane").runs_on(HOST, &agents));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_workers_claim_each_task_exactly_once() {
    let q = Arc::new(Queue::new().await);
    q.sql("INSERT INTO millhand.tasks (project, prompt) SELECT 'acme', 'n' || n FROM generate_series(1, 400) n").await;
    let mut workers = Vec::new();
    for _ in 0..8 {
        let q = q.clone();
        workers.push(tokio::spawn(async move {
            let worker = Uuid::new_v4();
            register(&q.store, worker, HOST).await;
            let mut mine = Vec::new();
            let mut empty = 0;
            while empty < 3 {
                let claimed = claim_as(&q.store, worker, HOST, 3).await;
                empty = if claimed.is_empty() { empty + 1 } else { 0 };
                for task in claimed {
                    finish_as(&q.store, &task, Verdict::Completed).await;
                    mine.push(task.task_id);
                }
            }
            mine
        }));
    }
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await.expect("worker"));
    }
    let distinct: HashSet<_> = all.iter().collect();
    assert_eq!((all.len(), distinct.len()), (400, 400));
    assert_eq!(q.one::<i64>("SELECT count(*) FROM millhand.attempts").await, 400);
}

#[tokio::test]
async fn the_claim_finds_its_tasks_by_index_however_many_others_are_pending() {
    let q = Queue::new().await;
    q.sql("INSERT INTO millhand.tasks (project, prompt) SELECT 'acme', 'n' || n FROM generate_series(1, 3000) n").await;
    q.sql("UPDATE millhand.tasks SET lane = 'host-z/1/opencode' WHERE id <= 2900").await;
    q.sql("ANALYZE millhand.tasks").await;
    let plan = q
        .sql(
            "EXPLAIN (ANALYZE, FORMAT TEXT) SELECT t.id FROM unnest(ARRAY['*/1/opencode']) l (lane) CROSS JOIN LATERAL \
             (SELECT id FROM millhand.tasks t WHERE t.state = 'pending' AND t.lane = l.lane AND t.run_at <= now() \
             ORDER BY t.priority, t.run_at, t.id LIMIT 4 FOR UPDATE SKIP LOCKED) t",
        )
        .await;
    let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    let plan = plan.join("\n");
    assert!(plan.contains("Index Scan using tasks_claim") && !plan.contains("Sort"), "{plan}");
}
