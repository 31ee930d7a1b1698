//! The whole of it: a worker with its reaper, opencode, and the command line beside it.

use std::{process::Output, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::support::{
    millhand, wait_until,
    world::{World, stop},
};

const WRITES: &str = r##"[
  {"type": "tool_call", "id": "call_1", "name": "bash", "arguments": {"command": "echo one > made.txt; mkdir -p ignored; echo cache > ignored/cache; (sleep 1000 >/dev/null 2>&1 &)", "description": "Write"}},
  {"type": "text", "content": "First is done."},
  {"type": "done"},
  {"type": "tool_call", "id": "call_2", "name": "bash", "arguments": {"command": "cat made.txt ignored/cache > both.txt", "description": "Read"}},
  {"type": "text", "content": "Second is done."},
  {"type": "done"}
]"##;

async fn command(world: &World, arguments: &[&str]) -> Result<Output> {
    let mut command = tokio::process::Command::new(millhand());
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", world.path())
        .env("MILLHAND_HOME", world.settings.home.root())
        .env("MILLHAND_TIMINGS_REAP_GRACE", "0s")
        .env("DATABASE_URL", world.db.url())
        .current_dir(world.path())
        .kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(200), command.output()).await.context("it hangs")??;
    Ok(output)
}

/// The objects that a command printed.
async fn json(world: &World, arguments: &[&str]) -> Result<Vec<serde_json::Value>> {
    let output = command(world, arguments).await?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let objects: Vec<serde_json::Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(objects.iter().all(|object| object["v"] == 1), "{text}");
    Ok(objects)
}

async fn until_state(world: &World, state: &str) -> Result<()> {
    wait_until(&format!("the worktree is {state}"), Duration::from_secs(60), async || {
        let found = world.one::<String>("SELECT state FROM millhand.worktrees WHERE last_session_id = 1").await;
        found.is_ok_and(|found| found == state)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_sessions_worktree_goes_and_comes_back_for_its_next_turn() -> Result<()> {
    let files = [("README.md", "# acme\n"), (".gitignore", "ignored/\n")];
    let mut world = World::with_files(&[("writes", WRITES)], &files).await?;
    world.settings.worktrees.pool = 0;
    world.settings.timings.reap = Duration::from_millis(500);
    world.settings.timings.reap_grace = Duration::ZERO;
    let host = world.start().await?;
    let first = world.queue("please").await?;
    assert_eq!(world.settled(first).await?, "completed", "{:?}", world.verdict(first).await?);
    let path = world.settings.home.worktree(1, 1);
    assert!(path.join("ignored/cache").exists());

    // The worker's own loop, and what the agent left running in it.
    let closed = json(&world, &["close", "s1", "--json"]).await?;
    assert_eq!(closed[0]["state"], "closed");
    until_state(&world, "trashed").await?;
    assert!(!path.exists());
    let inside = path.clone();
    let left = tokio::task::spawn_blocking(move || left_in(&inside)).await?;
    assert_eq!(left, Vec::<String>::new(), "processes of the agent's");

    let listed = json(&world, &["worktree", "ls", "--json"]).await?;
    assert_eq!((listed[0]["type"].as_str(), listed[0]["state"].as_str()), (Some("worktree"), Some("trashed")));
    let restored = json(&world, &["worktree", "restore", "s1", "--json"]).await?;
    assert_eq!((restored[0]["from"].as_str(), restored[0]["session_id"].as_i64()), (Some("trash"), Some(1)));
    let second: i64 =
        world.one("INSERT INTO millhand.tasks (session_id, prompt) VALUES (1, 'and more') RETURNING id").await?;
    assert_eq!(world.settled(second).await?, "completed", "{:?}", world.verdict(second).await?);
    assert_eq!(std::fs::read_to_string(path.join("both.txt"))?, "one\ncache\n");

    // By name, through the worker; then with none.
    let asked = json(&world, &["worktree", "reap", "s1", "--json"]).await?;
    assert_eq!(asked[0]["outcome"], "moved to the trash", "{asked:?}");
    assert_eq!(json(&world, &["worktree", "restore", "s1", "--json"]).await?[0]["from"], "trash");
    stop(host).await;
    let planned = json(&world, &["worktree", "reap", "--dry-run", "s1", "--json"]).await?;
    assert_eq!((planned[0]["goes"].as_bool(), path.exists()), (Some(true), true));
    assert_eq!(json(&world, &["worktree", "reap", "s1", "--json"]).await?[0]["outcome"], "moved to the trash");
    assert!(!path.exists());
    assert_eq!(json(&world, &["worktree", "restore", "w1", "--json"]).await?[0]["from"], "trash");
    assert_eq!(std::fs::read_to_string(path.join("ignored/cache"))?, "cache\n");

    for (arguments, code, words) in [
        (&["worktree", "restore", "s9"][..], 6, "no worktree of session s9"),
        (&["worktree", "restore", "t1"], 2, "neither a worktree"),
        (&["close", "t1"], 2, "not a session"),
        (&["close", "s9"], 6, "no session s9"),
    ] {
        let output = command(&world, arguments).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.contains(words)), (Some(code), true), "{arguments:?}: {said}");
    }
    let text = command(&world, &["worktree", "ls"]).await?;
    assert!(String::from_utf8_lossy(&text.stdout).contains("WORKTREE"));
    Ok(())
}

/// Names of processes whose current folder is or was in this one.
fn left_in(folder: &std::path::Path) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|process| std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder)))
        .filter_map(|process| std::fs::read_to_string(process.path().join("comm")).ok())
        .collect()
}
