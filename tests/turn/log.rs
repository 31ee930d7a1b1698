//! What a worker logs of a turn can be found by its task, attempt and session; and what it counts is told by `status`.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{
    millhand, wait_until,
    world::{TURN_WITHIN, World},
};

fn command(world: &World, arguments: &[&str]) -> Result<Command> {
    let opencode = &world.settings.opencode;
    let mut command = Command::new(millhand());
    command
        .args(arguments)
        .env_clear()
        .envs(world.settings.environment.0.iter())
        .env("MILLHAND_HOME", world.settings.home.root())
        .env("DATABASE_URL", world.db.url())
        .env("MILLHAND_API_LISTEN", "off")
        .env("MILLHAND_AGENT_OPENCODE_BINARY", opencode.binary.as_ref().context("opencode")?)
        .env("MILLHAND_AGENT_OPENCODE_CONFIG", opencode.config.as_ref().context("config")?)
        .env("MILLHAND_AGENT_OPENCODE_DEFAULT_MODEL", opencode.default_model.as_ref().context("model")?)
        .env("MILLHAND_LOG_FORMAT", "json")
        .env("MILLHAND_LOG_LEVEL", "millhand=debug,info")
        .env("MILLHAND_TIMINGS_HEARTBEAT", "500ms")
        .env("MILLHAND_TIMINGS_DRAIN", "1s")
        .stdin(Stdio::null());
    Ok(command)
}

#[tokio::test]
async fn each_line_of_a_turn_names_its_task_attempt_and_session_and_status_tells_the_counts() -> Result<()> {
    let world = World::new(&[("text", include_str!("../scripts/text_only.json"))]).await?;
    // Two sessions, so that the numbers differ.
    let (first, second) = (world.queue("one").await?, world.queue("two").await?);
    let log = world.path().join("log");
    let mut worker = command(&world, &["worker"])?.stderr(std::fs::File::create(&log)?).spawn()?;
    for task in [first, second] {
        assert_eq!(world.settled(task).await?, "completed", "{}", std::fs::read_to_string(&log)?);
    }
    let counted = async || {
        let status = command(&world, &["status", "--json"])?.output()?;
        let status: Value = serde_json::from_slice(&status.stdout)?;
        anyhow::Ok(status["workers"][0]["counters"].clone())
    };
    wait_until("the counts are told", TURN_WITHIN, async || {
        counted().await.is_ok_and(|counts| {
            counts["claimed"] == 2 && counts["finished.completed"] == 2 && counts["servers_started"] == 1
        })
    })
    .await?;
    kill_process(Pid::from_raw(i32::try_from(worker.id())?).context("pid")?, Signal::TERM)?;
    let status = tokio::task::spawn_blocking(move || worker.wait()).await??;
    assert!(status.success(), "{status}");

    let text = std::fs::read_to_string(&log)?;
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| line.starts_with('{')) {
        lines.push(serde_json::from_str::<Value>(line).with_context(|| line.to_owned())?);
    }
    let of = |line: &Value, field: &str| line["span"][field].as_i64();
    let over: Vec<_> = lines.iter().filter(|line| line["fields"]["message"] == "turn over").collect();
    assert_eq!(over.len(), 2, "{text}");
    for task in [first, second] {
        let line = over.iter().find(|line| of(line, "task") == Some(task)).context("its end")?;
        assert_eq!((of(line, "attempt"), of(line, "session")), (Some(1), Some(task)), "{line}");
        assert_eq!(line["span"]["project"], "acme");
    }
    // Whatever a turn's own modules say is said in its span.
    for line in &lines {
        let target = line["target"].as_str().unwrap_or_default();
        let is_of_a_turn = target.starts_with("millhand::turn") && !target.contains("lease");
        assert!(!is_of_a_turn || of(line, "task").is_some(), "{line}");
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
    Ok(())
}
