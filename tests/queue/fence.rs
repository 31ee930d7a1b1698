//! Fencing: who lost the lease writes nothing; a lost reply changes nothing.

use millhand::{
    model::retry::Verdict,
    store::{
        Connect, Store,
        queue::{Finish, Finished},
        turns::{AgentSessionRow, BeforePrompt},
    },
};
use uuid::Uuid;

use super::{HOST, LEASE, Queue, register};

async fn expire(q: &Queue) {
    q.sql("UPDATE millhand.leases SET expires_at = now() - interval '1 second'").await;
}

/// The cluster of the tests started long enough ago only after a lease's time; so the rescue is told of a shorter lease.
async fn rescue(q: &Queue) -> Vec<millhand::store::queue::Rescued> {
    q.store.rescue_expired(std::time::Duration::ZERO, 10, 100).await.expect("rescue")
}

#[tokio::test]
async fn expired_lease_returns_task_to_queue_and_the_old_holder_writes_nothing() {
    let q = Queue::new().await;
    let (_, task) = q.open().await;
    let zombie = q.claim_one().await;
    assert!(rescue(&q).await.is_empty(), "a live lease is left alone");
    expire(&q).await;
    let rescued = rescue(&q).await;
    assert_eq!((rescued.len(), rescued[0].task_id, rescued[0].state.as_str()), (1, task, "pending"));

    let successor = q.claim_one().await;
    assert_eq!((successor.task_id, successor.number), (task, 2));
    assert_eq!(successor.counts.infra_losses, 1);

    assert_eq!(q.finish(&zombie, Verdict::Completed).await, Finished::Fenced);
    assert_eq!(q.state(task).await, "running");
    let settled = q.store.settle_session(successor.token, Some("main"), "c0ffee", HOST, "/wt", "b").await;
    assert!(settled.expect("settle"), "all is there but the lease");
    let row = AgentSessionRow { external_id: "ses_zombie".to_owned(), config_hash: "h".to_owned() };
    let stored = q.store.before_prompt(zombie.token, "opencode", "opencode", HOST, &row, "a", "m", "msg_1").await;
    assert_eq!(stored.expect("before prompt"), BeforePrompt::Fenced);
    let settled = q.store.settle_session(zombie.token, Some("main"), "c0ffee", HOST, "/wt2", "b").await;
    assert!(!settled.expect("settle"));
    assert!(q.store.heartbeat(q.worker, &[zombie.token], LEASE, LEASE).await.expect("heartbeat").is_empty());
    let rows =
        q.sql("SELECT (SELECT count(*) FROM millhand.agent_sessions) + (SELECT count(*) FROM millhand.worktrees)");
    assert_eq!(rows.await[0].get::<_, i64>(0), 1, "the successor's worktree");

    assert_eq!(q.finish(&successor, Verdict::Completed).await, Finished::Recorded("completed".to_owned()));
    let outcomes = q.sql("SELECT outcome FROM millhand.attempts ORDER BY number").await;
    assert_eq!(outcomes.iter().map(|r| r.get::<_, String>(0)).collect::<Vec<_>>(), ["lost", "completed"]);
}

#[tokio::test]
async fn finishing_again_after_a_lost_reply_is_recorded_once() {
    let q = Queue::new().await;
    let (_, task) = q.open().await;
    let claimed = q.claim_one().await;
    assert_eq!(q.finish(&claimed, Verdict::Completed).await, Finished::Recorded("completed".to_owned()));
    assert_eq!(q.finish(&claimed, Verdict::Completed).await, Finished::Recorded("completed".to_owned()));
    assert_eq!(q.one::<i32>(&format!("SELECT attempts FROM millhand.tasks WHERE id = {task}")).await, 1);
    // Another outcome for the same attempt is not what was recorded.
    assert_eq!(q.finish(&claimed, Verdict::Failed).await, Finished::Fenced);
}

#[tokio::test]
async fn infrastructure_losses_are_bounded_and_then_a_person_is_asked() {
    let q = Queue::new().await;
    let (_, task) = q.open().await;
    for loss in 1..=3 {
        q.claim_one().await;
        expire(&q).await;
        let rescued = q.store.rescue_expired(std::time::Duration::ZERO, 2, 100).await.expect("rescue");
        assert_eq!(rescued[0].state, if loss <= 2 { "pending" } else { "blocked" });
    }
    assert!(q.claim(1).await.is_empty());
    assert_eq!(q.one::<i64>("SELECT task_id FROM millhand.inbox").await, task);
    assert!(q.one::<bool>(&format!("SELECT millhand.retry_task({task})")).await);
    assert_eq!(q.claim_one().await.counts.infra_losses, 0);
}

#[tokio::test]
async fn a_new_worker_takes_back_what_its_predecessor_on_the_host_held_and_nothing_else() {
    let q = Queue::new().await;
    let (_, ours) = q.open().await;
    let (_, theirs) = q.open().await;
    let stranger = Uuid::new_v4();
    register(&q.store, stranger, "host-b").await;
    assert_eq!(q.claim_one().await.task_id, ours);
    assert_eq!(super::claim_as(&q.store, stranger, "host-b", 1).await[0].task_id, theirs);

    let successor = Uuid::new_v4();
    register(&q.store, successor, HOST).await;
    let taken = q.store.rescue_host(HOST, 10, successor).await.expect("rescue");
    assert_eq!(taken.iter().map(|t| t.task_id).collect::<Vec<_>>(), [ours]);
    assert_eq!(q.state(theirs).await, "running");
    assert!(
        q.one::<bool>(&format!("SELECT stopped_at IS NOT NULL FROM millhand.workers WHERE id = '{}'", q.worker)).await
    );
}

#[tokio::test]
async fn a_locked_lease_is_neither_lost_nor_renewed() {
    let q = Queue::new().await;
    q.open().await;
    let claimed = q.claim_one().await;
    let mut client = q.client().await;
    let transaction = client.transaction().await.expect("begin");
    transaction.query("SELECT 1 FROM millhand.leases FOR UPDATE", &[]).await.expect("lock");
    let states = q.store.heartbeat(q.worker, &[claimed.token], LEASE, LEASE).await.expect("heartbeat");
    assert_eq!(states.len(), 1);
    assert!(!states[0].renewed);
    transaction.rollback().await.expect("rollback");
    assert!(q.store.heartbeat(q.worker, &[claimed.token], LEASE, LEASE).await.expect("heartbeat")[0].renewed);
}

#[tokio::test]
async fn after_a_restart_of_the_database_every_lease_gets_a_whole_lease_again() {
    let q = Queue::new().await;
    q.open().await;
    q.claim_one().await;
    expire(&q).await;
    // As if the database had just been started: a lease longer than its uptime.
    let long = std::time::Duration::from_secs(30 * 24 * 3600);
    assert!(q.store.rescue_expired(long, 10, 100).await.expect("rescue").is_empty());
}

#[tokio::test]
async fn a_result_whose_commit_was_answered_to_nobody_is_recorded_once() {
    let q = Queue::new().await;
    let (_, task) = q.open().await;
    let claimed = q.claim_one().await;
    let proxy = q.db.proxy().await.expect("proxy");
    let store = Store::new(Connect::plain(q.db.config_through(&proxy), 2)).expect("store");
    let finish = Finish {
        token: claimed.token,
        outcome: "completed",
        error_class: None,
        error_message: None,
        verdict: Verdict::Completed,
        summary: Some("the-reply-to-this-is-lost"),
        host_id: HOST,
    };
    proxy.drop_reply_to("the-reply-to-this-is-lost");
    let lost = store.finish(&finish).await.expect_err("the reply is lost");
    assert!(lost.is_unreachable(), "{lost:?}");
    proxy.reply_dropped().await.expect("dropped");
    assert_eq!(store.finish(&finish).await.expect("again"), Finished::Recorded("completed".to_owned()));
    let row = &q.sql(&format!("SELECT state, attempts, last_attempt FROM millhand.tasks WHERE id = {task}")).await[0];
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1), row.get::<_, i32>(2)), ("completed", 1, 1));
}

#[tokio::test]
async fn a_connection_that_is_gone_without_a_word_costs_one_heartbeat() {
    let q = Queue::new().await;
    q.open().await;
    let claimed = q.claim_one().await;
    let proxy = q.db.proxy().await.expect("proxy");
    let config = q.db.config_through(&proxy);
    let store = Store::new(Connect::plain(config, 2)).expect("store");
    let within = std::time::Duration::from_millis(500);
    let beat = async || store.heartbeat(q.worker, &[claimed.token], LEASE, within).await;
    assert!(beat().await.expect("heartbeat")[0].renewed);
    proxy.black_hole();
    let silent = beat().await.expect_err("nobody answers");
    assert!(silent.is_unreachable(), "{silent}");
    // From here on new connections work, and the old one never says anything again.
    proxy.forward();
    let again = std::time::Duration::from_secs(10);
    assert!(store.heartbeat(q.worker, &[claimed.token], LEASE, again).await.expect("a new connection")[0].renewed);
}

#[tokio::test]
async fn a_task_whose_worker_died_keeps_its_place_before_the_backlog() {
    let q = Queue::new().await;
    let (_, ours) = q.open().await;
    assert_eq!(q.claim_one().await.task_id, ours);
    for _ in 0..10 {
        q.open().await;
    }
    // Restarted, with one place: the turn that may be adopted is the one that goes on.
    let successor = Uuid::new_v4();
    register(&q.store, successor, HOST).await;
    q.store.rescue_host(HOST, 10, successor).await.expect("rescue");
    assert_eq!(super::claim_as(&q.store, successor, HOST, 1).await[0].task_id, ours);
}
