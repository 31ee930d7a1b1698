//! Checks execute what an agent wrote: it stays in its checkout, within its bounds, and nothing of it lives on.

use std::fs;

use anyhow::Result;
use millhand::supervise::find_family;

use super::{Duration, add, checked, sql, stop, turn, wait_until, world};

#[tokio::test(flavor = "multi_thread")]
async fn a_check_cannot_get_out_outlive_its_time_or_fill_anything() -> Result<()> {
    let mut world = world().await?;
    world.settings.timings.check = Duration::from_secs(6);
    world.settings.timings.kill_grace = Duration::from_millis(300);
    world.settings.worker.command_processes = 40;
    let root = world.path().canonicalize()?;
    let outside = root.join("outside");
    fs::create_dir(&outside)?;
    let home = root.join("home");
    let tree = "$PWD";
    for (name, command) in [
        (
            "daemons",
            "(setsid -f sleep 4242); setsid sh -c 'trap \"\" TERM; sleep 4242' & nohup sleep 4242 & exit 0".to_owned(),
        ),
        ("endless", "yes 'a long line of output that never ends'".to_owned()),
        ("one-line", "head -c 50000000 /dev/zero | tr '\\0' x; exit 4".to_owned()),
        ("sleeps", "sleep 4242".to_owned()),
        ("forks", "while :; do sleep 4242 & done".to_owned()),
        ("odd", "printf '\\377\\376\\000\\033[2J\\303(\\n'; exit 5".to_owned()),
        (
            "writes",
            format!(
                "echo x >{o}/x; echo x >{h}/agents/1/worktrees/s1/x; echo x >{h}/agents/1/x; echo x >{h}/mirrors/1.git/x; \
                 echo x >{h}/private/x; echo x >{r}/x; ln -s {o} link; echo x >link/y; echo x >../x; mkdir ../../c9; \
                 cat {h}/agents/1/worktrees/s1/made {h}/private/host; rm -rf ../../caches/.. ; true",
                o = outside.display(),
                h = home.display(),
                r = world.repository().display(),
            ),
        ),
        ("leaves", format!("mkdir -p a/b && chmod 000 a && ln -s / root && mkfifo pipe && test -d {tree}")),
        ("after", "test -e made".to_owned()),
    ] {
        add(&world, name, &command).await?;
    }
    let host = world.start().await?;
    let task = turn(&world).await?;
    let runs = checked(&world, task).await?;
    let said: Vec<_> = runs.iter().map(|run| (run.name.as_str(), run.state.as_str(), run.exit_code)).collect();
    assert_eq!(
        said,
        [
            ("daemons", "passed", Some(0)),
            ("endless", "timed_out", None),
            ("one-line", "failed", Some(4)),
            ("sleeps", "timed_out", None),
            ("forks", "failed", None),
            ("odd", "failed", Some(5)),
            ("writes", "passed", Some(0)),
            ("leaves", "passed", Some(0)),
            ("after", "passed", Some(0)),
        ]
    );
    for run in &runs {
        assert!(run.output.as_deref().unwrap_or_default().len() <= 40_000, "{}", run.name);
        assert!(run.duration_ms.is_some_and(|took| took < 20_000), "{run:?}");
    }
    assert!(runs[4].problem.as_deref().is_some_and(|problem| problem.contains("too many processes")), "{:?}", runs[4]);
    assert_eq!(runs[5].output.as_deref(), Some("\u{fffd}\u{fffd}\u{fffd}\u{1b}[2J\u{fffd}(\n"));
    assert!(!runs[6].output.as_deref().unwrap_or_default().contains("\nmade"), "{:?}", runs[6].output);
    assert_eq!(fs::read_dir(&outside)?.count(), 0);
    for place in ["agents/1/worktrees/s1/x", "agents/1/x", "mirrors/1.git/x", "private/x", "checks/1/c9"] {
        assert!(!home.join(place).exists(), "{place}");
    }
    assert!(!world.repository().join("x").exists());
    let scope = millhand::config::host_id(&world.settings.home)?;
    wait_until("nothing lives on", Duration::from_secs(5), async || {
        !find_family(&scope).iter().any(|pid| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.windows(4).any(|part| part == b"4242"))
        })
    })
    .await?;
    wait_until("the checkout is gone", Duration::from_secs(10), async || !home.join("checks/1/c1").exists()).await?;
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_cannot_change_what_is_checked_nor_what_was_found() -> Result<()> {
    let world = world().await?;
    add(&world, "test", "exit 1").await?;
    let host = world.start().await?;
    let task = turn(&world).await?;
    let runs = checked(&world, task).await?;
    assert_eq!(runs[0].command, "exit 1");
    // The check is changed by the operator: what was run stays on record.
    add(&world, "test", "true").await?;
    assert_eq!((checked(&world, task).await?[0].command.as_str(), runs[0].state.as_str()), ("exit 1", "failed"));
    for bad in ["", "-x", "a b", "../x"] {
        assert!(add(&world, bad, "true").await.is_err(), "{bad}");
    }
    assert!(add(&world, "x", " ").await.is_err());
    assert!(
        sql(&world, "INSERT INTO millhand.checks (project, name, command) VALUES ('none', 'x', 'y')", &[])
            .await
            .is_err()
    );
    stop(host).await;
    Ok(())
}
