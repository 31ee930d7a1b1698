//! The sums are those of the steps, whoever records them, in whatever order, as often as they like.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use millhand::{
    model::usage::StepUsage,
    store::{
        costs::{CostBy, CostFilter},
        turns::Owner,
    },
};
use rust_decimal::Decimal;

use crate::queue::Queue;

/// What the sums have that the steps have not, or the other way round.
const DIFFERENCES: &str = "
    WITH steps AS (
        SELECT (created_at AT TIME ZONE 'UTC')::date AS day, coalesce(project_id, 0) AS project_id, project, agent, model, count(*) AS steps,
               count(*) FILTER (WHERE cost_usd IS NULL) AS unknown_steps, sum(input_tokens)::bigint AS input_tokens,
               sum(output_tokens)::bigint AS output_tokens, sum(reasoning_tokens)::bigint AS reasoning_tokens,
               sum(cache_read_tokens)::bigint AS cache_read_tokens, sum(cache_write_tokens)::bigint AS cache_write_tokens,
               coalesce(sum(cost_usd), 0) AS cost_usd
        FROM millhand.usage GROUP BY 1, 2, 3, 4, 5
    ), sums AS (
        SELECT day, project_id, project, agent, model, steps, unknown_steps, input_tokens, output_tokens, reasoning_tokens, cache_read_tokens,
               cache_write_tokens, cost_usd
        FROM millhand.spending WHERE steps <> 0
    )
    SELECT count(*) FROM ((SELECT * FROM steps EXCEPT SELECT * FROM sums) UNION ALL (SELECT * FROM sums EXCEPT SELECT * FROM steps)) d";

fn step(session: &str, message: String, model: &str, cost: Option<i64>) -> StepUsage {
    StepUsage {
        agent_session: session.to_owned(),
        message_id: message,
        model: model.to_owned(),
        input_tokens: 10,
        output_tokens: 3,
        reasoning_tokens: 2,
        cache_read_tokens: 5,
        cache_write_tokens: 1,
        cost_usd: cost.map(|cost| Decimal::new(cost, 6)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_sums_are_those_of_the_steps_whoever_records_them_at_once() {
    let q = Queue::new().await;
    let mut tasks = Vec::new();
    for _ in 0..8 {
        tasks.push(q.open().await.1);
    }
    // Steps of attempts that are not there: only the sums matter here.
    q.sql("ALTER TABLE millhand.usage DROP CONSTRAINT usage_attempt_id_fkey").await;
    // Two record each task's steps at the same time, as a turn and its report do: several models, in different orders, some again.
    let mut writers = Vec::new();
    for (n, task) in tasks.iter().flat_map(|task| [(0, *task), (1, *task)]) {
        let store = q.store.clone();
        writers.push(tokio::spawn(async move {
            let session = format!("ses_{task}");
            let owner = Owner { attempt_id: 0, task_id: task, session_id: task, project: "acme", agent: "opencode" };
            let steps: Vec<_> = (0..30)
                .map(|i| {
                    let i = if n == 0 { i } else { 29 - i };
                    step(&session, format!("m{i}"), ["a", "b", "c"][i % 3], (i % 7 != 0).then_some(100))
                })
                .collect();
            for slice in steps.chunks(4) {
                store.record_usage(Owner { attempt_id: 0, ..owner }, slice).await.expect("recorded");
            }
            store.record_usage(owner, &steps).await.expect("recorded again");
        }));
    }
    for writer in writers {
        writer.await.expect("written");
    }
    assert_eq!(q.one::<i64>(DIFFERENCES).await, 0);
    let row = &q.sql("SELECT tasks, steps, unknown_steps, input_tokens FROM millhand.cost_by_project").await[0];
    let counts: [i64; 4] = std::array::from_fn(|at| row.get(at));
    assert_eq!(counts, [8, 240, 40, 2400], "each task and each step once");

    q.sql("UPDATE millhand.usage SET cost_usd = 1 WHERE cost_usd IS NULL").await;
    q.sql("UPDATE millhand.usage SET created_at = created_at - interval '1 day' WHERE model = 'a'").await;
    q.sql("DELETE FROM millhand.usage WHERE model = 'b'").await;
    assert_eq!(q.one::<i64>(DIFFERENCES).await, 0);
    q.sql("DELETE FROM millhand.projects").await;
    assert_eq!(q.one::<i64>(DIFFERENCES).await, 0, "what was paid outlives its project");
    q.sql("SELECT millhand.rebuild_spending()").await;
    assert_eq!(q.one::<i64>(DIFFERENCES).await, 0);
}

#[tokio::test]
async fn what_nobody_knows_is_unknown_until_somebody_says_what_it_costs() {
    let q = Queue::new().await;
    q.sql("INSERT INTO millhand.prices (model, input, output, cache_read, overrides) VALUES ('local/*', 0, 0, NULL, false), \
           ('local/dear', 1000, 2000, 100, false), ('mine/x', 1, 1, 1, true)")
        .await;
    let (_, task) = q.open().await;
    q.sql("ALTER TABLE millhand.usage DROP CONSTRAINT usage_attempt_id_fkey").await;
    let owner = Owner { attempt_id: 0, task_id: task, session_id: 1, project: "acme", agent: "opencode" };
    let untold = |message: &str, model: &str| StepUsage {
        input_tokens: 0,
        output_tokens: 0,
        reasoning_tokens: 0,
        cache_read_tokens: 0,
        cache_write_tokens: 0,
        ..step("s", message.to_owned(), model, None)
    };
    let steps = [
        step("s", "1".to_owned(), "new/model", None),
        step("s", "2".to_owned(), "local/small", None),
        // 10 input and 1 written at 1000, 3 output and 2 reasoning at 2000, 5 read at 100, each per million.
        step("s", "3".to_owned(), "local/dear", None),
        step("s", "4".to_owned(), "local/dear", Some(7)),
        step("s", "5".to_owned(), "mine/x", Some(7)),
        untold("6", "local/dear"),
        untold("7", "local/small"),
    ];
    q.store.record_usage(owner, &steps).await.expect("recorded");
    let rows = q.sql("SELECT cost_usd FROM millhand.usage ORDER BY message_id").await;
    let costs: Vec<Option<Decimal>> = rows.iter().map(|row| row.get(0)).collect();
    let usd = |nanos| Some(Decimal::new(nanos, 9));
    assert_eq!(costs, [None, usd(0), usd(21_500_000), usd(7_000), usd(21_000), None, usd(0)]);
    let total = q.store.cost_in_total(&CostFilter::default()).await.expect("total");
    assert_eq!((total.unknown_steps, total.cost_usd), (2, Decimal::new(21_528, 6)));
}

/// Rows as a year of work leaves them.
const MUCH: &str = "
    SET session_replication_role = replica;
    INSERT INTO millhand.projects (name, source) SELECT 'p' || n, '/src/' || n FROM generate_series(1, 9) n;
    INSERT INTO millhand.sessions (project, title) SELECT 'p' || (1 + n % 9), 's' FROM generate_series(1, 20000) n;
    INSERT INTO millhand.chats (session_id) SELECT id FROM millhand.sessions;
    INSERT INTO millhand.tasks (project, session_id, chat_id, prompt, agent, max_attempts, state, tokens, cost_usd, finished_at, created_at)
        SELECT 'p' || (1 + s % 9), s, s, 'x', 'opencode', 3, 'completed', 30, 0.001, now(), now() - (60000 - n) * interval '5 minutes'
        FROM generate_series(1, 60000) n, LATERAL (SELECT 1 + n / 3 % 20000 AS s) x;
    INSERT INTO millhand.usage (task_id, project, project_id, agent, model, agent_session, message_id, input_tokens, output_tokens, cost_usd, created_at)
        SELECT t.id, t.project, 1, 'opencode', 'provider/m' || (t.id % 6), 'ses_' || t.id, 'm' || n, 10, 5, 0.0005, t.created_at
        FROM millhand.tasks t, generate_series(1, 2) n;
    INSERT INTO millhand.sessions (project, title) SELECT 'p1', 's' FROM generate_series(1, 20000) n;
    INSERT INTO millhand.tasks (project, session_id, chat_id, prompt, agent, max_attempts, state, lane)
        SELECT 'p1', s.id, 1, 'x', 'opencode', 3, 'pending', '*/2/opencode' FROM millhand.sessions s WHERE s.id > 20000;
    SET session_replication_role = origin;
    SELECT millhand.rebuild_spending();
    ANALYZE";

#[tokio::test]
async fn sums_read_as_many_rows_as_there_are_days_and_models_however_many_steps_there_are() {
    let q = Queue::new().await;
    let client = q.client().await;
    client.batch_execute(MUCH).await.expect("rows");
    let sums: i64 = q.one("SELECT count(*) FROM millhand.spending").await;
    assert!(sums < 20_000, "{sums}");
    let mut slowest = (Duration::ZERO, "");
    for by in [CostBy::Project, CostBy::Agent, CostBy::Model, CostBy::Day, CostBy::Session, CostBy::Task] {
        let began = Instant::now();
        let rows = q.store.costs(by, &CostFilter::default(), 30).await.expect("costs");
        assert!(!rows.is_empty(), "{by:?}");
        slowest = slowest.max((began.elapsed(), by.as_str()));
    }
    println!("slowest of the sums: {slowest:?}");
    // The plans, which do not depend on how busy the machine is.
    for sql in [
        "SELECT * FROM millhand.cost_by_project",
        "SELECT * FROM millhand.cost_by_day",
        "SELECT * FROM millhand.budget_state",
    ] {
        let plan = explained(&q, sql).await;
        assert!(!plan.contains("on usage") && !plan.contains("on tasks"), "{sql}: {plan}");
    }
    for file in [
        include_str!("../../worker/src/store/sql/cost_of_tasks.sql"),
        include_str!("../../worker/src/store/sql/cost_of_sessions.sql"),
    ] {
        let plan = explained(&q, &file.replace("$1", "NULL").replace("$2", "NULL").replace("$3", "30")).await;
        assert!(!plan.contains("Seq Scan on usage") && !plan.contains("Seq Scan on tasks"), "{plan}");
    }
    q.sql("INSERT INTO millhand.budgets (project, per, limit_usd) VALUES (NULL, 'day', 0), ('p1', 'task', 1), ('p1', 'session', 1)").await;
    let plan = explained(&q, "SELECT millhand.over_budget(5)").await;
    assert!(!plan.is_empty());
    assert!(q.one::<i64>("SELECT count(*) FROM millhand.inbox").await <= 20, "not every task that waits");
}

async fn explained(q: &Queue, sql: &str) -> String {
    let rows = q.sql(&format!("EXPLAIN {sql}")).await;
    rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_price_that_changes_while_steps_are_recorded_leaves_steps_and_sums_alike() {
    let q = Queue::new().await;
    let (_, task) = q.open().await;
    q.sql("ALTER TABLE millhand.usage DROP CONSTRAINT usage_attempt_id_fkey").await;
    let changes = Arc::new(AtomicU32::new(0));
    let recording = {
        let (store, changes) = (q.store.clone(), changes.clone());
        tokio::spawn(async move {
            let mut count = 0;
            // As long as it takes until the price has changed often enough in between.
            while count < 120 || changes.load(Ordering::Relaxed) < 20 {
                let n = count;
                count += 1;
                let owner = Owner { attempt_id: 1, task_id: task, session_id: 1, project: "acme", agent: "opencode" };
                let step = step("ses_1", format!("msg_{n}"), "local/model", None);
                store.record_usage(owner, &[step]).await.expect("record");
            }
            count
        })
    };
    let mut price = 0;
    while !recording.is_finished() {
        price += 1;
        q.sql(&format!(
            "INSERT INTO millhand.prices (model, input, output) VALUES ('local/*', {price}, {price}) \
             ON CONFLICT (model) DO UPDATE SET input = excluded.input, output = excluded.output"
        ))
        .await;
        if price % 5 == 0 {
            q.sql("DELETE FROM millhand.prices").await;
        }
        changes.store(price, Ordering::Relaxed);
    }
    let recorded: i64 = recording.await.expect("recorded");
    assert_eq!(q.one::<i64>(DIFFERENCES).await, 0);
    assert_eq!(q.one::<i64>("SELECT count(*) FROM millhand.usage").await, recorded);
}
