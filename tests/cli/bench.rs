//! `millhand bench`: what it prints can be read, and nothing is left behind.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::{Cli, WITHIN};
use crate::support::wait_until;

/// What a benchmark has left in the home.
fn left_in_home(cli: &Cli) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for entry in std::fs::read_dir(cli.home()).into_iter().flatten() {
        left.push(entry?.file_name().to_string_lossy().into_owned());
    }
    left.retain(|name| name.starts_with("bench-"));
    Ok(left)
}

#[tokio::test]
async fn figures_of_git_can_be_parsed_and_nothing_stays() -> Result<()> {
    let cli = Cli::new().await?;
    let ran = cli.run(&["bench", "--quick", "--only", "git", "--files", "300", "--json"]).await?;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let figures = ran.objects();
    for figure in &figures {
        assert_eq!((&figure["v"], &figure["type"], &figure["group"]), (&1.into(), &"figure".into(), &"git".into()));
        assert!(figure["p50"].as_f64().is_some_and(|p50| p50 > 0.0), "{figure}");
        assert!(figure["samples"].as_u64().is_some_and(|samples| samples > 0), "{figure}");
        assert!(figure["name"].is_string() && figure["unit"].is_string(), "{figure}");
    }
    let named = |what: &str| figures.iter().any(|f| f["name"].as_str().is_some_and(|name| name.starts_with(what)));
    for what in
        ["worktree, new, 300 files", "worktree, pooled", "git worktree add", "checkpoint and diff", "git add -A"]
    {
        assert!(named(what), "no figure of {what}: {figures:#?}");
    }
    assert_eq!(left_in_home(&cli)?, Vec::<String>::new());
    Ok(())
}

/// 200 people at once, each watching a turn, all of which write 2,000 rows a second.
#[tokio::test]
async fn two_hundred_streams_are_served_without_a_gap_and_soon() -> Result<()> {
    let cli = Cli::new().await?;
    let ran = cli.run(&["bench", "--quick", "--only", "streams", "--json"]).await?;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let figures = ran.objects();
    let named = |what: &str| {
        let found = figures.iter().find(|figure| figure["name"].as_str().is_some_and(|name| name.starts_with(what)));
        found.with_context(|| format!("no figure of {what}: {figures:#?}"))
    };
    let seen = named("event → viewer, 200 streams")?;
    println!("{seen}\n{}\n{}", named("rows written")?, named("millhand's own processor time")?);
    // Each of the 200 got all of its 50 rows, in order: else there are no figures.
    assert_eq!(seen["samples"], 10_000);
    // The aim is 300 ms, of a release build on a machine that does nothing else.
    assert!(seen["p99"].as_f64().is_some_and(|p99| p99 < 1_000.0), "{seen}");
    assert_eq!(left_in_home(&cli)?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn what_it_needs_and_does_not_find_is_said_clearly() -> Result<()> {
    let cli = Cli::new().await?;
    let mut command = cli.command(&["bench", "--only", "queue", "--json"]);
    command.env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none");
    let ran = super::finish(command).await?;
    assert_eq!((ran.code, ran.stdout.len()), (7, 0), "{}", ran.stderr);

    let mut command = cli.command(&["bench", "--only", "turns", "--json"]);
    command.env("MILLHAND_AGENT_OPENCODE_BINARY", cli.folder().join("no-opencode"));
    let ran = super::finish(command).await?;
    assert_eq!((ran.code, ran.stdout.len()), (2, 0), "{}", ran.stderr);
    assert!(ran.stderr.contains("opencode"), "{}", ran.stderr);
    assert_eq!(left_in_home(&cli)?, Vec::<String>::new());
    Ok(())
}

/// What benchmarks have made on the server and not removed (yet: others may be running).
async fn scratch_databases(client: &tokio_postgres::Client) -> Result<usize> {
    Ok(client.query("SELECT 1 FROM pg_database WHERE datname LIKE 'millhand\\_scratch\\_%'", &[]).await?.len())
}

#[tokio::test]
async fn a_benchmark_that_is_terminated_leaves_nothing() -> Result<()> {
    let cli = Cli::new().await?;
    let client = cli.db.client().await?;
    for part in ["git", "queue"] {
        let mut command = cli.command(&["bench", "--only", part, "--json"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        wait_until("the benchmark has made something of its own", WITHIN, async || match part {
            "git" => !left_in_home(&cli).unwrap_or_default().is_empty(),
            _ => scratch_databases(&client).await.is_ok_and(|count| count > 0),
        })
        .await?;
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).context("its process id")?;
        kill_process(pid, Signal::TERM)?;
        let status = tokio::time::timeout(WITHIN, child.wait()).await??;
        assert_eq!(status.code(), Some(130), "{part}");
        assert_eq!(left_in_home(&cli)?, Vec::<String>::new(), "{part}");
    }
    wait_until("no scratch database is left", WITHIN, async || {
        scratch_databases(&client).await.is_ok_and(|count| count == 0)
    })
    .await
}
