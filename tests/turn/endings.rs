//! Turns that do not complete: each ending is recorded under its own name, and what the agent had changed is kept.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::support::{
    wait_until,
    world::{TURN_WITHIN, World, stop},
};

const SAYS: &str = r#"[{"type": "text", "content": "fine"}, {"type": "done"}]"#;
const STALLS: &str = r#"[
  {"type": "tool_call", "id": "c1", "name": "write", "arguments": {"filePath": "half.txt", "content": "half\n"}},
  {"type": "text", "content": "I begin and then"},
  {"type": "tool_call", "id": "c2", "name": "bash", "arguments": {"command": "sleep 600", "description": "Sleep"}},
  {"type": "text", "content": "never said"}, {"type": "done"}
]"#;

#[tokio::test(flavor = "multi_thread")]
async fn bad_agents_models_and_repositories_come_to_rest_in_the_inbox_in_words() -> Result<()> {
    let world = World::new(&[("says", SAYS)]).await?;
    std::fs::create_dir_all(world.path().join("plain"))?;
    world.sql(&format!("SELECT millhand.add_project('gone', '{}/nowhere')", world.path().display())).await?;
    world.sql(&format!("SELECT millhand.add_project('plain', '{}/plain')", world.path().display())).await?;
    let host = world.start().await?;
    let cases = [
        ("project, agent", "'acme', 'opencode/nosuch'", "agent_invalid", "nosuch"),
        ("project, model", "'acme', 'scripted/nosuch'", "model_invalid", "millhand models"),
        ("project, model", "'acme', 'nosuch/model'", "model_invalid", "millhand models"),
        ("project", "'gone'", "repository_refused", "nowhere"),
        ("project", "'plain'", "repository_refused", "not a git repository"),
    ];
    for (columns, values, outcome, words) in cases {
        let sql = format!("INSERT INTO millhand.tasks (prompt, {columns}) VALUES ('x', {values}) RETURNING id");
        let task: i64 = world.one(&sql).await?;
        world.settled(task).await?;
        let (state, ended, error) = world.verdict(task).await?;
        assert_eq!((state.as_str(), ended.as_str()), ("failed", outcome), "{sql}: {error}");
        ensure!(error.contains(words), "{sql}: {error}");
        let inbox: i64 = world.one(&format!("SELECT count(*) FROM millhand.inbox WHERE task_id = {task}")).await?;
        assert_eq!(inbox, 1);
    }
    assert_eq!(world.model.requests().len(), 0, "nothing was paid for");
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_stops_the_turn_keeps_what_it_changed_and_leaves_the_server_alone() -> Result<()> {
    let world = World::new(&[("stalls", STALLS), ("says", SAYS)]).await?;
    let host = world.start().await?;
    let task = world.queue("x").await?;
    wait_until("the tool runs", TURN_WITHIN, async || {
        world
            .one::<i64>("SELECT count(*) FROM millhand.turn_events WHERE kind = 'tool' AND data->'call'->>'status' = 'running' AND data->'call'->>'tool' = 'bash'")
            .await
            .is_ok_and(|n| n > 0)
    })
    .await?;
    let server = host.backend().server_pid(1).await;
    world.sql(&format!("SELECT millhand.cancel_task({task})")).await?;
    assert_eq!(world.settled(task).await?, "cancelled");
    let (_, outcome, _) = world.verdict(task).await?;
    assert_eq!(outcome, "aborted");
    let kept: String = world.one("SELECT string_agg(path || ' ' || state, ',') FROM millhand.pending_changes").await?;
    assert_eq!(kept, "half.txt pending");
    assert_eq!(host.backend().server_pid(1).await, server);
    let next = world.queue_for("says", "y").await?;
    assert_eq!(world.settled(next).await?, "completed");
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_provider_is_tried_again_and_then_a_person_is_asked() -> Result<()> {
    let script = r#"[{"type": "http", "status": 400}, {"type": "text", "content": "never"}, {"type": "done"}]"#;
    let world = World::new(&[("refuses", script)]).await?;
    let host = world.start().await?;
    let task = world.queue("x").await?;
    assert_eq!(world.settled(task).await?, "failed");
    let (_, outcome, error) = world.verdict(task).await?;
    assert_eq!(outcome, "provider_error", "{error}");
    assert_eq!(world.one::<String>("SELECT error_class FROM millhand.inbox").await?, "refused");
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_takes_too_long_is_stopped_and_says_so() -> Result<()> {
    let mut world = World::new(&[("stalls", STALLS)]).await?;
    world.settings.timings.turn_limit = Duration::from_secs(4);
    world.sql("UPDATE millhand.projects SET max_attempts = 1").await?;
    let host = world.start().await?;
    let task = world.queue("x").await?;
    assert_eq!(world.settled(task).await?, "failed");
    let (_, outcome, error) = world.verdict(task).await?;
    assert_eq!(outcome, "timed_out", "{error}");
    stop(host).await;
    Ok(())
}
