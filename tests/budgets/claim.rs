//! What has reached a limit is not claimed, says why, and goes on by itself.

use std::time::Duration;

use millhand::{
    model::{budget::Amount, outcome::ErrorClass, retry::Verdict, usage::StepUsage},
    store::{
        queue::{Claimed, Finish},
        turns::Owner,
    },
};
use rust_decimal::Decimal;

use crate::queue::{HOST, Queue};

/// What a worker does: what budgets let pass is claimed.
async fn claim(q: &Queue) -> Vec<Claimed> {
    let (_, lanes, gate) = q.store.advance_and_list_lanes().await.expect("advance");
    let project = |lane: &String| lane.split('/').nth(1).and_then(|id| id.parse().ok()).expect("a lane");
    let lanes: Vec<_> = lanes.into_iter().filter(|lane| gate.lets(project(lane))).collect();
    if gate.has_own_limits() {
        while q.store.block_over_budget(&lanes, 4).await.expect("block") > 0 {}
    }
    q.store.claim(&lanes, 4, q.worker, HOST, Duration::from_secs(20)).await.expect("claim")
}

async fn spend(q: &Queue, claimed: &Claimed, step: &str, cents: i64) {
    let owner = Owner {
        attempt_id: claimed.attempt_id,
        task_id: claimed.task_id,
        session_id: claimed.session_id,
        project: &claimed.project,
        agent: "opencode",
    };
    let step = StepUsage {
        agent_session: format!("ses_{}", claimed.task_id),
        message_id: step.to_owned(),
        model: "m".to_owned(),
        input_tokens: 1000,
        cost_usd: Some(Decimal::new(cents, 2)),
        ..StepUsage::default()
    };
    q.store.record_usage(owner, &[step]).await.expect("recorded");
}

async fn stop_over_budget(q: &Queue, claimed: &Claimed) {
    let finish = Finish {
        token: claimed.token,
        outcome: "over_budget",
        error_class: Some(ErrorClass::Budget),
        error_message: Some("over budget"),
        verdict: Verdict::Asks,
        summary: None,
        host_id: HOST,
    };
    q.store.finish(&finish).await.expect("finish");
}

async fn limit(q: &Queue, project: Option<&str>, per: &str, amount: &str) {
    let (usd, tokens) = match amount.parse().expect("an amount") {
        Amount::Usd(usd) => (Some(Some(usd)), None),
        Amount::Tokens(tokens) => (None, Some(Some(tokens))),
        Amount::None => (Some(None), Some(None)),
    };
    q.store.set_budget(project, per, usd, tokens).await.expect("set");
}

async fn inbox(q: &Queue) -> Vec<(i64, String, String)> {
    let rows =
        q.sql("SELECT task_id, state, error_class || ': ' || error_message FROM millhand.inbox ORDER BY task_id").await;
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

#[tokio::test]
async fn a_project_over_its_day_is_not_claimed_and_says_why_and_others_are() {
    let q = Queue::new().await;
    q.sql("SELECT millhand.add_project('other', '/src/other')").await;
    let (_, first) = q.open().await;
    limit(&q, Some("acme"), "day", "1").await;
    let claimed = claim(&q).await.pop().expect("claimed");
    spend(&q, &claimed, "1", 100).await;
    q.finish(&claimed, Verdict::Completed).await;
    let (_, second) = q.open().await;
    q.sql("INSERT INTO millhand.tasks (project, prompt) VALUES ('other', 'x')").await;
    let claimed: Vec<_> = claim(&q).await.into_iter().map(|claimed| claimed.project).collect();
    assert_eq!((claimed, q.state(second).await.as_str()), (vec!["other".to_owned()], "pending"));
    let words = "over budget: project acme spent $1 of $1 today (UTC); goes on tomorrow, or when the budget is raised: millhand budget";
    assert_eq!(inbox(&q).await, [(second, "pending".to_owned(), format!("budget: {words}"))]);
    assert_eq!(q.store.budgets_over().await.expect("over"), [(Some("acme".to_owned()), words.to_owned())]);

    // A new day: what was spent was spent yesterday.
    q.sql("UPDATE millhand.usage SET created_at = created_at - interval '1 day'").await;
    assert_eq!(claim(&q).await.len(), 1);
    assert_eq!(q.state(first).await, "completed");
}

#[tokio::test]
async fn a_limit_of_all_projects_closes_all_and_nothing_runs_under_a_limit_of_nothing() {
    let q = Queue::new().await;
    let (_, task) = q.open().await;
    limit(&q, None, "day", "0").await;
    assert!(claim(&q).await.is_empty());
    assert!(inbox(&q).await[0].2.contains("all projects spent $0 of $0 today"), "{:?}", inbox(&q).await);
    limit(&q, None, "day", "none").await;
    assert_eq!(claim(&q).await[0].task_id, task);
}

#[tokio::test]
async fn a_total_outlasts_the_day_and_a_change_of_name() {
    let q = Queue::new().await;
    q.open().await;
    limit(&q, Some("acme"), "total", "500tok").await;
    let claimed = claim(&q).await.pop().expect("claimed");
    spend(&q, &claimed, "1", 1).await;
    q.finish(&claimed, Verdict::Completed).await;
    q.sql("UPDATE millhand.usage SET created_at = created_at - interval '40 days'").await;
    q.sql("UPDATE millhand.projects SET name = 'renamed'").await;
    q.sql("INSERT INTO millhand.tasks (project, prompt) VALUES ('renamed', 'x')").await;
    assert!(claim(&q).await.is_empty());
    assert!(inbox(&q).await[0].2.contains("project renamed used 1000 of 500 tokens;"), "{:?}", inbox(&q).await);
}

#[tokio::test]
async fn a_task_over_its_own_limit_is_blocked_by_the_claim_that_meets_it_and_freed_when_that_is_raised() {
    let q = Queue::new().await;
    let (session, task) = q.open().await;
    let behind = q.append(session).await;
    limit(&q, None, "task", "0.50").await;
    let claimed = claim(&q).await.pop().expect("claimed");
    q.sql("UPDATE millhand.tasks SET message_id = 'msg_1'").await;
    spend(&q, &claimed, "1", 60).await;
    assert!(q.store.over_budget(task).await.expect("over").is_some());
    stop_over_budget(&q, &claimed).await;
    assert_eq!(q.state(task).await, "blocked");
    assert_eq!(q.store.release_budget().await.expect("release"), 0, "nothing has changed");

    // A person who retries it all the same does not make it spend more.
    assert!(q.one::<bool>(&format!("SELECT millhand.retry_task({task})")).await);
    assert!(claim(&q).await.is_empty());
    assert_eq!((q.state(task).await.as_str(), q.state(behind).await.as_str()), ("blocked", "waiting"));
    assert!(inbox(&q).await[0].2.contains("the task spent $0.6 of $0.5;"), "{:?}", inbox(&q).await);

    // The project's own limit stands in for that of all.
    limit(&q, Some("acme"), "task", "1").await;
    let again = claim(&q).await.pop().expect("freed by the change itself");
    assert_eq!((again.task_id, again.message_id.as_deref(), again.counts.attempts), (task, Some("msg_1"), 0));
    assert!(!again.asks_before_resend);
}

#[tokio::test]
async fn a_session_over_its_limit_lets_no_further_task_begin() {
    let q = Queue::new().await;
    let (session, first) = q.open().await;
    limit(&q, Some("acme"), "session", "1").await;
    let claimed = claim(&q).await.pop().expect("claimed");
    spend(&q, &claimed, "1", 120).await;
    // It came to its end with the step that reached the limit: that is a result.
    q.finish(&claimed, Verdict::Completed).await;
    let second = q.append(session).await;
    let (_, elsewhere) = q.open().await;
    let claimed: Vec<_> = claim(&q).await.into_iter().map(|claimed| claimed.task_id).collect();
    assert_eq!((claimed, q.state(second).await.as_str()), (vec![elsewhere], "blocked"));
    assert_eq!(q.state(first).await, "completed");
    limit(&q, Some("acme"), "session", "none").await;
    assert_eq!(claim(&q).await[0].task_id, second);
}

#[tokio::test]
async fn a_new_day_frees_what_the_day_before_had_blocked() {
    let q = Queue::new().await;
    let (_, task) = q.open().await;
    limit(&q, Some("acme"), "day", "1").await;
    let claimed = claim(&q).await.pop().expect("claimed");
    spend(&q, &claimed, "1", 100).await;
    stop_over_budget(&q, &claimed).await;
    assert_eq!(q.store.release_budget().await.expect("release"), 0);
    q.sql("UPDATE millhand.usage SET created_at = created_at - interval '1 day'").await;
    assert_eq!(q.store.release_budget().await.expect("release"), 1);
    let again = claim(&q).await.pop().expect("claimed again");
    assert_eq!((again.task_id, again.number, again.counts.attempts), (task, 2, 0), "nothing was charged");
    let paid: Decimal = q.one("SELECT cost_usd FROM millhand.tasks").await;
    assert_eq!(paid, Decimal::ONE, "and what was spent is recorded");
}

#[tokio::test]
async fn plain_sql_sets_limits_and_nonsense_is_refused() {
    let q = Queue::new().await;
    let client = q.client().await;
    let refused = async |sql: &str| {
        let error = client.batch_execute(sql).await.expect_err(sql);
        error.as_db_error().and_then(|error| error.constraint().map(str::to_owned)).unwrap_or_default()
    };
    let insert = "INSERT INTO millhand.budgets (project, per, limit_usd, limit_tokens) VALUES";
    for (values, constraint) in [
        ("('acme', 'week', 1, NULL)", "budgets_per"),
        ("('acme', 'day', -1, NULL)", "budgets_limit_usd"),
        ("('acme', 'day', NULL, -1)", "budgets_limit_tokens"),
        ("('acme', 'day', NULL, NULL)", "budgets_limit"),
        ("(NULL, 'total', 1, NULL)", "budgets_total"),
        ("('nobody', 'day', 1, NULL)", "budgets_project_fkey"),
        ("(NULL, 'day', 1, NULL), (NULL, 'day', 2, NULL)", "budgets_key"),
    ] {
        assert_eq!(refused(&format!("{insert} {values}")).await, constraint, "{values}");
    }
    assert_eq!(
        refused("INSERT INTO millhand.prices (model, input, output) VALUES ('a*b', 1, 1)").await,
        "prices_model_form"
    );
    client
        .batch_execute(&format!("{insert} ('acme', 'day', 5, NULL); DELETE FROM millhand.budgets"))
        .await
        .expect("set");
    let noted: String =
        q.one("SELECT string_agg(action, ' ' ORDER BY id) FROM millhand.audit_log WHERE action LIKE '%budget'").await;
    assert_eq!(noted, "set_budget clear_budget");
}
