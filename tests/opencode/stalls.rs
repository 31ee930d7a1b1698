//! Turns that do not go on: providers that say nothing, tools that never end, agents in circles, aborts that do nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millhand::{
    agent::Backend,
    model::{event::AgentEvent, outcome::Ending},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    recovery::{WAITS, is_running, signal},
    rig::{LONG, Rig, prompt},
};
use crate::support::wait_until;

#[tokio::test]
async fn a_provider_that_falls_silent_is_asked_again_long_before_the_turn_has_stalled() -> Result<()> {
    let script = r#"[
      {"type": "wait", "times": 1}, {"type": "text", "content": "There you are."}, {"type": "done"}
    ]"#;
    let rig = Rig::with(&[("silent", script)], json!({}), |setup| {
        setup.timings.provider_silence = Duration::from_secs(2);
    })
    .await?;
    let begun = Instant::now();
    let ran = rig.run("silent").await?;
    assert_eq!(ran.report.ending, Ending::Completed, "{ran:?}");
    ensure!(ran.events.iter().any(|event| matches!(event, AgentEvent::Retry { attempt: 1, .. })), "{ran:?}");
    ensure!(begun.elapsed() < Duration::from_secs(200), "opencode's own bound is 300 s");
    rig.end().await
}

#[tokio::test]
async fn a_tool_that_never_ends_is_broken_off_and_one_that_takes_long_is_not() -> Result<()> {
    let rig = Rig::with(&[("waits", WAITS)], json!({}), |setup| {
        setup.timings.turn_stall = Duration::from_secs(10);
        setup.timings.turn_tool = Duration::from_secs(15);
    })
    .await?;
    let directory = rig.worktree("w", &[]).await?;
    let session = rig.session(&directory, "waits").await?;
    let mut since = None;
    let ran = rig
        .prompt_until(&session, prompt("Go"), CancellationToken::new(), |event| {
            if is_running(event) {
                since.get_or_insert_with(Instant::now);
            }
        })
        .await?;
    assert_eq!(ran.report.ending, Ending::Stalled, "{ran:?}");
    ensure!(ran.report.error.contains("turn_tool"), "{ran:?}");
    ensure!(since.context("the tool ran")?.elapsed() >= Duration::from_secs(14), "silence of a tool is no stall");
    rig.end().await
}

#[tokio::test]
async fn an_agent_that_does_the_same_over_and_over_is_broken_off() -> Result<()> {
    let step = r#"{"type": "tool_call", "id": "c", "name": "bash", "arguments": {"command": "echo same", "description": "Same"}},
                  {"type": "text", "content": "Once more."}"#;
    let script = format!(r#"[{}, {{"type": "done"}}]"#, vec![step; 40].join(",").replacen("\"c\"", "\"c0\"", 1));
    let rig = Rig::new(&[("circles", &script)]).await?;
    let ran = rig.run("circles").await?;
    assert_eq!(ran.report.ending, Ending::ToolLoop, "{ran:?}");
    let calls = rig.model.requests().len();
    ensure!((20..30).contains(&calls), "{calls} calls");
    rig.end().await
}

#[tokio::test]
async fn a_server_that_stops_mid_abort_is_ended_with_its_turn() -> Result<()> {
    let rig = Rig::with(&[("waits", WAITS)], json!({}), |setup| {
        setup.timings.server_request = Duration::from_secs(4);
        setup.timings.server_grace = Duration::from_secs(60);
    })
    .await?;
    let directory = rig.worktree("w", &[]).await?;
    let session = rig.session(&directory, "waits").await?;
    let pid = rig.backend.server_pid(1).await.context("a server")?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    let ran = rig
        .prompt_until(&session, prompt("Go"), stop, |event| {
            if is_running(event) {
                signal("-STOP", pid);
                token.cancel();
            }
        })
        .await?;
    assert_eq!(ran.report.ending, Ending::Aborted, "{ran:?}");
    // When the turn is said to be over, nothing of it works any more.
    ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the server that did not abort still lives");
    assert_eq!(rig.backend.server_pid(1).await, None);
    rig.end().await
}

#[tokio::test]
async fn a_server_that_is_killed_loses_all_its_turns_and_each_goes_on() -> Result<()> {
    let fine = r#"[{"type": "delay", "ms": 200}, {"type": "text", "content": "One two three four five six seven eight nine ten eleven twelve."}, {"type": "done"}]"#;
    let rig = Rig::new(&[("waits", WAITS), ("streams", fine)]).await?;
    let mut turns = Vec::new();
    for (name, script) in [("tool", "waits"), ("stream", "streams")] {
        let directory = rig.worktree(name, &[]).await?;
        turns.push((rig.session(&directory, script).await?, directory, script, prompt("Go")));
    }
    let pid = rig.backend.server_pid(1).await.context("a server")?;
    let run = |n: usize| rig.prompt_until(&turns[n].0, turns[n].3.clone(), CancellationToken::new(), |_| {});
    let kill = async {
        wait_until("both run", LONG, async || rig.model.requests().len() >= 2).await?;
        signal("-KILL", pid);
        anyhow::Ok(())
    };
    let (tool, stream, killed) = tokio::join!(run(0), run(1), kill);
    killed?;
    for ran in [tool?, stream?] {
        assert_eq!(ran.report.ending, Ending::ServerLost, "{ran:?}");
    }
    std::fs::write(turns[0].1.join("go"), "")?;
    let again = futures::future::join_all(turns.iter().map(|(session, directory, script, ours)| async {
        let mut request = rig.request(directory, script);
        request.resume = Some((session.id.clone(), session.config_hash.clone()));
        let (resumed, _) = rig.open(request).await?;
        ensure!(resumed.resumed);
        rig.prompt(&resumed, ours.clone()).await
    }))
    .await;
    for ran in again {
        let ran = ran?;
        assert_eq!(ran.report.ending, Ending::Completed, "{ran:?}");
    }
    assert_eq!(rig.backend.reserve(&[1], 1).len(), 1);
    rig.end().await
}
