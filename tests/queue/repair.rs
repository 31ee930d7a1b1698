//! What should never be, made by SQL by hand, and mended by the sweeps.

use std::time::Duration;

use millhand::store::repair::Repaired;

use super::{AGAIN, Queue, loops};
use crate::support::wait_until;

const GRACE: Duration = Duration::from_secs(40);
const LOSSES: i32 = 5;

async fn repair(q: &Queue) -> Vec<Repaired> {
    q.store.repair(GRACE, LOSSES).await.expect("repair")
}

/// One thing was wrong, and after it was mended nothing is.
async fn mended(q: &Queue, what: &'static str) {
    assert_eq!(repair(q).await, [Repaired { what, count: 1 }]);
    assert_eq!(repair(q).await, []);
    assert_eq!(q.store.counters().all()[&format!("repaired.{what}")], 1);
}

#[tokio::test]
async fn in_a_healthy_queue_there_is_nothing_to_mend() {
    let q = Queue::new().await;
    for n in 0..6 {
        let (session, task) = q.open().await;
        q.append(session).await;
        if n == 5 {
            continue;
        }
        let claimed = q.claim_one().await;
        match n {
            0 => {}
            1 => drop(q.finish(&claimed, AGAIN).await),
            2 => drop(q.finish(&claimed, millhand::model::retry::Verdict::Failed).await),
            3 => drop(q.finish(&claimed, millhand::model::retry::Verdict::Completed).await),
            _ => drop(q.sql(&format!("SELECT millhand.cancel_task({task})")).await),
        }
        assert_eq!(repair(&q).await, []);
    }
    // Long ago: time alone breaks nothing.
    q.sql("UPDATE millhand.tasks SET started_at = now() - interval '1 day'").await;
    q.sql("UPDATE millhand.attempts SET started_at = now() - interval '1 day'").await;
    assert_eq!(repair(&q).await, []);
}

#[tokio::test]
async fn a_lease_of_a_task_that_does_not_run_is_taken_away() {
    let q = Queue::new().await;
    let (session, task) = q.open().await;
    let second = q.append(session).await;
    let claimed = q.claim_one().await;
    q.sql(&format!("UPDATE millhand.tasks SET state = 'completed', finished_at = now() WHERE id = {task}")).await;
    mended(&q, "lease_without_running_task").await;
    assert_eq!(q.one::<String>("SELECT outcome FROM millhand.attempts").await, "lost");
    assert!(q.store.heartbeat(q.worker, &[claimed.token], super::LEASE, super::LEASE).await.expect("beat").is_empty());
    assert_eq!(q.claim_one().await.task_id, second, "its line goes on");
}

#[tokio::test]
async fn a_running_task_without_a_lease_is_given_to_the_next_worker_as_a_loss() {
    let q = Queue::new().await;
    let (_, task) = q.open().await;
    q.claim_one().await;
    q.sql("DELETE FROM millhand.leases").await;
    assert_eq!(repair(&q).await, [], "it may be on its way");
    q.sql("UPDATE millhand.tasks SET started_at = now() - interval '2 minutes'").await;
    mended(&q, "running_task_without_lease").await;
    let again = q.claim_one().await;
    assert_eq!((again.task_id, again.number, again.counts.infra_losses), (task, 2, 1));
    assert_eq!(q.one::<String>("SELECT outcome FROM millhand.attempts WHERE number = 1").await, "lost");
}

#[tokio::test]
async fn an_attempt_whose_end_was_never_recorded_gets_one() {
    let q = Queue::new().await;
    q.open().await;
    let claimed = q.claim_one().await;
    q.finish(&claimed, AGAIN).await;
    q.claim_one().await;
    q.sql("UPDATE millhand.attempts SET ended_at = NULL, outcome = NULL, started_at = now() - interval '2 minutes' WHERE number = 1").await;
    mended(&q, "attempt_without_end").await;
    let open = "SELECT number FROM millhand.attempts WHERE ended_at IS NULL";
    assert_eq!(q.one::<i32>(open).await, 2, "the running one is left alone");
}

#[tokio::test]
async fn a_head_without_a_lane_is_found_again() {
    let q = Queue::new().await;
    let (_, task) = q.open().await;
    q.sql("UPDATE millhand.tasks SET lane = NULL").await;
    assert!(q.claim(1).await.is_empty());
    mended(&q, "head_without_lane").await;
    assert_eq!(q.claim_one().await.task_id, task);
}

#[tokio::test]
async fn a_line_is_held_by_failed_tasks_only() {
    let q = Queue::new().await;
    let (session, _) = q.open().await;
    let second = q.append(session).await;
    let claimed = q.claim_one().await;
    q.finish(&claimed, millhand::model::retry::Verdict::Completed).await;
    q.sql("UPDATE millhand.tasks SET holds_line = true WHERE state = 'completed'").await;
    assert!(q.claim(1).await.is_empty());
    mended(&q, "line_held_by_no_failure").await;
    assert_eq!(q.claim_one().await.task_id, second);
}

#[tokio::test]
async fn a_lost_nudge_is_made_up_for() {
    let q = Queue::new().await;
    let (session, _) = q.open().await;
    let second = q.append(session).await;
    let claimed = q.claim_one().await;
    q.finish(&claimed, millhand::model::retry::Verdict::Completed).await;
    q.sql("DELETE FROM millhand.nudges").await;
    assert_eq!(repair(&q).await, [Repaired { what: "line_without_nudge", count: 1 }]);
    assert_eq!(q.claim_one().await.task_id, second);
    assert_eq!(repair(&q).await, []);
}

#[tokio::test]
async fn a_head_that_overtook_an_older_task_without_a_nudge_steps_back() {
    let q = Queue::new().await;
    let (session, first) = q.open().await;
    let second = q.append(session).await;
    q.sql("DELETE FROM millhand.nudges").await;
    q.sql(&format!("UPDATE millhand.tasks SET state = 'waiting', lane = NULL WHERE id = {first}")).await;
    q.sql(&format!(
        "UPDATE millhand.tasks SET state = 'pending', lane = millhand.lane_of(session_id, agent) WHERE id = {second}"
    ))
    .await;
    assert_eq!(repair(&q).await, [Repaired { what: "line_without_nudge", count: 1 }]);
    assert_eq!(q.claim_one().await.task_id, first);
}

#[tokio::test]
async fn a_worktree_that_nobody_uses_is_ready() {
    let q = Queue::new().await;
    let (session, _) = q.open().await;
    let claimed = q.claim_one().await;
    assert!(
        q.store.settle_session(claimed.token, Some("main"), "abc", super::HOST, "/w/s1", "m/s1").await.expect("settle")
    );
    q.sql("UPDATE millhand.worktrees SET last_used_at = now() - interval '2 minutes'").await;
    assert_eq!(repair(&q).await, [], "its session has a lease");
    // A rescue says so itself.
    q.sql("UPDATE millhand.leases SET expires_at = now() - interval '1 minute'").await;
    q.store.rescue_expired(Duration::ZERO, LOSSES, 10).await.expect("rescue");
    let state = format!("SELECT state FROM millhand.worktrees WHERE session_id = {session}");
    assert_eq!(q.one::<String>(&state).await, "ready");
    q.sql("UPDATE millhand.worktrees SET state = 'in_use'").await;
    mended(&q, "worktree_used_by_nobody").await;
    assert_eq!(q.one::<String>(&state).await, "ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_mends_and_takes_away_what_is_old_by_itself_and_tells_how_often() {
    let q = Queue::new().await;
    let (_, task) = q.open().await;
    q.claim_one().await;
    q.sql("DELETE FROM millhand.leases").await;
    q.sql("UPDATE millhand.tasks SET started_at = now() - interval '2 minutes'").await;
    q.sql("SELECT millhand.make_event_day((now() AT TIME ZONE 'UTC')::date - 40)").await;
    let timings = millhand::config::Timings { prune: Duration::from_millis(200), ..loops::quick() };
    let (worker, _) = loops::start(&q, Duration::ZERO, true, timings).await;
    loops::until_state(&q, task, "completed").await;
    let sql = format!("SELECT counters::text FROM millhand.workers WHERE id = '{}'", worker.id());
    let expected =
        [r#""repaired.running_task_without_lease": 1"#, r#""event_days_dropped": 1"#, r#""finished.completed": 1"#];
    wait_until("the counts are told", Duration::from_secs(10), async || {
        let told: String = q.one(&sql).await;
        expected.iter().all(|count| told.contains(count))
    })
    .await
    .expect("told");
    // Today and the days to come.
    assert_eq!(
        q.one::<i64>("SELECT count(*) FROM pg_inherits WHERE inhparent = 'millhand.turn_events'::regclass").await,
        4
    );
    loops::stop(worker).await;
}
