//! The main job.

use anyhow::{Result, ensure};
use rust_decimal::Decimal;

use crate::support::world::{World, git, make_repository, stop};

const WRITES: &str = r##"[
  {"type": "reasoning", "content": "A file is wanted."},
  {"type": "text", "content": "I write it."},
  {"type": "tool_call", "id": "call_1", "name": "write", "arguments": {"filePath": "made.txt", "content": "one\ntwo\n"}},
  {"type": "tool_call", "id": "call_2", "name": "bash", "arguments": {"command": "echo more >> README.md; chmod +x README.md", "description": "Append"}},
  {"type": "text", "content": "Done: {{prompt}}"},
  {"type": "done"},
  {"type": "text", "content": "Again."},
  {"type": "tool_call", "id": "call_3", "name": "bash", "arguments": {"command": "rm src/main.sh; git add -A; git commit -qm mine; echo three >> made.txt", "description": "Commit"}},
  {"type": "text", "content": "Second is done."},
  {"type": "done"}
]"##;

#[tokio::test(flavor = "multi_thread")]
async fn a_row_becomes_a_change_ready_for_review_and_the_next_turn_builds_on_it() -> Result<()> {
    let world = World::new(&[("writes", WRITES)]).await?;
    let before = git(&world.repository(), &["rev-parse", "HEAD"])?;
    let host = world.start().await?;
    let first = world.queue("please").await?;
    assert_eq!(world.settled(first).await?, "completed", "{:?}", world.verdict(first).await?);

    let row = &world
        .sql(&format!(
            "SELECT t.session_id, t.attempts, t.output_summary, t.tokens, t.cost_usd, a.agent_requested, a.agent_resolved, \
             a.model_resolved, s.base_commit, s.base_branch FROM millhand.tasks t JOIN millhand.attempts a ON a.task_id = t.id \
             JOIN millhand.sessions s ON s.id = t.session_id WHERE t.id = {first}"
        ))
        .await?[0];
    let session: i64 = row.get(0);
    assert_eq!((row.get::<_, i32>(1), row.get::<_, &str>(2)), (1, "Done: please"));
    assert!(row.get::<_, i64>(3) > 0 && row.get::<_, Decimal>(4) > Decimal::ZERO);
    assert_eq!((row.get::<_, &str>(5), row.get::<_, &str>(6)), ("opencode", "opencode/build"));
    assert_eq!(row.get::<_, &str>(7), "scripted/writes");
    assert_eq!((row.get::<_, &str>(8), row.get::<_, &str>(9)), (before.as_str(), "main"));

    let changes = world
        .sql("SELECT path, kind, state, additions, agent, new_mode FROM millhand.pending_changes ORDER BY path")
        .await?;
    let changes: Vec<(String, String, String, i32, i32)> =
        changes.iter().map(|r| (r.get(0), r.get(1), r.get(2), r.get(3), r.get(5))).collect();
    assert_eq!(
        changes,
        [
            ("README.md".to_owned(), "modified".to_owned(), "pending".to_owned(), 1, 0o100_755),
            ("made.txt".to_owned(), "added".to_owned(), "pending".to_owned(), 2, 0o100_644),
        ]
    );

    let kinds: String =
        world.one("SELECT string_agg(kind, ' ' ORDER BY seq) FROM millhand.turn_events WHERE part IS NOT NULL").await?;
    assert!(!kinds.contains("delta"), "deltas of whole parts are dropped: {kinds}");
    for kind in ["reasoning", "text", "tool", "step_finish"] {
        assert!(kinds.contains(kind), "{kind} is missing: {kinds}");
    }

    // The next turn of the session: the agent remembers, its commits count as changes, the earlier set is superseded.
    let second: i64 = world
        .one(&format!("INSERT INTO millhand.tasks (session_id, prompt) VALUES ({session}, 'and more') RETURNING id"))
        .await?;
    assert_eq!(world.settled(second).await?, "completed", "{:?}", world.verdict(second).await?);
    assert_eq!(
        world.one::<String>("SELECT string_agg(state, ' ' ORDER BY id) FROM millhand.change_sets").await?,
        "superseded open"
    );
    let open: String = world
        .one("SELECT string_agg(path || ' ' || kind, ', ' ORDER BY path) FROM millhand.pending_changes WHERE state = 'pending'")
        .await?;
    assert_eq!(open, "README.md modified, made.txt added, src/main.sh deleted");
    assert_eq!(world.one::<i64>("SELECT count(*) FROM millhand.agent_sessions").await?, 1);
    assert_eq!(world.one::<i64>("SELECT count(DISTINCT agent_session) FROM millhand.attempts").await?, 1);

    // What was billed is what is recorded.
    let billed = world.model.billed();
    let row = &world
        .sql("SELECT sum(input_tokens)::bigint, sum(output_tokens)::bigint, sum(reasoning_tokens)::bigint, sum(cost_usd) FROM millhand.usage")
        .await?[0];
    let recorded = (row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2));
    assert_eq!(
        recorded,
        (i64::try_from(billed.input)?, i64::try_from(billed.output)?, i64::try_from(billed.reasoning)?)
    );

    // The patch applies to the base, and gives the checkpoint's tree.
    let tree: String = world.one("SELECT tree_id FROM millhand.change_sets WHERE state = 'open'").await?;
    let copy = world.path().join("copy");
    git(world.path(), &["clone", "-q", &world.repository().to_string_lossy(), &copy.to_string_lossy()])?;
    let patch = world.path().join("change.patch");
    std::fs::write(&patch, world.patch(second).await?)?;
    git(&copy, &["apply", "--index", "--binary", &patch.to_string_lossy()])?;
    assert_eq!(git(&copy, &["write-tree"])?, tree);
    assert_eq!(git(&world.repository(), &["rev-parse", "HEAD"])?, before);
    assert_eq!(git(&world.repository(), &["status", "--porcelain"])?, "");
    stop(host).await;
    ensure!(world.one::<i64>("SELECT count(*) FROM millhand.leases").await? == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_chats_of_a_session_share_its_worktree_and_not_their_memory() -> Result<()> {
    let script = r#"[
      {"type": "text", "content": "turn {{turn}}"}, {"type": "done"},
      {"type": "text", "content": "turn {{turn}}"}, {"type": "done"}
    ]"#;
    let world = World::new(&[("counts", script)]).await?;
    let host = world.start().await?;
    let first = world.queue("one").await?;
    world.settled(first).await?;
    let session: i64 = world.one(&format!("SELECT session_id FROM millhand.tasks WHERE id = {first}")).await?;
    let chat: i64 =
        world.one(&format!("INSERT INTO millhand.chats (session_id) VALUES ({session}) RETURNING id")).await?;
    let other: i64 =
        world.one(&format!("INSERT INTO millhand.tasks (chat_id, prompt) VALUES ({chat}, 'two') RETURNING id")).await?;
    let again: i64 = world
        .one(&format!("INSERT INTO millhand.tasks (session_id, prompt) VALUES ({session}, 'three') RETURNING id"))
        .await?;
    world.settled(other).await?;
    world.settled(again).await?;
    let said: String = world.one("SELECT string_agg(output_summary, ', ' ORDER BY id) FROM millhand.tasks").await?;
    assert_eq!(said, "turn 1, turn 1, turn 2");
    assert_eq!(world.one::<i64>("SELECT count(*) FROM millhand.worktrees").await?, 1);
    assert_eq!(world.one::<i64>("SELECT count(*) FROM millhand.agent_sessions").await?, 2);
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_although_its_repository_is_away() -> Result<()> {
    let script = r#"[{"type": "text", "content": "fine"}, {"type": "done"}, {"type": "text", "content": "fine too"}, {"type": "done"}]"#;
    let world = World::new(&[("says", script)]).await?;
    let host = world.start().await?;
    let first = world.queue("one").await?;
    world.settled(first).await?;
    std::fs::rename(world.repository(), world.path().join("away"))?;
    let second: i64 =
        world.one("INSERT INTO millhand.tasks (session_id, prompt) VALUES (1, 'two') RETURNING id").await?;
    assert_eq!(world.settled(second).await?, "completed", "{:?}", world.verdict(second).await?);
    // A new session needs it.
    let third = world.queue("three").await?;
    assert_eq!(world.settled(third).await?, "failed");
    let (_, outcome, error) = world.verdict(third).await?;
    assert_eq!(outcome, "repository_refused");
    ensure!(error.contains("acme"), "{error}");
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unborn_branch_and_a_subfolder_work_from_the_first_turn() -> Result<()> {
    let world = World::new(&[("writes", WRITES)]).await?;
    let empty = world.path().join("empty");
    std::fs::create_dir_all(&empty)?;
    git(&empty, &["init", "-q", "-b", "trunk"])?;
    world.sql(&format!("SELECT millhand.add_project('empty', '{}')", empty.display())).await?;
    make_repository(&world.path().join("other"), &[("a", "b")])?;
    let host = world.start().await?;
    let task: i64 =
        world.one("INSERT INTO millhand.tasks (project, prompt) VALUES ('empty', 'x') RETURNING id").await?;
    assert_eq!(world.settled(task).await?, "completed", "{:?}", world.verdict(task).await?);
    let patch = String::from_utf8(world.patch(task).await?)?;
    ensure!(patch.contains("b/made.txt"), "{patch}");
    stop(host).await;
    Ok(())
}
