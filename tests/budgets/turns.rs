//! A limit is held to within the step that each running turn is in, whatever tries to break it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millhand::{
    config::{Home, host_id},
    service::Host,
    supervise::find_family,
};
use rust_decimal::Decimal;
use serde_json::json;

use crate::support::{
    millhand, wait_until, worker,
    world::{TURN_WITHIN, World, stop},
};

/// What each step costs: 100,000 tokens at $3 a million.
const STEP: Decimal = Decimal::from_parts(3, 0, 0, false, 1);

/// Longer than it takes to stop a turn on a busy machine: a step of this length that begins with the limit reached does not end.
const LONG_STEP: u64 = 5000;

/// A turn of so many steps, each of which the model thinks about for so long, and then its last words.
fn steps(count: usize, wait_ms: impl Fn(usize) -> u64) -> String {
    let mut script = Vec::new();
    for n in 1..=count {
        script.push(json!({"type": "wait", "ms": wait_ms(n)}));
        let command = format!("echo {n} >> log.txt");
        let arguments = json!({"command": command, "description": "Write"});
        script.push(json!({"type": "tool_call", "id": format!("c{n}"), "name": "bash", "arguments": arguments}));
        script.push(json!({"type": "usage", "input": 100_000, "output": 0}));
    }
    script.push(json!({"type": "text", "content": "It is done."}));
    script.push(json!({"type": "usage", "input": 100_000, "output": 0}));
    script.push(json!({"type": "done"}));
    json!(script).to_string()
}

fn usd(text: &str) -> Decimal {
    text.parse().expect("number")
}

async fn limit(world: &World, per: &str, amount: &str) -> Result<()> {
    let sql = format!(
        "INSERT INTO millhand.budgets (project, per, limit_usd) VALUES ('acme', '{per}', {amount}) \
         ON CONFLICT ON CONSTRAINT budgets_key DO UPDATE SET limit_usd = excluded.limit_usd"
    );
    world.sql(&sql).await.map(drop)
}

async fn recorded(world: &World) -> Result<Decimal> {
    world.one("SELECT coalesce(sum(cost_usd), 0) FROM millhand.usage").await
}

/// Every answer that was billed is recorded, once: what it cost, or, where it was cut off before the agent knew, that nobody knows.
async fn assert_all_is_recorded(world: &World) -> Result<()> {
    let requests = world.model.requests();
    let whole: u64 = requests.iter().filter(|request| request.complete).map(|request| request.billed.total()).sum();
    let sql = "SELECT sum(input_tokens + output_tokens + reasoning_tokens + cache_read_tokens)::bigint, count(*), \
               count(*) FILTER (WHERE cost_usd IS NULL), sum(cost_usd), (SELECT sum(cost_usd) FROM millhand.spending), \
               (SELECT sum(cost_usd) FROM millhand.tasks) FROM millhand.usage";
    let row = &world.sql(sql).await?[0];
    let [tokens, steps, unknown]: [i64; 3] = std::array::from_fn(|at| row.get(at));
    let sums: [Decimal; 3] = std::array::from_fn(|at| row.get(at + 3));
    let (tokens, unknown) = (u64::try_from(tokens)?, u64::try_from(unknown)?);
    let said = format!(
        "{tokens} tokens and {unknown} of {steps} steps of unknown cost; {whole} were billed by {} answers",
        requests.len()
    );
    // An answer may be whole and its step cut off all the same, in its tool.
    ensure!(tokens <= whole && whole <= tokens + unknown * 100_000, "{said}");
    // One that was cut off may not even have reached the model: the agent does not say.
    ensure!(u64::try_from(steps)? - unknown <= u64::try_from(requests.len())?, "{said}");
    ensure!(sums[0] == sums[1] && sums[0] == sums[2], "steps, sums, tasks: {sums:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_of_many_steps_stops_at_the_limit_with_its_work_kept_and_goes_on_when_it_is_raised() -> Result<()> {
    let world = World::new(&[("steps", &steps(8, |n| if n == 5 { LONG_STEP } else { 200 }))]).await?;
    limit(&world, "day", "1").await?;
    let host = world.start().await?;
    let task = world.queue("x").await?;
    ensure!(world.settled(task).await? == "blocked", "{:?}", world.verdict(task).await?);
    let (_, outcome, error) = world.verdict(task).await?;
    assert_eq!(outcome, "over_budget");
    ensure!(error.starts_with("over budget: project acme spent $1.2 of $1 today"), "{error}");
    let spent = recorded(&world).await?;
    ensure!(spent == usd("1.2"), "{spent}: the step that reached the limit is the last");
    ensure!(world.model.requests().len() <= 5, "{} model calls", world.model.requests().len());
    assert_all_is_recorded(&world).await?;
    let row = &world.sql("SELECT error_class, attempts, infra_losses FROM millhand.tasks").await?[0];
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1), row.get::<_, i32>(2)), ("budget", 0, 0));
    let kept = String::from_utf8(world.patch(task).await?)?;
    ensure!(kept.contains("+4"), "what it did until then can be reviewed: {kept}");
    let server = host.backend().server_pid(1).await.context("its server lives on")?;

    limit(&world, "day", "50").await?;
    wait_until("it goes on", TURN_WITHIN, async || world.state(task).await.is_ok_and(|state| state == "completed"))
        .await?;
    assert_eq!(host.backend().server_pid(1).await, Some(server));
    assert_all_is_recorded(&world).await?;
    assert_eq!(
        world.one::<i64>("SELECT count(DISTINCT agent_session) FROM millhand.attempts").await?,
        1,
        "where it was"
    );
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_of_two_workers_together_hold_one_limit() -> Result<()> {
    let mut world = World::new(&[("steps", &steps(12, |_| LONG_STEP))]).await?;
    world.settings.worker.concurrency = Some(3);
    limit(&world, "day", "3").await?;
    let host = world.start().await?;
    let mut settings = world.settings.clone();
    settings.home = Home::new(world.path().join("other"));
    let other = Host::start(&settings, world.db.store()?, millhand().to_owned()).await?;
    world
        .sql("INSERT INTO millhand.tasks (project, prompt) SELECT 'acme', 'n' || n FROM generate_series(1, 8) n")
        .await?;
    let stopped = "SELECT count(*) FROM millhand.tasks WHERE state = 'blocked' AND error_class = 'budget'";
    wait_until("all turns are stopped", TURN_WITHIN, async || {
        let running = world.one::<i64>("SELECT count(*) FROM millhand.leases").await.unwrap_or(1);
        running == 0 && world.one::<i64>(stopped).await.is_ok_and(|n| n > 0)
    })
    .await?;
    let turns = world.one::<i64>("SELECT count(*) FROM millhand.attempts").await?;
    let workers = world.one::<i64>("SELECT count(DISTINCT worker_id) FROM millhand.attempts").await?;
    ensure!(turns <= 6 && workers == 2, "{turns} turns of {workers} workers");
    let spent = recorded(&world).await?;
    ensure!(spent >= usd("3") && spent <= usd("3") + STEP * Decimal::from(turns), "{spent} by {turns} turns");
    // What was not begun waits, and says why; nobody tries it again and again.
    let waits = "SELECT count(*) FROM millhand.inbox WHERE state = 'pending' AND error_class = 'budget'";
    assert_eq!(world.one::<i64>(waits).await?, 8 - turns);
    assert_all_is_recorded(&world).await?;
    stop(host).await;
    stop(other).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_do_not_get_past_the_limit_of_a_task() -> Result<()> {
    // Every attempt pays for a step, and fails.
    let script = r#"[{"type": "text", "content": "I run out."}, {"type": "usage", "input": 100000, "output": 0},
      {"type": "finish", "reason": "length"}, {"type": "done"}]"#;
    let world = World::new(&[("fails", script)]).await?;
    world.sql("UPDATE millhand.projects SET max_attempts = 50").await?;
    limit(&world, "task", "0.7").await?;
    let host = world.start().await?;
    let task = world.queue("x").await?;
    ensure!(world.settled(task).await? == "blocked", "{:?}", world.verdict(task).await?);
    ensure!(recorded(&world).await? == usd("0.9"), "{}", recorded(&world).await?);
    assert_eq!(world.model.requests().len(), 3);
    world.sql(&format!("SELECT millhand.retry_task({task})")).await?;
    wait_until("refused again", TURN_WITHIN, async || world.state(task).await.is_ok_and(|state| state == "blocked"))
        .await?;
    assert_eq!(world.model.requests().len(), 3, "a retry alone pays for nothing");
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_lowered_stops_the_turn_that_runs() -> Result<()> {
    let script = r#"[{"type": "text", "content": "I start."},
      {"type": "tool_call", "id": "c0", "name": "bash", "arguments": {"command": "echo a > a.txt", "description": "Write"}},
      {"type": "usage", "input": 100000, "output": 0},
      {"type": "text", "content": "Now."},
      {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "touch begun; sleep 100", "description": "Work"}},
      {"type": "usage", "input": 100000, "output": 0},
      {"type": "text", "content": "finished"}, {"type": "done"}]"#;
    let world = World::new(&[("long", script)]).await?;
    limit(&world, "session", "100").await?;
    let host = world.start().await?;
    let task = world.queue("x").await?;
    let worktree = world.settings.home.worktree(1, 1);
    wait_until("the tool runs", TURN_WITHIN, async || worktree.join("begun").exists()).await?;
    limit(&world, "session", "0.1").await?;
    ensure!(world.settled(task).await? == "blocked", "{:?}", world.verdict(task).await?);
    ensure!(
        world.verdict(task).await?.2.contains("the session spent $0.3 of $0.1"),
        "{:?}",
        world.verdict(task).await?
    );
    assert_eq!(world.model.requests().len(), 2);
    // The second step was cut off in its tool: its cost never came.
    let row = &world.sql("SELECT cost_usd, unknown_steps FROM millhand.tasks").await?[0];
    assert_eq!((row.get::<_, Decimal>(0), row.get::<_, i64>(1)), (STEP, 1));
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_at_the_limit_leaves_nothing_that_spends_and_the_next_one_holds_it() -> Result<()> {
    let world = World::new(&[("steps", &steps(20, |n| if n > 3 { LONG_STEP } else { 500 }))]).await?;
    limit(&world, "total", "1").await?;
    let mut killed = worker::start(&world, &[])?;
    let task = world.queue("x").await?;
    wait_until("the limit is near", TURN_WITHIN, async || {
        recorded(&world).await.is_ok_and(|spent| spent >= usd("0.9"))
    })
    .await?;
    killed.kill().await?;
    let scope = host_id(&world.settings.home)?;
    let gone = |scope: &str| find_family(scope).is_empty();
    wait_until("its servers are gone with it", Duration::from_secs(10), async || gone(&scope)).await?;
    let calls = world.model.requests().len();
    ensure!(calls <= 5, "{calls} model calls: what nobody counts is not spent");
    let mut next = worker::start(&world, &[])?;
    ensure!(world.settled(task).await? == "blocked", "{:?} {}", world.verdict(task).await?, worker::log(&world));
    let spent = recorded(&world).await?;
    ensure!(spent >= usd("1") && spent <= usd("1") + STEP, "{spent}");
    // Each kill and each stop cuts one answer off.
    let billed: u64 = world.model.requests().iter().map(|request| request.billed.total()).sum();
    ensure!(billed <= 600_000, "{billed} tokens were billed in all");
    let pid = next.id().context("its process id")?;
    let status = std::process::Command::new("kill").args(["-TERM", &pid.to_string()]).status()?;
    ensure!(status.success());
    tokio::time::timeout(TURN_WITHIN, next.wait()).await??;
    assert_all_is_recorded(&world).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_subagents_spend_counts_while_they_spend_it() -> Result<()> {
    let parent = r#"[{"type": "text", "content": "I delegate."},
      {"type": "tool_call", "id": "t1", "name": "task", "arguments": {"description": "Work", "prompt": "work", "subagent_type": "general"}},
      {"type": "usage", "input": 100000, "output": 0},
      {"type": "text", "content": "It is done."}, {"type": "usage", "input": 100000, "output": 0}, {"type": "done"}]"#;
    let mut world =
        World::new(&[("parent", parent), ("child", &steps(10, |n| if n > 2 { LONG_STEP } else { 500 }))]).await?;
    let mut config: serde_json::Value =
        serde_json::from_str(world.settings.opencode.config.as_deref().context("config")?)?;
    config["agent"] = json!({"general": {"model": "scripted/child"}});
    world.settings.opencode.config = Some(config.to_string());
    limit(&world, "day", "1").await?;
    let host = world.start().await?;
    let task = world.queue("x").await?;
    ensure!(world.settled(task).await? == "blocked", "{:?}", world.verdict(task).await?);
    let spent = recorded(&world).await?;
    ensure!(spent >= usd("1") && spent <= usd("1") + STEP, "{spent}");
    // The parent's own step is under way as long as the subagent is.
    let calls = world.model.requests().len();
    ensure!(calls <= 6, "{calls} model calls");
    stop(host).await;
    Ok(())
}
