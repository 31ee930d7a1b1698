//! A conflict sent back to the agent: its branch is merged into the worktree, and what it makes of that applies.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::support::{
    wait_until,
    world::{TURN_WITHIN, World, git, stop},
};

const EDITS: &str = r#"[
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "echo agent >> README.md; echo new > new.txt", "description": "Edit"}},
  {"type": "text", "content": "Edited."},
  {"type": "done"}
]"#;
/// Does nothing unless the marks are there.
const RESOLVES: &str = r#"[
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "grep -q '^<<<<<<<' README.md && grep -v '^[<=>]' README.md > resolved && mv resolved README.md", "description": "Resolve"}},
  {"type": "text", "content": "Resolved."},
  {"type": "done"}
]"#;

async fn edited() -> Result<(World, i64)> {
    let mut world = World::with_files(&[("edits", EDITS), ("resolves", RESOLVES)], &[("README.md", "hello\n")]).await?;
    world.settings.timings.forecast = Duration::from_millis(100);
    let task = world.queue_for("edits", "Edit it").await?;
    Ok((world, task))
}

/// Waits until what is forecast of a task's change set is this.
async fn forecast(world: &World, task: i64, verdict: &str) -> Result<()> {
    let sql = format!(
        "SELECT FROM millhand.forecasts f JOIN millhand.change_sets c ON c.id = f.change_set_id \
         WHERE c.task_id = {task} AND f.verdict = '{verdict}'"
    );
    wait_until(verdict, TURN_WITHIN, async || world.sql(&sql).await.is_ok_and(|rows| !rows.is_empty())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_forecasts_a_conflict_and_its_agent_resolves_it_on_the_branch() -> Result<()> {
    let (world, task) = edited().await?;
    let host = world.start().await?;
    assert_eq!(world.settled(task).await?, "completed");
    forecast(&world, task, "clean").await?;
    std::fs::write(world.repository().join("README.md"), "hello\nuser\n")?;
    git(&world.repository(), &["commit", "-qam", "the user's own"])?;
    let tip = git(&world.repository(), &["rev-parse", "HEAD"])?;
    forecast(&world, task, "conflicts").await?;

    let insert = format!(
        "INSERT INTO millhand.tasks (session_id, prompt, model, merge_commit) \
         SELECT session_id, 'Resolve it', 'scripted/resolves', '{tip}' FROM millhand.tasks WHERE id = {task} RETURNING id"
    );
    let resolving = world.one(&insert).await?;
    assert_eq!(world.settled(resolving).await?, "completed");
    let patch = String::from_utf8(world.patch(resolving).await?)?;
    ensure!(patch.contains(" user\n+agent\n") && patch.contains("+new\n"), "on top of the user's: {patch}");
    ensure!(!patch.contains("<<<<<<<"), "{patch}");
    let said = format!(
        "SELECT count(*) FROM millhand.turn_events e JOIN millhand.attempts a ON a.id = e.attempt_id \
         WHERE a.task_id = {resolving} AND e.data::text LIKE '%of main was merged into the worktree%'"
    );
    assert_eq!(world.one::<i64>(&said).await?, 1);
    forecast(&world, resolving, "clean").await?;
    stop(host).await;
    Ok(())
}

/// A branch that the session's own has left behind: its tip is in the history of the base, and is merged all the same.
#[tokio::test(flavor = "multi_thread")]
async fn another_branch_is_merged_even_if_the_base_has_it_in_its_history() -> Result<()> {
    let world = World::with_files(&[("edits", EDITS), ("resolves", RESOLVES)], &[("README.md", "hello\n")]).await?;
    let release = git(&world.repository(), &["rev-parse", "HEAD"])?;
    git(&world.repository(), &["branch", "release"])?;
    std::fs::write(world.repository().join("README.md"), "hello\nmain\n")?;
    git(&world.repository(), &["commit", "-qam", "on main only"])?;
    let task = world.queue_for("edits", "Edit it").await?;
    let host = world.start().await?;
    assert_eq!(world.settled(task).await?, "completed");

    let insert = format!(
        "INSERT INTO millhand.tasks (session_id, prompt, model, merge_commit, merge_branch) \
         SELECT session_id, 'Resolve it', 'scripted/resolves', '{release}', 'release' FROM millhand.tasks WHERE id = {task} RETURNING id"
    );
    let resolving = world.one(&insert).await?;
    assert_eq!(world.settled(resolving).await?, "completed");
    let patch = String::from_utf8(world.patch(resolving).await?)?;
    ensure!(patch.contains(" hello\n+main\n+agent\n") && !patch.contains("<<<<<<<"), "on top of the release: {patch}");
    let said = format!(
        "SELECT count(*) FROM millhand.turn_events e JOIN millhand.attempts a ON a.id = e.attempt_id \
         WHERE a.task_id = {resolving} AND e.data::text LIKE '%of release was merged into the worktree%'"
    );
    assert_eq!(world.one::<i64>(&said).await?, 1);
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_gone_is_said_and_the_work_stays() -> Result<()> {
    let (world, task) = edited().await?;
    let host = world.start().await?;
    assert_eq!(world.settled(task).await?, "completed");
    let gone = "0123456789012345678901234567890123456789";
    let insert = format!(
        "INSERT INTO millhand.tasks (session_id, prompt, model, merge_commit) \
         SELECT session_id, 'Resolve it', 'scripted/resolves', '{gone}' FROM millhand.tasks WHERE id = {task} RETURNING id"
    );
    let resolving = world.one(&insert).await?;
    world.settled(resolving).await?;
    let (state, outcome, error) = world.verdict(resolving).await?;
    assert_eq!((state.as_str(), outcome.as_str()), ("failed", "repository_refused"));
    ensure!(error.contains(gone) && error.contains("is not in the repository any more"), "{error}");
    let kept: String =
        world.one("SELECT state FROM millhand.change_sets WHERE state <> 'draft' ORDER BY id LIMIT 1").await?;
    assert_eq!(kept, "open");
    stop(host).await;
    Ok(())
}
