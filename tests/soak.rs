//! Turn after turn in one worker, without faults: memory, descriptors, threads and database connections stay as they are once it is warm,
//! and its agent's server stays within what it is recycled at.
//!
//! `ops/soak` runs it for long and keeps the results; the test here is a short one.

mod growth;

use std::{env, fs, fs::File, io::Write as _, time::Duration};

use anyhow::{Context, Result, ensure};
use millhand::{config::host_id, supervise::find_family};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use self::growth::{Sample, grown};
use crate::support::{
    wait_until, worker,
    world::{TURN_WITHIN, World},
};

/// A file, a command that leaves a process behind, two answers.
const SCRIPT: &str = r#"[
  {"type": "text", "content": "I write the file that was asked for."},
  {"type": "tool_call", "id": "w", "name": "write", "arguments": {"filePath": "{{prompt}}.txt", "content": "{{prompt}}\n"}},
  {"type": "tool_call", "id": "b", "name": "bash", "arguments": {"command": "setsid sleep 3072 >/dev/null 2>&1 & echo worked", "description": "Work"}},
  {"type": "text", "content": "Written."}, {"type": "done"}
]"#;
/// Prompts of a session, which is closed behind the last.
const LINE: usize = 5;
/// Over which the least that is seen counts: what comes and goes is no growth.
const WATCH: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_as_large_after_many_turns_as_after_few() -> Result<()> {
    let turns = env::var("MILLHAND_SOAK_TURNS").map_or(Ok(20), |text| text.parse::<usize>().context(text))?;
    // So often it is looked at.
    let rounds = (turns / 10).clamp(2, 10);
    let world = World::new(&[("work", SCRIPT)]).await?;
    // Sessions end, so that all of a turn's life is in it: worktrees come from the pool and go to the trash.
    let often = [
        ("MILLHAND_TIMINGS_REAP", "1s"),
        ("MILLHAND_TIMINGS_REAP_GRACE", "1s"),
        ("MILLHAND_TIMINGS_TRASH_KEPT", "5s"),
        ("MILLHAND_TIMINGS_TEND", "2s"),
        ("MILLHAND_TIMINGS_DIRECTORY_IDLE", "2s"),
        ("MILLHAND_WORKER_CONCURRENCY", "4"),
        ("MILLHAND_LOG_LEVEL", "error"),
    ];
    let mut worker = worker::start(&world, &often)?;
    let began = std::time::Instant::now();
    let mut samples = Vec::new();
    for round in 1..=rounds {
        let until = turns * round / rounds;
        let from = turns * (round - 1) / rounds;
        work(&world, from, until).await.with_context(|| worker::log(&world))?;
        let sample = look(&world, worker.id().context("the worker ended")?, until).await?;
        println!("{}", sample.text());
        samples.push(sample);
    }
    stop(&world, &mut worker).await?;
    let grown = grown(&samples);
    keep(&samples, began.elapsed(), &grown)?;
    ensure!(grown.is_empty(), "after {turns} turns: {}", grown.join("; "));
    Ok(())
}

/// Has these turns done, in sessions that are decided on and closed afterwards, and waits until nothing is left to do.
async fn work(world: &World, from: usize, until: usize) -> Result<()> {
    let mut session: Option<i64> = None;
    for turn in from..until {
        if (turn - from).is_multiple_of(LINE) {
            session = None;
        }
        let prompt = format!("turn-{turn}");
        session = match session {
            None => {
                let task = world.queue(&prompt).await?;
                Some(world.one(&format!("SELECT session_id FROM millhand.tasks WHERE id = {task}")).await?)
            }
            Some(session) => {
                let insert = "INSERT INTO millhand.tasks (session_id, prompt) VALUES";
                world.sql(&format!("{insert} ({session}, '{prompt}')")).await?;
                Some(session)
            }
        };
    }
    let within = TURN_WITHIN + Duration::from_secs(2) * u32::try_from(until - from)?;
    let open = "SELECT count(*) FROM millhand.tasks WHERE state <> 'completed'";
    let is_zero = async |sql: &str| world.one::<i64>(sql).await.is_ok_and(|count| count == 0);
    wait_until("all turns are over", within, async || is_zero(open).await).await?;
    // What waits for a person is looked at again and again: more of it may take more memory.
    world.sql("UPDATE millhand.change_sets SET state = 'rejected' WHERE state = 'open'").await?;
    let decided = "state = 'rejected', decided_by = 'soak', decided_at = now()";
    world.sql(&format!("UPDATE millhand.pending_changes SET {decided} WHERE state = 'pending'")).await?;
    world.sql("UPDATE millhand.sessions SET state = 'closed' WHERE state = 'open'").await?;
    let there = "SELECT count(*) FROM millhand.worktrees WHERE state IN ('ready', 'reaping')";
    wait_until("all worktrees are gone", within, async || is_zero(there).await).await
}

/// The least of each figure over a while.
async fn look(world: &World, pid: u32, turns: usize) -> Result<Sample> {
    let scope = host_id(&world.settings.home)?;
    let mut least: Option<Sample> = None;
    let until = std::time::Instant::now() + WATCH;
    wait_until("a while is over", WATCH * 20, async || {
        if let Ok(sample) = sample(world, pid, &scope, turns).await {
            least = Some(least.take().map_or(sample, |least| least.least(sample)));
        }
        std::time::Instant::now() > until && least.is_some()
    })
    .await?;
    least.context("the worker tells nothing")
}

async fn sample(world: &World, pid: u32, scope: &str, turns: usize) -> Result<Sample> {
    let connections =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let servers = worker::servers(scope);
    Ok(Sample {
        turns: turns as u64,
        own_kb: status(pid, "RssAnon")?,
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
        threads: status(pid, "Threads")?,
        connections: u64::try_from(world.one::<i64>(connections).await?)?,
        server_kb: servers.iter().filter_map(|pid| status(*pid, "VmRSS").ok()).sum(),
        processes: find_family(scope).len() as u64,
    })
}

/// A number in `/proc/<pid>/status`.
fn status(pid: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).context("no such line")?;
    line.split_whitespace().next().context("no number")?.parse().context("no number")
}

async fn stop(world: &World, worker: &mut tokio::process::Child) -> Result<()> {
    let pid = worker.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).context("the worker ended")?;
    kill_process(pid, Signal::TERM)?;
    ensure!(tokio::time::timeout(TURN_WITHIN, worker.wait()).await??.success(), "{}", worker::log(world));
    let left = find_family(&host_id(&world.settings.home)?);
    ensure!(left.is_empty(), "processes are left: {left:?}");
    Ok(())
}

/// Adds it to the results, if `MILLHAND_SOAK_RESULTS` names a file.
fn keep(samples: &[Sample], took: Duration, grown: &[String]) -> Result<()> {
    let Ok(path) = env::var("MILLHAND_SOAK_RESULTS") else { return Ok(()) };
    let samples: Vec<_> = samples.iter().map(Sample::json).collect();
    let line = json!({"seconds": took.as_secs(), "grown": grown, "samples": samples});
    let mut file = File::options().create(true).append(true).open(&path).with_context(|| path.clone())?;
    writeln!(file, "{line}").with_context(|| path)
}
