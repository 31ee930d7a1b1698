//! A session's line: one head at a time, in order, never stuck.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use millhand::{
    model::retry::Verdict,
    store::turns::{AgentSessionRow, BeforePrompt},
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{AGAIN, HOST, Queue, claim_as, finish_as, register};

#[tokio::test]
async fn a_task_that_opens_its_session_is_its_head_and_the_next_waits_until_it_is_completed() {
    let q = Queue::new().await;
    let (session, first) = q.open().await;
    let second = q.append(session).await;
    assert_eq!((q.state(first).await, q.state(second).await), ("pending".to_owned(), "waiting".to_owned()));

    let claimed = q.claim(10).await;
    assert_eq!(claimed.iter().map(|c| c.task_id).collect::<Vec<_>>(), [first]);
    assert!(q.claim(10).await.is_empty());

    q.finish(&claimed[0], Verdict::Completed).await;
    assert_eq!(q.claim_one().await.task_id, second);
}

#[tokio::test]
async fn a_head_in_backoff_holds_its_line() {
    let q = Queue::new().await;
    let (session, first) = q.open().await;
    let second = q.append(session).await;
    let claimed = q.claim_one().await;
    let wait = Verdict::Again { wait: Duration::from_secs(600), charged: true, infra_loss: false, keep_message: false };
    q.finish(&claimed, wait).await;
    assert!(q.claim(10).await.is_empty());
    assert_eq!((q.state(first).await, q.state(second).await), ("pending".to_owned(), "waiting".to_owned()));
    let due = q.store.next_due().await.expect("due").expect("some");
    assert!((590..=600).contains(&due.as_secs()), "{due:?}");
}

#[tokio::test]
async fn a_failed_task_holds_its_line_until_it_is_dismissed() {
    let q = Queue::new().await;
    let (session, first) = q.open().await;
    let second = q.append(session).await;
    let claimed = q.claim_one().await;
    q.finish(&claimed, Verdict::Failed).await;
    assert!(q.claim(10).await.is_empty());
    let row = &q.sql("SELECT task_id, behind, error_message FROM millhand.inbox").await[0];
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, &str>(2)), (first, 1, "it stalled"));

    assert!(q.one::<bool>(&format!("SELECT millhand.dismiss_task({first})")).await);
    assert!(!q.one::<bool>(&format!("SELECT millhand.dismiss_task({first})")).await, "twice is harmless");
    assert_eq!(q.claim_one().await.task_id, second);
    assert!(q.sql("SELECT 1 FROM millhand.inbox").await.is_empty());
}

#[tokio::test]
async fn where_the_project_says_continue_a_failed_task_holds_nobody() {
    let q = Queue::new().await;
    q.sql("UPDATE millhand.projects SET on_failure = 'continue'").await;
    let (session, _) = q.open().await;
    let second = q.append(session).await;
    let claimed = q.claim_one().await;
    q.finish(&claimed, Verdict::Failed).await;
    assert_eq!(q.claim_one().await.task_id, second);
}

#[tokio::test]
async fn a_retried_task_goes_first_in_its_line_and_appends_an_attempt() {
    let q = Queue::new().await;
    let (session, first) = q.open().await;
    let second = q.append(session).await;
    let claimed = q.claim_one().await;
    q.finish(&claimed, Verdict::Failed).await;
    q.sql(&format!("SELECT millhand.dismiss_task({first})")).await;
    // The second is head by now, but does not run yet: it steps back.
    q.store.advance_and_list_lanes().await.expect("advance");
    assert_eq!(q.state(second).await, "pending");
    assert!(q.one::<bool>(&format!("SELECT millhand.retry_task({first}, 'better words')")).await);
    assert!(!q.one::<bool>(&format!("SELECT millhand.retry_task({first})")).await, "twice is harmless");

    let again = q.claim_one().await;
    assert_eq!((again.task_id, again.number, again.prompt.as_str()), (first, 2, "better words"));
    assert!(q.claim(10).await.is_empty());
    q.finish(&again, Verdict::Completed).await;
    assert_eq!(q.claim_one().await.task_id, second);
    let prompts = q.sql(&format!("SELECT prompt FROM millhand.attempts WHERE task_id = {first} ORDER BY number")).await;
    assert_eq!(prompts.iter().map(|r| r.get::<_, String>(0)).collect::<Vec<_>>(), ["do it", "better words"]);
}

#[tokio::test]
async fn retry_does_nothing_to_a_task_that_runs_waits_or_is_done() {
    let q = Queue::new().await;
    let (session, first) = q.open().await;
    let second = q.append(session).await;
    let retry = async |task: i64| q.one::<bool>(&format!("SELECT millhand.retry_task({task})")).await;
    assert!(!retry(first).await && !retry(second).await);
    let claimed = q.claim_one().await;
    assert!(!retry(first).await);
    q.finish(&claimed, Verdict::Completed).await;
    assert!(!retry(first).await);
}

#[tokio::test]
async fn cancelling_works_in_every_state_and_frees_the_line() {
    let q = Queue::new().await;
    let (session, first) = q.open().await;
    let (second, third, fourth) = (q.append(session).await, q.append(session).await, q.append(session).await);
    let cancel = async |task: i64| q.one::<bool>(&format!("SELECT millhand.cancel_task({task})")).await;
    assert!(cancel(first).await && !cancel(first).await);
    assert!(cancel(third).await);
    let claimed = q.claim_one().await;
    assert_eq!(claimed.task_id, second);
    // While it runs, it is asked for; the heartbeat tells the worker.
    assert!(cancel(second).await && !cancel(second).await);
    let states = q.store.heartbeat(q.worker, &[claimed.token], super::LEASE, super::LEASE).await.expect("heartbeat");
    assert!(states[0].cancelled && states[0].renewed);
    q.finish(&claimed, AGAIN).await;
    assert_eq!(q.state(second).await, "cancelled");
    assert_eq!(q.claim_one().await.task_id, fourth);
}

#[tokio::test]
async fn a_task_that_completed_although_it_was_cancelled_is_completed() {
    let q = Queue::new().await;
    let (_, task) = q.open().await;
    let claimed = q.claim_one().await;
    q.sql(&format!("SELECT millhand.cancel_task({task})")).await;
    q.finish(&claimed, Verdict::Completed).await;
    assert_eq!(q.state(task).await, "completed");
}

#[tokio::test]
async fn bulk_inserts_into_one_session_make_one_nudge_and_one_head() {
    let q = Queue::new().await;
    let (session, _) = q.open().await;
    q.sql(&format!(
        "INSERT INTO millhand.tasks (session_id, prompt) SELECT {session}, 'n' || n FROM generate_series(1, 5000) n"
    ))
    .await;
    assert_eq!(q.one::<i64>("SELECT count(*) FROM millhand.nudges").await, 1);
    assert_eq!(q.claim(10).await.len(), 1);
    assert_eq!(q.one::<i64>("SELECT count(*) FROM millhand.tasks WHERE state = 'waiting'").await, 5000);
}

#[tokio::test]
async fn the_sweep_finds_a_line_that_nobody_nudged() {
    let q = Queue::new().await;
    let (session, _) = q.open().await;
    let second = q.append(session).await;
    let claimed = q.claim_one().await;
    q.finish(&claimed, Verdict::Completed).await;
    q.sql("DELETE FROM millhand.nudges").await;
    assert!(q.claim(1).await.is_empty());
    assert_eq!(q.store.sweep_lines().await.expect("sweep"), 1);
    assert_eq!(q.claim_one().await.task_id, second);
}

/// Concurrent inserts, finishes, cancels, retries and dismissals on few sessions: never stuck, never two heads, never two
/// running. The time is short here; MILLHAND_TEST_SECONDS makes it longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_use_of_few_sessions_leaves_no_task_stuck_and_never_two_heads() {
    const SESSIONS: i64 = 4;
    let seconds = std::env::var("MILLHAND_TEST_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(6);
    let q = Arc::new(Queue::new().await);
    for _ in 0..SESSIONS {
        q.open().await;
    }
    let until = Instant::now() + Duration::from_secs(seconds);
    let finished_inserting = Arc::new(AtomicBool::new(false));
    let mut people = Vec::new();
    for n in 0..6_i64 {
        let q = q.clone();
        people.push(tokio::spawn(async move {
            let client = q.client().await;
            let mut random = u64::try_from(n).unwrap_or(0) + 0x9e37_79b9;
            let mut done = 0_u64;
            while Instant::now() < until {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let (dice, session) = ((random >> 33) % 100, i64::try_from((random >> 41) % 4).unwrap_or(0) + 1);
                let any =
                    format!("(SELECT id FROM millhand.tasks WHERE session_id = {session} ORDER BY random() LIMIT 1)");
                let sql = match dice {
                    // Lines stay short enough to be worked off at the end, however long this goes on.
                    0..=59 => format!(
                        "INSERT INTO millhand.tasks (session_id, prompt) SELECT {session}, 'x' WHERE 40 > \
                         (SELECT count(*) FROM millhand.tasks WHERE session_id = {session} AND state = 'waiting')"
                    ),
                    60..=69 => format!("SELECT millhand.cancel_task({any})"),
                    70..=84 => format!("SELECT millhand.retry_task({any})"),
                    _ => format!("SELECT millhand.dismiss_task({any})"),
                };
                client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
                done += 1;
            }
            done
        }));
    }
    let mut workers = Vec::new();
    for _ in 0..3 {
        let (q, finished_inserting) = (q.clone(), finished_inserting.clone());
        workers.push(tokio::spawn(async move {
            let worker = Uuid::new_v4();
            register(&q.store, worker, HOST).await;
            let (mut runs, mut idle) = (0_u64, 0);
            while idle < 50 {
                let claimed = claim_as(&q.store, worker, HOST, 2).await;
                idle = if claimed.is_empty() && finished_inserting.load(Ordering::SeqCst) { idle + 1 } else { 0 };
                for task in claimed {
                    runs += 1;
                    let verdict = match (task.task_id + i64::from(task.number)) % 5 {
                        0 => Verdict::Failed,
                        1 if task.number < 3 => AGAIN,
                        _ => Verdict::Completed,
                    };
                    finish_as(&q.store, &task, verdict).await;
                }
            }
            runs
        }));
    }
    let judge = {
        let (q, finished_inserting) = (q.clone(), finished_inserting.clone());
        tokio::spawn(async move {
            let client = q.client().await;
            while !finished_inserting.load(Ordering::SeqCst) {
                let row = client
                    .query_one(
                        "SELECT coalesce(max(heads), 0), coalesce(max(running), 0) FROM (
                            SELECT count(*) FILTER (WHERE state IN ('pending', 'running', 'blocked')) AS heads,
                                   count(*) FILTER (WHERE state = 'running') AS running
                            FROM millhand.tasks GROUP BY session_id) s",
                        &[],
                    )
                    .await
                    .expect("judge");
                assert!(row.get::<_, i64>(0) <= 1 && row.get::<_, i64>(1) <= 1, "two heads");
            }
        })
    };
    let mut acts = 0;
    for person in people {
        acts += person.await.expect("person");
    }
    // Let go of everything that failed, so that whatever still waits must be able to run.
    q.sql("SELECT millhand.dismiss_task(id) FROM millhand.tasks WHERE state IN ('failed', 'blocked')").await;
    let release = {
        let q = q.clone();
        tokio::spawn(async move {
            let client = q.client().await;
            for _ in 0..2000 {
                let open = client
                    .query_one("SELECT count(millhand.dismiss_task(id)) FROM millhand.tasks WHERE holds_line", &[])
                    .await
                    .expect("dismiss");
                let left = client
                    .query_one(
                        "SELECT count(*) FROM millhand.tasks WHERE state IN ('pending', 'waiting', 'running')",
                        &[],
                    )
                    .await
                    .expect("left");
                if open.get::<_, i64>(0) == 0 && left.get::<_, i64>(0) == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    release.await.expect("release");
    finished_inserting.store(true, Ordering::SeqCst);
    judge.await.expect("judge");
    let mut runs = 0;
    for worker in workers {
        runs += worker.await.expect("worker");
    }
    let stuck: i64 =
        q.one("SELECT count(*) FROM millhand.tasks WHERE state IN ('pending', 'waiting', 'running', 'blocked')").await;
    let leases: i64 = q.one("SELECT count(*) FROM millhand.leases").await;
    assert_eq!((stuck, leases), (0, 0), "after {acts} acts and {runs} runs");
    assert!(acts > 100 && runs > 50, "too little happened to prove anything: {acts} acts, {runs} runs");
    assert_eq!(q.store.sweep_lines().await.expect("sweep"), 0, "a line had to be swept");
}

#[tokio::test]
async fn an_older_task_that_was_retried_goes_before_one_that_is_tried_again_but_not_before_one_that_is_under_way() {
    let q = Queue::new().await;
    let (session, first) = q.open().await;
    let second = q.append(session).await;
    let claimed = q.claim_one().await;
    q.finish(&claimed, Verdict::Failed).await;
    q.sql(&format!("SELECT millhand.dismiss_task({first})")).await;
    let claimed = q.claim_one().await;
    assert_eq!(claimed.task_id, second);
    assert!(q.one::<bool>(&format!("SELECT millhand.retry_task({first})")).await);
    // The nudge of the retry is worked off while the second still runs.
    assert!(q.claim(5).await.is_empty());
    let under_way = Verdict::Again { wait: Duration::ZERO, charged: false, infra_loss: true, keep_message: true };
    q.sql(&format!("UPDATE millhand.tasks SET message_id = 'msg_1' WHERE id = {second}")).await;
    q.finish(&claimed, under_way).await;
    let claimed = q.claim_one().await;
    assert_eq!(claimed.task_id, second, "its message is with the agent");
    q.finish(&claimed, AGAIN).await;
    assert_eq!(q.claim_one().await.task_id, first);
}

#[tokio::test]
async fn where_the_project_says_ask_a_lost_turn_is_sent_again_once_for_each_time_that_a_person_says_so() {
    let q = Queue::new().await;
    let (_, task) = q.open().await;
    assert!(!q.claim_one().await.asks_before_resend);
    lose(&q).await;
    q.sql("UPDATE millhand.projects SET resend = 'ask'").await;
    // Nothing was sent yet: there is nothing to pay for again.
    let claimed = q.claim_one().await;
    assert_eq!((claimed.asks_before_resend, claimed.message_id.as_deref()), (true, None));
    send(&q, &claimed).await;
    lose(&q).await;
    // The next attempt looks whether it was answered, or goes on; it was not, and does not.
    let again = q.claim_one().await;
    assert_eq!((again.asks_before_resend, again.message_id.as_deref()), (true, Some("msg_1")));
    q.finish(&again, Verdict::Asks).await;
    assert_eq!(q.state(task).await, "blocked");
    assert_eq!(q.one::<i64>("SELECT task_id FROM millhand.inbox").await, task);
    let row = &q.sql("SELECT attempts, infra_losses FROM millhand.tasks").await[0];
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1)), (0, 2), "being asked is no loss");

    assert!(q.one::<bool>(&format!("SELECT millhand.retry_task({task})")).await);
    let allowed = q.claim_one().await;
    assert_eq!((allowed.asks_before_resend, allowed.message_id.as_deref()), (false, Some("msg_1")));
    // Lost before it was sent: what a person said still holds.
    lose(&q).await;
    let allowed = q.claim_one().await;
    assert!(!allowed.asks_before_resend);
    send(&q, &allowed).await;
    lose(&q).await;
    let again = q.claim_one().await;
    assert!(again.asks_before_resend, "asked again");
    q.finish(&again, Verdict::Asks).await;
    assert!(q.one::<bool>(&format!("SELECT millhand.retry_task({task}, 'other words')")).await);
    let other = q.claim_one().await;
    assert_eq!((other.message_id.as_deref(), other.prompt.as_str()), (None, "other words"), "another message");
}

async fn send(q: &Queue, claimed: &millhand::store::queue::Claimed) {
    let settled = q.store.settle_session(claimed.token, Some("main"), "c0ffee", HOST, "/wt", "b").await;
    assert!(settled.expect("settled"));
    let session = AgentSessionRow { external_id: "ses_1".to_owned(), config_hash: "c".to_owned() };
    let sent = q
        .store
        .before_prompt(claimed.token, "opencode", "opencode", HOST, &session, "opencode/build", "m", "msg_1")
        .await;
    assert_eq!(sent.expect("sent"), BeforePrompt::Stored);
}

async fn lose(q: &Queue) {
    q.sql("UPDATE millhand.leases SET expires_at = now() - interval '1 minute'").await;
    assert_eq!(q.store.rescue_expired(Duration::ZERO, 10, 10).await.expect("rescue").len(), 1);
}
