//! Turns that go on in their conversation, or do not: after the agent's limit of steps, and after its server was lost.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::support::{
    wait_until,
    world::{TURN_WITHIN, World, stop},
};

/// The first turn uses its two steps up. (With the last of them opencode adds a message of its own to the conversation, so that
/// the model's next one is the third.) The second turn comes to an end.
const LIMITED: &str = r#"[
  {"type": "text", "content": "I begin."},
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "echo one >> steps.txt", "description": "One"}},
  {"type": "usage", "input": 100, "output": 10},
  {"type": "text", "content": "Never said."},
  {"type": "tool_call", "id": "c2", "name": "bash", "arguments": {"command": "echo never >> steps.txt", "description": "Never"}},
  {"type": "text", "content": "I had to stop; two is missing."},
  {"type": "usage", "input": 200, "output": 20},
  {"type": "done"},
  {"type": "text", "content": "I go on: {{prompt}}"},
  {"type": "usage", "input": 300, "output": 30},
  {"type": "done"}
]"#;

/// A world whose opencode stops after two steps.
async fn two_steps(resumes: i32) -> Result<World> {
    let mut world = World::new(&[("limited", LIMITED)]).await?;
    let config = world.settings.opencode.config.take().context("a configuration")?;
    let mut config: Value = serde_json::from_str(&config)?;
    config["agent"] = json!({"build": {"steps": 2}});
    world.settings.opencode.config = Some(config.to_string());
    world.settings.opencode.step_resumes = resumes;
    Ok(world)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_used_up_its_steps_is_told_to_go_on_and_every_step_is_seen_and_counted() -> Result<()> {
    let world = two_steps(1).await?;
    let host = world.start().await?;
    let task = world.queue("x").await?;
    ensure!(world.settled(task).await? == "completed", "{:?}", world.verdict(task).await?);
    let row = &world
        .sql("SELECT t.last_attempt, t.tokens, t.output_summary, a.outcome FROM millhand.tasks t JOIN millhand.attempts a ON a.task_id = t.id")
        .await?[0];
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i64>(1), row.get::<_, &str>(3)), (1, 660, "completed"));
    ensure!(row.get::<_, &str>(2).starts_with("I go on: You were cut off"), "{}", row.get::<_, &str>(2));
    let told: String = world
        .one(
            "SELECT string_agg(coalesce(data->>'text', data->>'message'), ' | ' ORDER BY seq) FROM millhand.turn_events \
             WHERE kind = 'text' OR data->>'message' LIKE '%limit of steps%'",
        )
        .await?;
    let expected = "I begin. | I had to stop; two is missing. | the agent stopped at its limit of steps; it is told to go on (1 of 1) | I go on:";
    ensure!(told.starts_with(expected), "{told}");
    assert_eq!(world.one::<i64>("SELECT count(*) FROM millhand.usage").await?, 3);
    let sessions: i64 = world.one("SELECT count(DISTINCT agent_session) FROM millhand.usage").await?;
    assert_eq!(sessions, 1);
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_budget_what_the_steps_allowed_is_kept_with_a_warning() -> Result<()> {
    let world = two_steps(0).await?;
    let host = world.start().await?;
    let task = world.queue("x").await?;
    ensure!(world.settled(task).await? == "completed", "{:?}", world.verdict(task).await?);
    assert_eq!(world.model.requests().len(), 2);
    let warned: i64 = world
        .one("SELECT count(*) FROM millhand.turn_events WHERE kind = 'warning' AND data->>'message' LIKE '%limit of steps%'")
        .await?;
    assert_eq!(warned, 1);
    ensure!(!world.patch(task).await?.is_empty());
    stop(host).await;
    Ok(())
}

const SLOW: &str = r#"[
  {"type": "text", "content": "I start."},
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "while [ ! -e ../go ]; do sleep 0.1; done; echo ended > ended.txt", "description": "Work"}},
  {"type": "text", "content": "finished"}, {"type": "done"}
]"#;

fn signal(name: &str, pid: u32) -> Result<()> {
    let status = std::process::Command::new("kill").args([name, &pid.to_string()]).status()?;
    ensure!(status.success(), "kill {name} {pid}: {status}");
    Ok(())
}

/// Waits until an attempt's tool runs.
async fn tool_runs(world: &World, attempt: i32) -> Result<()> {
    let sql = format!(
        "SELECT count(*) FROM millhand.turn_events e JOIN millhand.attempts a ON a.id = e.attempt_id \
         WHERE a.number = {attempt} AND kind = 'tool' AND data->'call'->>'status' = 'running'"
    );
    wait_until(&format!("the tool of attempt {attempt} runs"), TURN_WITHIN, async || {
        world.one::<i64>(&sql).await.is_ok_and(|n| n > 0)
    })
    .await
}

/// Lets the tool of [`SLOW`] end.
async fn go(world: &World) -> Result<()> {
    let path: String = world.one("SELECT path FROM millhand.worktrees").await?;
    std::fs::write(std::path::Path::new(&path).with_file_name("go"), "")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_loses_its_server_again_and_again_is_not_resumed() -> Result<()> {
    let world = World::new(&[("slow", SLOW)]).await?;
    let host = world.start().await?;
    let task = world.queue("x").await?;
    for attempt in 1..=3 {
        tool_runs(&world, attempt).await?;
        signal("-KILL", host.backend().server_pid(1).await.context("a server")?)?;
    }
    tool_runs(&world, 4).await?;
    go(&world).await?;
    ensure!(world.settled(task).await? == "completed", "{:?}", world.verdict(task).await?);
    let sessions: Vec<String> = world
        .sql("SELECT agent_session FROM millhand.attempts ORDER BY number")
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(sessions.len(), 4);
    ensure!(sessions[0] == sessions[1] && sessions[1] == sessions[2] && sessions[2] != sessions[3], "{sessions:?}");
    let row = &world.sql("SELECT attempts, infra_losses FROM millhand.tasks").await?[0];
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1)), (1, 3), "nothing of it is charged");
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_is_ended_and_its_task_goes_on() -> Result<()> {
    let mut world = World::new(&[("slow", SLOW)]).await?;
    world.settings.timings.stream_silence = Duration::from_secs(12);
    world.settings.timings.server_grace = Duration::from_secs(3);
    world.settings.timings.server_request = Duration::from_secs(3);
    let host = world.start().await?;
    let task = world.queue("x").await?;
    tool_runs(&world, 1).await?;
    let pid = host.backend().server_pid(1).await.context("a server")?;
    signal("-STOP", pid)?;
    tool_runs(&world, 2).await?;
    ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "two servers work for one task");
    go(&world).await?;
    ensure!(world.settled(task).await? == "completed", "{:?}", world.verdict(task).await?);
    let outcomes: String = world.one("SELECT string_agg(outcome, ' ' ORDER BY number) FROM millhand.attempts").await?;
    assert_eq!(outcomes, "server_lost completed");
    stop(host).await;
    Ok(())
}
