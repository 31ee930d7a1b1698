//! What a worker occupies: a real `millhand worker`, as its kernel counts it. The servers of the agents are not in it.

use std::{fs, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use tokio::{process::Child, time::Instant};

use super::{
    Bench, Figure,
    place::{Place, stop},
    turns::{PROJECT, opencode, operator_config, start_model},
};
use crate::{
    git::Git,
    scripted::{ScriptedModel, model_name},
    store::Store,
};

const GROUP: &str = "memory";
/// Turns that run at once.
const TURNS: usize = 20;
/// How long a worker may take to be ready, and how long turns may take to begin.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// How long it is watched.
const WATCH: Duration = Duration::from_secs(3);
/// Between looks.
const LOOK: Duration = Duration::from_millis(100);

/// Measures a worker of this program on this database, in a folder below the home.
pub async fn run(bench: &Bench<'_>, store: &Store, report: &mut dyn FnMut(Figure)) -> Result<()> {
    let binary = opencode(bench.settings).await?;
    let place = Place::new(bench.settings)?;
    let model = start_model().await?;
    let measured = within(bench, store, &place, &model, &binary, report).await;
    model.shutdown().await;
    place.remove().await?;
    measured
}

async fn within(
    bench: &Bench<'_>,
    store: &Store,
    place: &Place,
    model: &ScriptedModel,
    binary: &std::path::Path,
    report: &mut dyn FnMut(Figure),
) -> Result<()> {
    let git = Git::new(None, place.environment().0.into_iter().collect(), place.home()).await?;
    let source = place.repository(git.binary(), "source", 20).await?;
    store.load_repository(PROJECT, &source.to_string_lossy()).await?;
    let mut command = place.millhand(bench, store)?;
    command
        .arg("worker")
        .env("MILLHAND_WORKER_CONCURRENCY", TURNS.to_string())
        .env("MILLHAND_AGENT_OPENCODE_BINARY", binary)
        .env("MILLHAND_AGENT_OPENCODE_CONFIG", operator_config(model).to_string())
        .env("MILLHAND_TIMINGS_DRAIN", "1s")
        .env("MILLHAND_API_LISTEN", "off")
        .stderr(Stdio::from(fs::File::create(place.root().join("worker.log"))?));
    let mut worker = command.spawn().context("start millhand worker")?;
    let measured = bench.unless_stopped(measure(store, model, &mut worker, report)).await;
    stop(&mut worker).await?;
    measured.map_err(|error| {
        let log = fs::read_to_string(place.root().join("worker.log")).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        if last.is_empty() { error } else { error.context(format!("the worker says: {}", last.join(" / "))) }
    })
}

async fn measure(
    store: &Store,
    model: &ScriptedModel,
    worker: &mut Child,
    report: &mut dyn FnMut(Figure),
) -> Result<()> {
    let ready = Instant::now() + READY_WITHIN;
    while !store.knows_agents().await? {
        if let Some(status) = worker.try_wait()? {
            bail!("millhand worker ended: {status}");
        }
        ensure!(Instant::now() < ready, "millhand worker was not ready within {READY_WITHIN:?}");
        tokio::time::sleep(LOOK).await;
    }
    watch(worker, "worker, idle", Some("< 40 MB"), report).await?;
    for _ in 0..TURNS {
        store.load_task(PROJECT, None, "Think for ever.", &model_name("stalling")).await?;
    }
    let all_ask = |requests: &[crate::scripted::RecordedRequest]| requests.len() >= TURNS;
    model
        .wait_for_requests(READY_WITHIN, all_ask)
        .await
        .with_context(|| format!("{TURNS} turns did not begin within {READY_WITHIN:?}"))?;
    watch(worker, "worker, 20 turns running", None, report).await
}

/// Reads the process's status for a while.
async fn watch(worker: &Child, what: &str, aim: Option<&'static str>, report: &mut dyn FnMut(Figure)) -> Result<()> {
    let pid = worker.id().context("millhand worker ended")?;
    let (mut resident, mut own) = (Vec::new(), Vec::new());
    let until = Instant::now() + WATCH;
    while Instant::now() < until {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read what the worker occupies")?;
        resident.push(megabytes(&status, "VmRSS")?);
        own.push(megabytes(&status, "RssAnon")?);
        tokio::time::sleep(LOOK).await;
    }
    report(Figure { aim, ..Figure::of_numbers(GROUP, format!("{what}: resident"), resident, "MB") });
    report(Figure::of_numbers(GROUP, format!("{what}: of it heap and stacks, not the program's file"), own, "MB"));
    Ok(())
}

/// A line of `/proc/<pid>/status`, which counts in kB of 1024 bytes.
fn megabytes(status: &str, name: &str) -> Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kilobytes: Option<f64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
    Ok(kilobytes.with_context(|| format!("the kernel does not tell {name}"))? * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_kilobytes_become_megabytes() {
        let status = "Name:\tmillhand\nVmRSS:\t   40000 kB\nRssAnon:\t    1000 kB\nRssFile:\t   1 kB\n";
        assert!((megabytes(status, "VmRSS").expect("VmRSS") - 40.96).abs() < 1e-9);
        assert!((megabytes(status, "RssAnon").expect("RssAnon") - 1.024).abs() < 1e-9);
        assert!(megabytes(status, "VmSwap").is_err());
    }
}
