//! What is away for long: the database, and room on the disk. Nothing is lost, and what went wrong is said once and clearly.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    wait_until, worker,
    world::{TURN_WITHIN, World, stop},
};

/// How long the database is away: many leases. `ops/outage` has it away for longer.
fn away() -> Result<Duration> {
    let seconds = std::env::var("MILLHAND_OUTAGE_SECONDS").map_or(Ok(16), |seconds| seconds.parse());
    Ok(Duration::from_secs(seconds.context("MILLHAND_OUTAGE_SECONDS")?))
}

const LEASE: (&str, &str) = ("MILLHAND_TIMINGS_LEASE", "2s");
/// Lines in the log for all of it: each loop says once that it does not work, and once that it does again.
const LINES: usize = 60;

/// One turn is over while the database is away, the other would go on.
const SCRIPTS: [(&str, &str); 2] = [
    (
        "short",
        r#"[{"type": "tool_call", "id": "b", "name": "bash", "arguments": {"command": "touch begun-short; sleep 1; echo short >made", "description": "Work"}},
            {"type": "text", "content": "Done."}, {"type": "done"}]"#,
    ),
    (
        "long",
        r#"[{"type": "tool_call", "id": "b", "name": "bash", "arguments": {"command": "touch begun-long; sleep 8; echo long >made", "description": "Work"}},
            {"type": "text", "content": "Done."}, {"type": "done"}, {"type": "text", "content": "Done."}, {"type": "done"}]"#,
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_for_many_leases_loses_nothing_and_fills_no_log() -> Result<()> {
    let world = World::new(&SCRIPTS).await?;
    let proxy = world.db.proxy().await?;
    let url = world.db.url_through(&proxy);
    let mut worker =
        worker::start(&world, &[LEASE, ("MILLHAND_DATABASE_URL", &url), ("MILLHAND_TIMINGS_HEARTBEAT", "250ms")])?;
    let pid = worker.id();
    let tasks = [world.queue_for("short", "x").await?, world.queue_for("long", "y").await?];
    let worktrees = world.settings.home.worktree(1, 1).parent().context("parent")?.to_owned();
    let begun = |name: &str| {
        let folders = fs::read_dir(&worktrees).into_iter().flatten().flatten();
        folders.into_iter().any(|folder| folder.path().join(name).exists())
    };
    wait_until("both work", TURN_WITHIN, async || begun("begun-short") && begun("begun-long")).await?;
    let lines = || worker::log(&world).lines().count();
    let before = lines();

    // Nobody answers, and whoever is asked refuses.
    proxy.black_hole();
    tokio::time::sleep(away()? / 2).await;
    let port = proxy.port();
    drop(proxy);
    tokio::time::sleep(away()? / 2).await;
    assert_eq!(worker.id(), pid, "it did not give up");
    ensure!(worker.try_wait()?.is_none(), "it did not give up: {}", worker::log(&world));
    let _proxy = world.db.proxy_on(port).await?;

    let late = world.queue_for("short", "z").await?;
    for task in tasks.into_iter().chain([late]) {
        assert_eq!(
            world.settled(task).await?,
            "completed",
            "{:?}\n{}",
            world.verdict(task).await?,
            worker::log(&world)
        );
        let completed =
            format!("SELECT count(*) FROM millhand.attempts WHERE task_id = {task} AND outcome = 'completed'");
        assert_eq!(world.one::<i64>(&completed).await?, 1);
    }
    // A tool that was cut off is not called again by a scripted model, as a real one would: what it had done by then is there.
    for (task, made) in tasks.into_iter().zip(["b/begun-short", "b/begun-long"]) {
        let patch = String::from_utf8(world.patch(task).await?)?;
        assert_eq!(patch.matches(&format!("diff --git a{} {made}", &made[1..])).count(), 1, "{patch}");
    }
    assert_eq!(world.one::<i64>("SELECT count(*) FROM millhand.leases").await?, 0);
    let log = worker::log(&world);
    assert!(lines() - before < LINES && !log.contains("deadpool"), "{log}");
    kill_process(Pid::from_raw(i32::try_from(pid.context("pid")?)?).context("pid")?, Signal::TERM)?;
    ensure!(tokio::time::timeout(TURN_WITHIN, worker.wait()).await??.success());
    Ok(())
}

/// A small disk for a home; gone with all that is on it when dropped.
struct Disk(std::path::PathBuf);

impl Disk {
    /// None where we may not mount one.
    fn mount(at: &std::path::Path, megabytes: u32) -> Result<Option<Self>> {
        fs::create_dir_all(at)?;
        let size = format!("size={megabytes}m,mode=755");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        Ok(mounted.is_ok_and(|mounted| mounted.status.success()).then(|| Self(at.to_owned())))
    }

    /// Leaves so many megabytes free.
    fn fill(&self, but: u64) -> Result<()> {
        let disk = rustix::fs::statvfs(&self.0)?;
        let free = disk.f_bavail * disk.f_frsize;
        let size = free.checked_sub(but * 1_000_000).context("it is full already")?;
        Ok(fs::write(self.0.join("filler"), vec![1; usize::try_from(size)?])?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// The agent writes more than the disk, which fills up meanwhile, has room for a second time.
const LARGE: &str = r#"[{"type": "tool_call", "id": "b", "name": "bash", "arguments": {"command": "head -c 20000000 /dev/urandom >large; touch written; until [ -e go ]; do sleep 0.1; done", "description": "Work"}},
    {"type": "text", "content": "Done."}, {"type": "done"}, {"type": "text", "content": "Done."}, {"type": "done"}]"#;
const SMALL: &str = r#"[{"type": "text", "content": "Hello."}, {"type": "done"}]"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_clearly_and_the_turn_goes_on_when_there_is_room() -> Result<()> {
    let mut world = World::new(&[("small", SMALL), ("large", LARGE)]).await?;
    let Some(disk) = Disk::mount(&world.path().join("home"), 300)? else {
        crate::support::not_run!("a full disk: mounting a small one takes root");
        return Ok(());
    };
    world.settings.retry.backoff_base = Duration::from_secs(1);
    let host = world.start().await?;
    let warm = world.queue("x").await?;
    ensure!(world.settled(warm).await? == "completed", "{:?}", world.verdict(warm).await?);

    let task = world.queue_for("large", "y").await?;
    let worktree = world.settings.home.worktree(1, 2);
    wait_until("it is written", TURN_WITHIN, async || worktree.join("written").exists()).await?;
    disk.fill(10)?;
    fs::write(worktree.join("go"), "")?;
    let said = format!(
        "SELECT count(*) FROM millhand.attempts WHERE task_id = {task} AND error_message LIKE '%the disk is full: % MB are free for %'"
    );
    if let Err(error) =
        wait_until("it is said", TURN_WITHIN, async || world.one::<i64>(&said).await.is_ok_and(|count| count > 0)).await
    {
        let told = "SELECT coalesce(a.outcome, '-') || ' ' || coalesce(a.error_message, '') FROM millhand.attempts a ORDER BY id";
        let told: Vec<String> = world.sql(told).await?.iter().map(|row| row.get(0)).collect();
        return Err(error).context(told.join("\n"));
    }
    let sets = format!("SELECT count(*) FROM millhand.change_sets WHERE task_id = {task} AND state <> 'draft'");
    assert_eq!(world.one::<i64>(&sets).await?, 0, "nothing half is shown");
    let half = fs::read_dir(world.settings.home.mirror(1).join("objects"))?.flatten();
    let half: Vec<_> =
        half.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().starts_with("tmp")).collect();
    assert!(half.is_empty(), "what could not be written does not fill the disk further: {half:?}");
    // Tried again for a while, or a person is asked; never given up.
    assert!(
        ["pending", "running", "blocked"].contains(&&*world.state(task).await?),
        "{:?}",
        world.verdict(task).await?
    );

    fs::remove_file(disk.0.join("filler"))?;
    if world.state(task).await? == "blocked" {
        world.sql(&format!("SELECT millhand.retry_task({task})")).await?;
    }
    assert_eq!(world.settled(task).await?, "completed", "{:?}", world.verdict(task).await?);
    assert_eq!(world.one::<i64>(&sets).await?, 1);
    let home = world.settings.home.clone();
    let large = fs::read(home.worktree(1, 2).join("large"))?;
    let row = &world
        .sql(&format!("SELECT commit_id FROM millhand.change_sets WHERE task_id = {task} AND state = 'open'"))
        .await?[0];
    let mirror = git2::Repository::open_bare(home.mirror(1))?;
    let tree = mirror.find_commit(git2::Oid::from_str(row.get(0))?)?.tree()?;
    let entry = tree.get_name("large").context("large")?;
    assert!(
        large.len() == 20_000_000 && mirror.find_blob(entry.id())?.content() == large,
        "what was checkpointed is whole"
    );
    stop(host).await;
    Ok(())
}
