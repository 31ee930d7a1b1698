//! A transcript that is read later has the order in which it was said.

use anyhow::Result;

use crate::support::world::{World, stop};

/// Long enough to be recorded while it streams; providers say that a text is over after the call behind it began.
const SAYS: &str = r#"{"chunk_delay_ms": 60, "steps": [
  {"type": "text", "content": "I look at what there is before I change any of it, and say so at some length."},
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "sleep 0.3; ls", "description": "Look"}},
  {"type": "text", "content": "Now I know what there is, and that takes some words as well."},
  {"type": "tool_call", "id": "c2", "name": "bash", "arguments": {"command": "echo more", "description": "More"}},
  {"type": "text", "content": "That is all."}, {"type": "done"}
]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_streamed_before_a_call_is_read_before_it() -> Result<()> {
    let world = World::new(&[("says", SAYS)]).await?;
    let host = world.start().await?;
    let task = world.queue("say it").await?;
    assert_eq!(world.settled(task).await?, "completed");
    stop(host).await;
    let attempt: i64 = world.one(&format!("SELECT id FROM millhand.attempts WHERE task_id = {task}")).await?;
    let mut rows = world.db.store()?.turn_events(attempt, 0, 500).await?;
    rows.retain(|row| matches!(row.kind.as_str(), "text" | "tool"));
    assert!(rows.iter().any(|row| row.place() < row.seq.into()), "it streamed: {rows:?}");
    rows.sort_by_key(millhand::store::reads_turns::TurnEventRow::place);
    let mut parts: Vec<_> = rows.iter().map(|row| (row.kind.as_str(), row.part.as_deref())).collect();
    let mut seen = std::collections::HashSet::new();
    parts.retain(|part| seen.insert(*part));
    let kinds: Vec<_> = parts.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, ["text", "tool", "text", "tool", "text"], "{rows:?}");
    Ok(())
}
