//! What a project's operator wants in each new worktree, through the real sandbox: done once, seen to its end, never part of a change.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use millhand::supervise::find_family;

use crate::support::{
    wait_until, worker,
    world::{TURN_WITHIN, World, git, stop},
};

const WRITES: &str = r#"[
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "echo made >made; cat .env >/dev/null && cp -r deps/. seen", "description": "Work"}},
  {"type": "text", "content": "done"}, {"type": "done"}
]"#;

async fn world() -> Result<World> {
    let files = [("README.md", "# acme\n"), (".gitignore", "deps\n"), ("config/tracked", "x\n")];
    World::with_files(&[("writes", WRITES)], &files).await
}

async fn set(world: &World, command: &str) -> Result<()> {
    let quoted = command.replace('\'', "''");
    world.sql(&format!("UPDATE millhand.projects SET setup_command = '{quoted}', max_attempts = 1")).await?;
    Ok(())
}

/// Has a file of the user's copied to this path.
async fn copies(world: &World, path: &str, content: &str) -> Result<()> {
    let file = world.path().canonicalize()?.join("user").join(path.replace('/', "-"));
    fs::write(&file, content)?;
    let sql = "INSERT INTO millhand.project_files (project, path, source) VALUES ('acme', $1, $2)";
    world.db.client().await?.execute(sql, &[&path, &file.to_string_lossy()]).await?;
    Ok(())
}

fn worktree(world: &World, session: i64) -> std::path::PathBuf {
    world.settings.home.worktree(1, session)
}

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_worktree_is_set_up_once_and_nothing_of_it_is_in_the_change_set() -> Result<()> {
    let world = world().await?;
    let outside = world.path().join("outside");
    fs::create_dir(&outside)?;
    set(
        &world,
        &format!(
            "mkdir -p deps; echo ran >>deps/runs; cat .env config/.env >deps/env; \
             (setsid -f sh -c 'echo $$ >deps/pid; exec sleep 1000'); sleep 1000 & \
             echo x >{0}/x; cp .env {0}/y; cat {1}/README.md >deps/users; ls {2} >deps/home; true",
            outside.display(),
            world.repository().display(),
            world.path().join("home/private").display(),
        ),
    )
    .await?;
    copies(&world, ".env", "SECRET=1\n").await?;
    copies(&world, "config/.env", "SECRET=2\n").await?;
    let host = world.start().await?;
    let task = world.queue("x").await?;
    ensure!(world.settled(task).await? == "completed", "{:?}", world.verdict(task).await?);

    let place = worktree(&world, 1);
    assert_eq!(read(&place, "deps/runs"), "ran\n");
    assert_eq!(read(&place, "deps/env"), "SECRET=1\nSECRET=2\n");
    // In the sandbox, as the agents are.
    assert_eq!((read(&place, "deps/users"), read(&place, "deps/home")), (String::new(), String::new()));
    assert_eq!(fs::read_dir(&outside)?.count(), 0, "it wrote outside");
    let pid = read(&place, "deps/pid");
    assert!(!pid.is_empty() && !Path::new("/proc").join(pid.trim()).exists(), "what it started lives on: {pid}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(place.join(".env"))?.permissions().mode() & 0o777, 0o600);

    // Once: the next turn finds it done.
    world.sql("INSERT INTO millhand.tasks (session_id, prompt) VALUES (1, 'again')").await?;
    ensure!(world.settled(task + 1).await? == "completed", "{:?}", world.verdict(task + 1).await?);
    assert_eq!(read(&place, "deps/runs"), "ran\n");
    let paths: Vec<String> = world
        .sql("SELECT DISTINCT path FROM millhand.pending_changes ORDER BY 1")
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(paths, ["made", "seen/env", "seen/home", "seen/pid", "seen/runs", "seen/users"]);
    let mirror = world.settings.home.mirror(1);
    let kept = git(&mirror, &["ls-tree", "-r", "--name-only", "refs/millhand/sessions/1/1"])?;
    assert!(!kept.contains(".env"), "{kept}");
    let shown: String = world.one("SELECT string_agg(data::text, ' ') FROM millhand.turn_events").await?;
    assert!(shown.contains("setting up the worktree") && !shown.contains("SECRET"), "{shown}");
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_that_fails_is_in_the_inbox_with_its_last_lines_and_a_retry_runs_it_again() -> Result<()> {
    let mut world = world().await?;
    world.settings.timings.setup = Duration::from_secs(2);
    world.settings.worker.command_processes = 30;
    let host = world.start().await?;
    for (command, words) in [
        ("echo first; printf 'odd \\377\\000 \\033[31mbytes\\n'; exit 7", "ended with exit code 7"),
        ("kill -KILL $$", "was ended by signal 9"),
        ("yes | cat", "took longer than it may"),
        ("printf '%01000000d'; exit 3", "ended with exit code 3"),
        ("setsid -f sleep 1000; sleep 1000", "took longer than it may"),
        ("for i in $(seq 100); do sleep 1000 & done; wait", "had too many processes at once"),
        ("no-such-program", "no-such-program"),
    ] {
        set(&world, command).await?;
        let task = world.queue(command).await?;
        ensure!(world.settled(task).await? == "failed", "{command}: {:?}", world.verdict(task).await?);
        let row = &world
            .sql(&format!("SELECT error_class, error_message FROM millhand.inbox WHERE task_id = {task}"))
            .await?[0];
        let (class, message): (String, String) = (row.get(0), row.get(1));
        assert_eq!(class, "setup_failed", "{command}");
        assert!(message.contains(words) && message.len() < 4096, "{command}: {message}");
        if command.starts_with("echo first") {
            assert!(message.contains("first\nodd \u{fffd}\u{fffd} "), "{message:?}");
            let inbox = worker::command(&world, "inbox", &[])?.stdout(std::process::Stdio::piped()).output().await?;
            let shown = String::from_utf8_lossy(&inbox.stdout).into_owned();
            assert!(shown.contains("exit code 7") && shown.contains("\n      first\n      odd "), "{shown}");
        }
        wait_until("nothing is left of it", Duration::from_secs(5), async || {
            !find_family(&millhand::config::host_id(&world.settings.home).unwrap_or_default()).iter().any(|pid| {
                fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| line.starts_with(b"sleep") || line.starts_with(b"yes"))
            })
        })
        .await
        .context(command)?;
    }
    let failed: i64 = world.one("SELECT max(id) FROM millhand.tasks").await?;
    set(&world, "mkdir deps && echo mended >deps/mended").await?;
    copies(&world, ".env", "A=1\n").await?;
    world.sql(&format!("SELECT millhand.retry_task({failed})")).await?;
    ensure!(world.settled(failed).await? == "completed", "{:?}", world.verdict(failed).await?);
    assert_eq!(read(&worktree(&world, failed), "deps/mended"), "mended\n");
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_copied_safely_stop_the_turn_at_once() -> Result<()> {
    let world = world().await?;
    let host = world.start().await?;
    let root = world.path().canonicalize()?;
    fs::write(root.join("user/env"), "A=1\n")?;
    std::os::unix::fs::symlink(root.join("user/env"), root.join("user/link"))?;
    fs::create_dir_all(root.join("home/agents/1"))?;
    fs::write(root.join("home/agents/1/planted"), "x")?;
    let client = world.db.client().await?;
    for (path, source, words) in [
        (".env", "user/link", "is a link"),
        (".env", "user/none", "cannot be read on this host"),
        (".env", "home/agents/1/planted", "where agents can write"),
        ("README.md", "user/env", "is part of the repository"),
        ("config", "user/env", "is part of the repository"),
    ] {
        client.execute("DELETE FROM millhand.project_files", &[]).await?;
        let source = root.join(source).display().to_string();
        let sql = "INSERT INTO millhand.project_files (project, path, source) VALUES ('acme', $1, $2)";
        client.execute(sql, &[&path, &source]).await?;
        let task = world.queue("x").await?;
        ensure!(world.settled(task).await? == "failed", "{path} {source}: {:?}", world.verdict(task).await?);
        let (_, outcome, message) = world.verdict(task).await?;
        assert_eq!(outcome, "setup_failed");
        assert!(message.contains(words), "{message}");
        assert_eq!(world.one::<i32>(&format!("SELECT last_attempt FROM millhand.tasks WHERE id = {task}")).await?, 1);
    }
    for path in ["/etc/x", "../x", "a/../x", ".git/config", "a//b", ""] {
        let sql = "INSERT INTO millhand.project_files (project, path, source) VALUES ('acme', $1, '/x')";
        assert!(client.execute(sql, &[&path]).await.is_err(), "{path}");
    }
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_whose_worker_is_killed_is_run_again_by_the_next_one() -> Result<()> {
    let world = world().await?;
    set(&world, "mkdir -p deps; echo $$ >>deps/runs; test $(wc -l <deps/runs) -gt 1 || exec sleep 1000").await?;
    copies(&world, ".env", "A=1\n").await?;
    let mut first = worker::start(&world, &[])?;
    let task = world.queue("x").await?;
    let runs = worktree(&world, 1).join("deps/runs");
    wait_until("the setup runs", TURN_WITHIN, async || {
        fs::read_to_string(&runs).is_ok_and(|text| text.ends_with('\n'))
    })
    .await?;
    let pid = read(&worktree(&world, 1), "deps/runs");
    first.kill().await?;
    let second = worker::start(&world, &[])?;
    ensure!(world.settled(task).await? == "completed", "{:?} {}", world.verdict(task).await?, worker::log(&world));
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "the first one lives on");
    assert_eq!(fs::read_to_string(&runs)?.lines().count(), 2);
    drop(second);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_and_checks_run_as_the_agents_user_and_can_use_what_was_copied() -> Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    if !rustix::process::geteuid().is_root() {
        crate::support::not_run!("commands of another user: it takes root");
        return Ok(());
    }
    let mut world = world().await?;
    world.settings.sandbox.user = Some("nobody".to_owned());
    world.settings.timings.check_poll = Duration::from_millis(100);
    fs::set_permissions(world.path(), fs::Permissions::from_mode(0o755))?;
    let command = "id -un && cat .env && mktemp && mkdir -p deps $npm_config_cache && id -un >deps/user && git status --short && echo x >>README.md";
    set(&world, command).await?;
    millhand::actions::add_check(&world.db.store()?, "acme", "user", command, None, "ada").await?;
    copies(&world, ".env", "A=1\n").await?;
    let reaches = |path: &Path| {
        path.ancestors().all(|folder| fs::metadata(folder).is_ok_and(|m| m.permissions().mode() & 1 != 0))
    };
    if !reaches(world.path()) || !reaches(world.settings.opencode.binary.as_deref().context("opencode")?) {
        crate::support::not_run!(
            "commands of another user: {} or opencode is closed to others",
            world.path().display()
        );
        return Ok(());
    }
    let host = world.start().await?;
    let task = world.queue("x").await?;
    ensure!(world.settled(task).await? == "completed", "{:?}", world.verdict(task).await?);
    let nobody = millhand::supervise::AgentUser::find("nobody")?.run_as.uid;
    let place = worktree(&world, 1);
    assert_eq!(read(&place, "deps/user"), "nobody\n");
    assert_eq!(
        (fs::metadata(place.join(".env"))?.uid(), fs::metadata(place.join(".env"))?.mode() & 0o777),
        (nobody, 0o600)
    );
    wait_until("the check is over", TURN_WITHIN, async || {
        world
            .one::<String>("SELECT state FROM millhand.check_runs")
            .await
            .is_ok_and(|state| !["pending", "running"].contains(&state.as_str()))
    })
    .await?;
    let row = &world.sql("SELECT state, output FROM millhand.check_runs").await?[0];
    let (state, output): (String, String) = (row.get(0), row.get(1));
    assert!(state == "passed" && output.starts_with("nobody\nA=1\n"), "{state} {output}");
    stop(host).await;
    Ok(())
}
