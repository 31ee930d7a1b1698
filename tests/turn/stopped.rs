//! A worker that is stopped, not killed: its pipes and connections stay open, and only its silence tells.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millhand::{
    config::{Home, host_id},
    service::Host,
    supervise::find_family,
};
use tokio::process::Command;

use crate::support::{
    millhand, wait_until, worker,
    world::{TURN_WITHIN, World, stop},
};

/// The tool would outlast any lease, and its children move away.
const LONG_TOOL: &str = r#"[
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "setsid sleep 1000 & touch begun; sleep 1000", "description": "Work"}},
  {"type": "text", "content": "finished"}, {"type": "done"}
]"#;

async fn signal(signal: &str, pid: u32) -> Result<()> {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status().await?;
    ensure!(status.success(), "kill {signal} {pid}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_turns_of_a_stopped_worker_are_dead_before_anyone_may_start_them_and_the_zombie_writes_nothing()
-> Result<()> {
    let world = World::new(&[("long", LONG_TOOL)]).await?;
    let mut stopped = worker::start(&world, &[("MILLHAND_TIMINGS_LEASE", "8s")])?;
    let pid = stopped.id().context("its process id")?;
    let task = world.queue("x").await?;
    wait_until("the tool runs", TURN_WITHIN, async || {
        let sql =
            "SELECT count(*) FROM millhand.turn_events WHERE kind = 'tool' AND data->'call'->>'status' = 'running'";
        world.one::<i64>(sql).await.is_ok_and(|n| n > 0)
    })
    .await?;
    let scope = host_id(&world.settings.home)?;
    // Somebody else, who rescues what runs out.
    let mut settings = world.settings.clone();
    settings.home = Home::new(world.path().join("other"));
    settings.timings.rescue = Duration::from_millis(100);
    let other = Host::start(&settings, world.db.store()?, millhand().to_owned()).await?;

    signal("-STOP", pid).await?;
    ensure!(!find_family(&scope).is_empty(), "its server runs, and its tool");
    wait_until("the attempt is given up", TURN_WITHIN, async || {
        world.one::<bool>("SELECT outcome IS NOT NULL FROM millhand.attempts WHERE number = 1").await.unwrap_or(false)
    })
    .await?;
    let left = find_family(&scope);
    ensure!(left.is_empty(), "alive when the task may start again: {left:?}");

    let record = "SELECT concat_ws(' ', a.outcome, a.error_message, a.ended_at, (SELECT count(*) FROM millhand.turn_events e \
                  WHERE e.attempt_id = a.id), (SELECT count(*) FROM millhand.change_sets c WHERE c.attempt_id = a.id)) \
                  FROM millhand.attempts a WHERE a.number = 1";
    let before: String = world.one(record).await?;
    signal("-CONT", pid).await?;
    // Awake again, it takes the task up anew, as the session is at home there.
    assert_eq!(world.settled(task).await?, "completed", "{:?}", world.verdict(task).await?);
    assert_eq!(world.one::<String>(record).await?, before, "the zombie wrote to its lost attempt");
    let row = &world.sql("SELECT attempts, infra_losses, last_attempt FROM millhand.tasks").await?[0];
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1), row.get::<_, i32>(2)), (1, 1, 2));
    stop(other).await;
    signal("-TERM", pid).await?;
    tokio::time::timeout(TURN_WITHIN, stopped.wait()).await??;
    ensure!(find_family(&scope).is_empty());
    Ok(())
}
