//! Many turns at once, and one after another.

use anyhow::{Result, ensure};

use crate::support::world::{World, stop};

const WRITES: &str = r#"[
  {"type": "text", "content": "I write a longer text, so that it comes in many pieces, each of which is a delta of its own."},
  {"type": "tool_call", "id": "call_1", "name": "write", "arguments": {"filePath": "{{prompt}}.txt", "content": "{{prompt}}\n"}},
  {"type": "text", "content": "{{prompt}} is done"},
  {"type": "done"}
]"#;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_sessions_at_once_and_each_gets_its_own_change() -> Result<()> {
    let mut world = World::new(&[("writes", WRITES)]).await?;
    world.settings.worker.concurrency = Some(20);
    let host = world.start().await?;
    world
        .sql("INSERT INTO millhand.tasks (project, prompt) SELECT 'acme', 'n' || n FROM generate_series(1, 20) n")
        .await?;
    for task in 1..=20 {
        ensure!(world.settled(task).await? == "completed", "{:?}", world.verdict(task).await?);
    }
    let wrong = world
        .sql(
            "SELECT t.id FROM millhand.tasks t LEFT JOIN millhand.pending_changes p ON p.task_id = t.id AND p.state = 'pending'
             GROUP BY t.id, t.prompt, t.output_summary
             HAVING count(p) <> 1 OR min(p.path) <> t.prompt || '.txt' OR t.output_summary <> t.prompt || ' is done'",
        )
        .await?;
    assert!(wrong.is_empty(), "{} tasks have another's change", wrong.len());
    assert_eq!(world.one::<i64>("SELECT count(*) FROM millhand.turn_events WHERE kind = 'text'").await?, 40);
    assert_eq!(world.one::<i64>("SELECT count(*) FROM millhand.usage").await?, 40);
    assert_eq!(world.one::<i64>("SELECT count(*) FROM millhand.attempts").await?, 20);
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_tasks_of_one_session_run_in_order_and_each_builds_on_the_last() -> Result<()> {
    let turn = r#"{"type": "tool_call", "id": "c", "name": "bash", "arguments": {"command": "echo {{prompt}} >> log.txt", "description": "Append"}},
      {"type": "text", "content": "{{prompt}}"}, {"type": "done"}"#;
    let script = format!("[{}]", vec![turn; 20].join(","));
    let world = World::new(&[("appends", &script)]).await?;
    let host = world.start().await?;
    let first = world.queue("1").await?;
    world
        .sql("INSERT INTO millhand.tasks (session_id, prompt) SELECT 1, s.n::text FROM generate_series(2, 20) AS s (n) ORDER BY s.n")
        .await?;
    for task in first..first + 20 {
        ensure!(world.settled(task).await? == "completed", "{:?}", world.verdict(task).await?);
    }
    let patch = String::from_utf8(world.patch(first + 19).await?)?;
    let numbers: Vec<_> = patch.lines().filter_map(|line| line.strip_prefix('+')?.parse::<u32>().ok()).collect();
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
    let overlaps: i64 = world
        .one("SELECT count(*) FROM millhand.attempts a JOIN millhand.attempts b ON b.id > a.id AND b.started_at < a.ended_at")
        .await?;
    assert_eq!(overlaps, 0);
    stop(host).await;
    Ok(())
}
