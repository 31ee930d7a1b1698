//! Checks: the operator's commands on what turns left, in the real sandbox, with a real worker. Run once, on a checkout, recorded once.

mod feedback;
mod hostile;

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use millhand::{
    actions,
    model::ids::{AnyId, TaskId},
    store::checks::CheckRunRow,
};
use tokio_postgres::types::ToSql;

use crate::support::{
    wait_until, worker,
    world::{TURN_WITHIN, World, git, stop},
};

const WRITES: &str = r#"[
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "echo made >made; echo changed >>README.md; mkdir -p deps; echo x >deps/ignored", "description": "Work"}},
  {"type": "text", "content": "done"}, {"type": "done"}
]"#;

async fn world() -> Result<World> {
    let files = [("README.md", "# acme\n"), (".gitignore", "deps\n.env\n")];
    let mut world = World::with_files(&[("writes", WRITES)], &files).await?;
    world.settings.timings.check_poll = Duration::from_millis(100);
    Ok(world)
}

async fn add(world: &World, name: &str, command: &str) -> Result<()> {
    actions::add_check(&world.db.store()?, "acme", name, command, None, "ada").await?;
    Ok(())
}

async fn sql(world: &World, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<u64> {
    Ok(world.db.client().await?.execute(sql, values).await?)
}

/// A turn that changes something. Its task.
async fn turn(world: &World) -> Result<i64> {
    let task = world.queue("x").await?;
    ensure!(world.settled(task).await? == "completed", "{:?}", world.verdict(task).await?);
    Ok(task)
}

async fn runs(world: &World, task: i64) -> Result<Vec<CheckRunRow>> {
    let found = actions::changes(&world.db.store()?, AnyId::Task(TaskId(task))).await?;
    Ok(found.context("a change set")?.checks)
}

/// The checks of a task's changes, once they are over.
async fn checked(world: &World, task: i64) -> Result<Vec<CheckRunRow>> {
    wait_until("the checks are over", TURN_WITHIN, async || {
        runs(world, task).await.is_ok_and(|runs| {
            !runs.is_empty() && runs.iter().all(|run| !matches!(run.state.as_str(), "pending" | "running"))
        })
    })
    .await
    .with_context(|| worker::log(world))?;
    runs(world, task).await
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_run_on_a_checkout_of_what_the_turn_left_and_their_result_is_stored_with_it() -> Result<()> {
    let world = world().await?;
    add(
        &world,
        "test",
        "cat made README.md .env deps/installed; ls -A; git status --short; git diff --cached --stat HEAD",
    )
    .await?;
    add(&world, "lint", "echo bad >&2; touch trace; exit 3").await?;
    let env = world.path().canonicalize()?.join("user/env");
    fs::write(&env, "A=1\n")?;
    let insert = "INSERT INTO millhand.project_files (project, path, source) VALUES ('acme', '.env', $1)";
    sql(&world, insert, &[&env.to_string_lossy()]).await?;
    sql(&world, "UPDATE millhand.projects SET setup_command = 'mkdir -p deps && echo yes >deps/installed'", &[])
        .await?;
    let host = world.start().await?;
    let task = turn(&world).await?;
    let runs = checked(&world, task).await?;
    let said: Vec<_> =
        runs.iter().map(|run| (run.name.as_str(), run.state.as_str(), run.exit_code, run.tries)).collect();
    assert_eq!(said, [("test", "passed", Some(0), 1), ("lint", "failed", Some(3), 1)]);
    let output = runs[0].output.as_deref().unwrap_or_default();
    assert!(
        output.starts_with("made\n# acme\nchanged\nA=1\nyes\n.env\n.git\n.gitignore\nREADME.md\ndeps\nmade\n"),
        "{output}"
    );
    assert!(output.contains("M  README.md\nA  made\n"), "what the turn changed is in the index: {output}");
    assert_eq!(runs[1].output.as_deref(), Some("bad\n"));
    // Not in the worktree, and nothing is left.
    assert!(!world.settings.home.worktree(1, 1).join("trace").exists());
    wait_until("the checkout is gone", Duration::from_secs(10), async || {
        !fs::read_dir(world.settings.home.checks(1)).is_ok_and(|mut found| {
            found.any(|entry| {
                entry.is_ok_and(|entry| {
                    entry.file_name().to_string_lossy().starts_with('c') && entry.file_name() != "caches"
                })
            })
        })
    })
    .await?;
    // A turn that changes nothing has nothing to check; neither has one whose project has no checks.
    sql(&world, "DELETE FROM millhand.checks", &[]).await?;
    let other = turn(&world).await?;
    assert_eq!(self::runs(&world, other).await?, []);
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_task_does_not_wait_for_a_check_and_what_it_supersedes_is_not_checked_any_more() -> Result<()> {
    let world = world().await?;
    let gate = world.path().join("home/tools/gate");
    add(&world, "waits", &format!("while ! test -e {}; do sleep 0.1; done", gate.display())).await?;
    add(&world, "later", "true").await?;
    let host = world.start().await?;
    let first = turn(&world).await?;
    wait_until("the check runs", TURN_WITHIN, async || {
        runs(&world, first).await.is_ok_and(|runs| runs[0].state == "running")
    })
    .await?;
    let send = format!(
        "INSERT INTO millhand.tasks (session_id, prompt) SELECT session_id, 'y' FROM millhand.tasks WHERE id = {first}"
    );
    sql(&world, &send, &[]).await?;
    ensure!(world.settled(first + 1).await? == "completed");
    fs::create_dir_all(gate.parent().context("parent")?)?;
    fs::write(&gate, "")?;
    let states = |runs: Vec<CheckRunRow>| runs.into_iter().map(|run| run.state).collect::<Vec<_>>();
    assert_eq!(states(checked(&world, first).await?), ["passed", "skipped"]);
    assert_eq!(states(checked(&world, first + 1).await?), ["passed", "passed"]);
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_whose_worker_is_killed_is_run_again_and_recorded_once_and_not_for_ever() -> Result<()> {
    let world = world().await?;
    add(&world, "test", "echo $$ >pid; exec sleep 1000").await?;
    let pid_file = world.settings.home.checks(1).join("c1/tree/pid");
    let running = || fs::read_to_string(&pid_file).ok().filter(|text| text.ends_with('\n'));
    let lives = |pid: &str| std::path::Path::new("/proc").join(pid.trim()).exists();
    let variables = [("MILLHAND_TIMINGS_CHECK_POLL", "100ms")];
    let mut now = worker::start(&world, &variables)?;
    let task = turn(&world).await?;
    for tries in 1..=3 {
        wait_until("the check runs", TURN_WITHIN, async || {
            runs(&world, task).await.is_ok_and(|runs| runs[0].state == "running" && runs[0].tries == tries)
        })
        .await
        .with_context(|| worker::log(&world))?;
        if tries == 2 {
            // Stopped in order, it hands the check back uncounted.
            let pid = now.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?)).context("pid")?;
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
            now.wait().await?;
            assert_eq!(
                (runs(&world, task).await?[0].state.as_str(), runs(&world, task).await?[0].tries),
                ("pending", 1)
            );
            now = worker::start(&world, &variables)?;
            wait_until("it runs again", TURN_WITHIN, async || {
                runs(&world, task).await.is_ok_and(|runs| runs[0].state == "running" && runs[0].tries == 2)
            })
            .await?;
        }
        wait_until("the command runs", TURN_WITHIN, async || running().is_some_and(|pid| lives(&pid))).await?;
        let pid = running().context("pid")?;
        now.kill().await?;
        wait_until("it dies with its worker", Duration::from_secs(10), async || !lives(&pid)).await?;
        now = worker::start(&world, &variables)?;
    }
    let over = checked(&world, task).await?;
    assert_eq!((over[0].state.as_str(), over[0].tries), ("error", 3));
    assert!(over[0].problem.as_deref().is_some_and(|problem| problem.contains("its worker died")), "{over:?}");
    // A person has it run again, with another command.
    add(&world, "test", "echo fine").await?;
    actions::run_checks(&world.db.store()?, AnyId::Task(TaskId(task))).await?;
    let over = checked(&world, task).await?;
    assert_eq!((over[0].state.as_str(), over[0].output.as_deref(), over[0].tries), ("passed", Some("fine\n"), 1));
    now.kill().await?;
    Ok(())
}

#[tokio::test]
async fn what_came_of_a_check_is_written_by_whoever_has_it_and_once() -> Result<()> {
    use millhand::model::check::{Recorded, not_run};
    let world = world().await?;
    let store = world.db.store()?;
    sql(&world, "INSERT INTO millhand.sessions (project, home_host, base_commit) VALUES ('acme', 'here', 'b')", &[])
        .await?;
    sql(
        &world,
        "INSERT INTO millhand.change_sets (session_id, project, agent, base_commit, commit_id, tree_id, patch_sha256, files, additions, \
         deletions) VALUES (1, 'acme', 'opencode', 'b', 'c', 't', '', 1, 1, 0)",
        &[],
    )
    .await?;
    add(&world, "one", "true").await?;
    add(&world, "two", "true").await?;
    sql(&world, "UPDATE millhand.change_sets SET state = 'open'", &[]).await?;
    let (a, b) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    assert_eq!(store.unchecked("elsewhere", &[], 9).await?, []);
    assert_eq!(store.begin_check(1, "elsewhere", a).await?, None);
    let set = store.unchecked("here", &[], 9).await?;
    assert_eq!(set.len(), 1);
    // Many at once: each check is begun by one.
    let begun = futures::future::try_join_all((0..8).map(|_| store.begin_check(1, "here", a))).await?;
    assert_eq!(begun.iter().flatten().count(), 2, "{begun:?}");
    let one = begun.iter().flatten().map(|check| check.id).min().context("one")?;
    let said = |text: &str| Recorded {
        state: "passed",
        exit_code: Some(0),
        output: text.to_owned(),
        ..not_run(String::new(), String::new())
    };
    assert!(!store.finish_check(one, b, &said("b")).await?, "another token");
    // The session moves to another host, which begins anew.
    sql(&world, "UPDATE millhand.sessions SET home_host = 'there'", &[]).await?;
    assert_eq!(store.release_checks("there", &[]).await?, 0);
    let there = store.begin_check(1, "there", b).await?.context("taken over")?;
    assert_eq!(there.id, one);
    assert!(!store.finish_check(one, a, &said("a")).await?, "the host that had it");
    assert!(store.finish_check(one, b, &said("b\0")).await?);
    assert!(!store.finish_check(one, b, &said("again")).await?, "twice");
    let runs = store.check_runs(1).await?;
    assert_eq!((runs[0].output.as_deref(), runs[0].tries), (Some("b\u{fffd}"), 2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_check_is_said_and_refused_where_the_project_says_so() -> Result<()> {
    let world = world().await?;
    add(&world, "test", "echo broken; exit 1").await?;
    let host = world.start().await?;
    let task = turn(&world).await?;
    checked(&world, task).await?;
    let run = async |arguments: &[&str]| -> Result<(bool, String)> {
        let mut command = worker::command(&world, arguments[0], &[("USER", "ada")])?;
        command.args(&arguments[1..]).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let output = command.output().await?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    };
    for words in [&["show", "s1"][..], &["review", "s1"], &["diff", "t1"], &["check", "show", "t1"]] {
        let (done, text) = run(words).await?;
        assert!(done && text.contains("check test failed in 0s, exit code 1"), "{words:?}: {text}");
    }
    assert!(run(&["check", "show", "t1"]).await?.1.contains("        broken\n"));
    for words in [&["review", "s1", "--json"][..], &["diff", "t1", "--json"], &["check", "show", "t1", "--json"]] {
        let (_, text) = run(words).await?;
        let found = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let run = found.into_iter().find(|object| object["output"] == "broken\n");
        assert!(run.is_some_and(|run| run["state"] == "failed" && run["exit_code"] == 1), "{words:?}: {text}");
    }
    let (done, text) = run(&["apply", "s1", "--require-checks"]).await?;
    assert!(!done && text.contains("checks have not passed: test"), "{text}");
    sql(&world, "UPDATE millhand.projects SET checks_required = true", &[]).await?;
    assert!(!run(&["apply", "s1"]).await?.0);
    assert_eq!(git(&world.repository(), &["log", "--format=%s"])?, "first");
    let (done, text) = run(&["apply", "s1", "--require-checks=false"]).await?;
    assert!(done && text.contains("checks have not passed: test"), "{text}");
    assert!(git(&world.repository(), &["show", "--stat"])?.contains("made"));
    stop(host).await;
    Ok(())
}
