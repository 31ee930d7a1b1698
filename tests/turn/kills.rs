//! A worker that is killed at each step of a turn, as far as the database sees them: just before what it wrote counts, or just after, when it
//! can no longer know. The next one finishes, and one result is recorded.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millhand::{config::host_id, supervise::find_family};
use tokio_postgres::Client;

use crate::support::{
    wait_until, worker,
    world::{TURN_WITHIN, World},
};

/// The file is named by the prompt, and written in the first of two steps.
const WORK: &str = r#"[
  {"type": "text", "content": "I work."},
  {"type": "tool_call", "id": "w", "name": "write", "arguments": {"filePath": "{{prompt}}.txt", "content": "{{prompt}}\n"}},
  {"type": "tool_call", "id": "b", "name": "bash", "arguments": {"command": "sleep 0.3; echo {{prompt}} >{{prompt}}.txt", "description": "Work"}},
  {"type": "usage", "input": 100, "output": 10},
  {"type": "text", "content": "Done."},
  {"type": "usage", "input": 200, "output": 20},
  {"type": "done"}
]"#;
/// Locked by the test while the worker is to be caught.
const LOCK: i64 = 4711;

/// A step, by what it writes: the name, and when it is.
const STEPS: [(&str, &str); 10] = [
    ("claim", "INSERT ON millhand.leases"),
    ("worktree", "INSERT ON millhand.worktrees"),
    ("session", "UPDATE OF home_host ON millhand.sessions"),
    ("conversation", "INSERT ON millhand.agent_sessions"),
    ("prompt", "UPDATE OF message_id ON millhand.tasks"),
    ("stream", "INSERT ON millhand.turn_events"),
    ("usage", "INSERT ON millhand.usage"),
    ("change set", "INSERT ON millhand.change_sets"),
    ("changes", "INSERT ON millhand.pending_changes"),
    ("finish", "DELETE ON millhand.leases"),
];

/// Backends of the database that wait for the lock.
const CAUGHT: &str = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
                      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Has the next write of a step wait for the lock, which this connection holds.
async fn lay(trap: &Client, when: &str) -> Result<()> {
    let sql = format!(
        "SELECT pg_advisory_lock({LOCK}); \
         CREATE OR REPLACE FUNCTION public.wait_here() RETURNS trigger LANGUAGE plpgsql AS $$ \
         BEGIN PERFORM pg_advisory_xact_lock_shared({LOCK}); RETURN NULL; END $$; \
         CREATE TRIGGER wait_here AFTER {when} FOR EACH ROW EXECUTE FUNCTION public.wait_here()"
    );
    trap.batch_execute(&sql).await.context("lay the trap")
}

/// Lets what was caught go on to its commit, or undoes it; and takes the trap away.
async fn spring(trap: &Client, when: &str, is_committed: bool) -> Result<()> {
    if !is_committed {
        trap.batch_execute(&format!("SELECT pg_terminate_backend(pid) FROM ({CAUGHT}) AS caught")).await?;
        wait_until("it is undone", TURN_WITHIN, async || {
            trap.query(CAUGHT, &[]).await.is_ok_and(|rows| rows.is_empty())
        })
        .await?;
    }
    let table = when.rsplit(' ').next().context("a table")?;
    trap.batch_execute(&format!("SELECT pg_advisory_unlock({LOCK})")).await?;
    trap.batch_execute(&format!("DROP TRIGGER wait_here ON {table}")).await.context("take the trap away")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_just_before_a_step_of_a_turn_counts_leaves_one_result() -> Result<()> {
    killed_at_each_step(false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_just_after_a_step_of_a_turn_leaves_one_result() -> Result<()> {
    killed_at_each_step(true).await
}

async fn killed_at_each_step(is_committed: bool) -> Result<()> {
    let world = World::new(&[("work", WORK)]).await?;
    let trap = world.db.client().await?;
    let mut worker = worker::start(&world, &[])?;
    for (number, (step, when)) in STEPS.iter().enumerate() {
        let what = format!("killed at the {step}, which {}", if is_committed { "counts" } else { "is undone" });
        lay(&trap, when).await?;
        let prompt = format!("p{number}");
        let task = world.queue(&prompt).await?;
        wait_until(&what, TURN_WITHIN, async || trap.query(CAUGHT, &[]).await.is_ok_and(|rows| !rows.is_empty()))
            .await
            .with_context(|| worker::log(&world))?;
        worker.kill().await?;
        spring(&trap, when, is_committed).await?;
        worker = worker::start(&world, &[])?;
        let state = world.settled(task).await.with_context(|| what.clone())?;
        ensure!(state == "completed", "{what}: {:?}", world.verdict(task).await?);
        one_result(&world, task, &prompt).await.context(what)?;
    }
    // Before it has begun to listen for signals, one would just end it.
    let started = async || worker::log(&world).matches("worker started").count() > STEPS.len();
    wait_until("the last worker runs", TURN_WITHIN, started).await?;
    let pid = worker.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)).context("pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    ensure!(tokio::time::timeout(TURN_WITHIN, worker.wait()).await??.success(), "{}", worker::log(&world));
    let scope = host_id(&world.settings.home)?;
    wait_until("nothing is left", Duration::from_secs(10), async || find_family(&scope).is_empty()).await?;
    let billed = i64::try_from(world.model.billed().total())?;
    let recorded: i64 = world.one("SELECT sum(input_tokens + output_tokens)::bigint FROM millhand.usage").await?;
    ensure!(recorded <= billed, "{recorded} tokens recorded, {billed} billed");
    Ok(())
}

async fn one_result(world: &World, task: i64, prompt: &str) -> Result<()> {
    recorded_once(world, task).await?;
    let patch = String::from_utf8(world.patch(task).await?)?;
    assert_eq!(patch.matches(&format!("+++ b/{prompt}.txt")).count(), 1, "{patch}");
    assert_eq!(patch.matches("+++ b/").count(), 1, "{patch}");
    Ok(())
}

/// One attempt of a task came to its end, and nothing of it is open.
pub(super) async fn recorded_once(world: &World, task: i64) -> Result<()> {
    let completed = format!("SELECT count(*) FROM millhand.attempts WHERE task_id = {task} AND outcome = 'completed'");
    assert_eq!(world.one::<i64>(&completed).await?, 1, "completed attempts");
    let unended = format!("SELECT count(*) FROM millhand.attempts WHERE task_id = {task} AND ended_at IS NULL");
    assert_eq!(world.one::<i64>(&unended).await?, 0, "attempts without an end");
    let sets = format!("SELECT count(*) FROM millhand.change_sets WHERE task_id = {task} AND state <> 'draft'");
    assert_eq!(world.one::<i64>(&sets).await?, 1, "change sets");
    assert_eq!(world.one::<i64>("SELECT count(*) FROM millhand.leases").await?, 0, "leases");
    Ok(())
}
