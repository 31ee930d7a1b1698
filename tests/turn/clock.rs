//! A worker whose clock is set by an hour while turns run: leases end by the database's clock, and are trusted by one that nobody can set.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use millhand::{
    config::{Home, host_id},
    service::Host,
    supervise::find_family,
};

use crate::support::{
    millhand, not_run, wait_until, worker,
    world::{TURN_WITHIN, World, stop},
};

/// Several leases long, once it is let go; and one that never ends.
const SCRIPTS: [(&str, &str); 2] = [
    (
        "waits",
        r#"[{"type": "tool_call", "id": "b", "name": "bash", "arguments": {"command": "touch begun; while [ ! -e go ]; do sleep 0.1; done; rm go", "description": "Wait"}},
            {"type": "text", "content": "Done."}, {"type": "done"}]"#,
    ),
    (
        "stays",
        r#"[{"type": "tool_call", "id": "b", "name": "bash", "arguments": {"command": "touch stays; sleep 1000", "description": "Stay"}},
            {"type": "text", "content": "Done."}, {"type": "done"}]"#,
    ),
];
/// In milliseconds, so that many pass.
const LEASE: u64 = 2_000;

/// Debian's libfaketime, for programs with threads.
fn libfaketime() -> Option<PathBuf> {
    let below = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let folders = below.map(|folder| folder.path()).chain(["/usr/lib".into(), "/usr/local/lib".into()]);
    folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|library| library.is_file())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_forward_by_an_hour_lets_nobody_steal_and_no_lease_live_for_ever() -> Result<()> {
    set_by("+3600").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_back_by_an_hour_lets_nobody_steal_and_no_lease_live_for_ever() -> Result<()> {
    set_by("-3600").await
}

async fn set_by(offset: &str) -> Result<()> {
    let Some(library) = libfaketime() else {
        not_run!("a worker whose clock is set: libfaketime is not there (Debian: apt-get install libfaketime)");
        return Ok(());
    };
    let world = World::new(&SCRIPTS).await?;
    let clock = world.path().join("clock");
    fs::write(&clock, "+0")?;
    let (library, file) = (library.to_string_lossy(), clock.to_string_lossy());
    let lease = format!("{LEASE}ms");
    // As when somebody sets it: what counts from the machine's start goes on as before.
    let variables = [
        ("LD_PRELOAD", &*library),
        ("FAKETIME_TIMESTAMP_FILE", &*file),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("MILLHAND_TIMINGS_LEASE", &*lease),
        ("MILLHAND_TIMINGS_HEARTBEAT", "250ms"),
    ];
    let mut set = worker::start(&world, &variables)?;
    let task = world.queue_for("waits", "x").await?;
    let worktree = world.settings.home.worktree(1, 1);
    wait_until("it works", TURN_WITHIN, async || worktree.join("begun").exists())
        .await
        .with_context(|| worker::log(&world))?;
    // Somebody else, whose clock is right, and who rescues what runs out.
    let mut settings = world.settings.clone();
    settings.home = Home::new(world.path().join("other"));
    settings.timings.rescue = Duration::from_millis(100);
    (settings.timings.lease, settings.timings.heartbeat) = (Duration::from_millis(LEASE), Duration::from_millis(250));
    let other = Host::start(&settings, world.db.store()?, millhand().to_owned()).await?;

    let before = renewed(&world, task).await?;
    fs::write(&clock, offset)?;
    // It is renewed over many leases, and never for longer than one.
    wait_until("it is renewed for long", TURN_WITHIN, async || {
        renewed(&world, task).await.is_ok_and(|now| now > before + 4.0 * seconds())
    })
    .await
    .with_context(|| worker::log(&world))?;
    let left: f64 = world
        .one("SELECT max(extract(epoch FROM expires_at - clock_timestamp()))::float8 FROM millhand.leases")
        .await?;
    ensure!(left <= seconds(), "the lease has {left} s left");
    fs::write(worktree.join("go"), "")?;
    ensure!(world.settled(task).await? == "completed", "{:?}", world.verdict(task).await?);
    let lost: i64 = world.one("SELECT count(*) FROM millhand.attempts WHERE outcome <> 'completed'").await?;
    ensure!(lost == 0, "it was taken away: {}", worker::log(&world));

    // A new turn under the wrong clock is rescued when its worker is gone, and no later.
    let stays: i64 = world
        .one("INSERT INTO millhand.tasks (session_id, prompt, model) VALUES (1, 'y', 'scripted/stays') RETURNING id")
        .await?;
    wait_until("it works again", TURN_WITHIN, async || worktree.join("stays").exists())
        .await
        .with_context(|| worker::log(&world))?;
    set.kill().await?;
    let killed = std::time::Instant::now();
    let rescued = format!("SELECT count(*) FROM millhand.attempts WHERE task_id = {stays} AND outcome = 'lost'");
    wait_until("it is rescued", TURN_WITHIN, async || world.one::<i64>(&rescued).await.is_ok_and(|count| count == 1))
        .await?;
    ensure!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());
    let scope = host_id(&world.settings.home)?;
    wait_until("its processes end", TURN_WITHIN, async || find_family(&scope).is_empty()).await?;
    stop(other).await;
    // That its clock was set at all.
    let hour = i64::from(offset.parse::<i32>()?.signum()) + started_hour(&world)?;
    ensure!(worker::log(&world).contains(&format!("T{:02}:", hour.rem_euclid(24))), "{}", worker::log(&world));
    Ok(())
}

fn seconds() -> f64 {
    Duration::from_millis(LEASE).as_secs_f64()
}

/// Until when a task's lease is renewed, by the database's clock.
async fn renewed(world: &World, task: i64) -> Result<f64> {
    world
        .one(&format!("SELECT extract(epoch FROM expires_at)::float8 FROM millhand.leases WHERE task_id = {task}"))
        .await
}

/// The hour of the first line that was logged.
fn started_hour(world: &World) -> Result<i64> {
    let log = worker::log(world);
    let (_, time) = log.split_once('T').context("a time in the log")?;
    time.get(..2).context("an hour")?.parse().context("an hour")
}
