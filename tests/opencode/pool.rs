//! Servers of several projects: who gets one, who makes room, and that none ends under a turn.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use millhand::{
    agent::{AgentSession, Backend, Seat},
    model::{ask::AskPolicy, event::AgentEvent, outcome::Ending},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    recovery::{WAITS, is_running, signal},
    rig::{LONG, Rig, prompt},
};
use crate::support::wait_until;

const FINE: &str = r#"[{"type": "text", "content": "Fine."}, {"type": "done"}, {"type": "text", "content": "Again."}, {"type": "done"}]"#;

/// A conversation in a project of its own.
async fn open(rig: &Rig, project: i64, script: &str) -> Result<(AgentSession, PathBuf)> {
    let directory = rig.worktree(&format!("p{project}"), &[]).await?;
    let mut request = rig.request(&directory, script);
    request.project.id = project;
    request.project.folder = rig.project.folder.with_file_name(project.to_string());
    Ok((rig.open(request).await?.0, directory))
}

fn projects(seats: &[Seat]) -> Vec<i64> {
    seats.iter().map(Seat::project_id).collect()
}

#[tokio::test]
async fn an_idle_server_makes_room_and_a_busy_one_never() -> Result<()> {
    let rig = Rig::with(&[("waits", WAITS), ("fine", FINE)], json!({}), |setup| setup.max_servers = 2).await?;
    let (busy, directory) = open(&rig, 1, "waits").await?;
    let (idle, _) = open(&rig, 2, "fine").await?;
    let pids = [rig.backend.server_pid(1).await, rig.backend.server_pid(2).await];
    ensure!(pids.iter().all(Option::is_some));
    let rig = Arc::new(rig);
    let (running, runs) = tokio::sync::oneshot::channel();
    let turn = tokio::spawn({
        let rig = Arc::clone(&rig);
        async move {
            let mut running = Some(running);
            rig.prompt_until(&busy, prompt("Go"), CancellationToken::new(), |event| {
                if is_running(event) {
                    running.take().map(|running| running.send(()));
                }
            })
            .await
        }
    });
    runs.await?;

    // The idle one makes room, and is gone before the other's server starts.
    let seats = rig.backend.reserve(&[1, 3], 5);
    assert_eq!(projects(&seats), [1, 3]);
    let (third, _) = open(&rig, 3, "fine").await?;
    assert_eq!(rig.backend.server_pid(1).await, pids[0]);
    assert_eq!(rig.backend.server_pid(2).await, None);
    assert_eq!(rig.prompt(&third, prompt("Go")).await?.report.ending, Ending::Completed);

    // Now both places have a seat: nobody else gets in, and nobody is thrown out.
    assert_eq!(projects(&rig.backend.reserve(&[2, 4], 5)), [] as [i64; 0]);
    let lost = rig.prompt(&idle, prompt("Go")).await?;
    assert_eq!(lost.report.ending, Ending::WorkerTrouble, "{lost:?}");
    rig.backend.tend().await;
    assert_eq!(rig.backend.server_pid(1).await, pids[0]);
    ensure!(rig.backend.server_pid(3).await.is_some());

    // Without the seat the place is free again, although the turn beside it runs.
    drop(seats);
    assert_eq!(projects(&rig.backend.reserve(&[2], 5)), [2]);
    std::fs::write(directory.join("go"), "")?;
    assert_eq!(turn.await??.report.ending, Ending::Completed);
    Arc::into_inner(rig).context("the last handle")?.end().await
}

#[tokio::test]
async fn idle_large_and_old_servers_end_and_a_busy_one_waits_for_its_turn() -> Result<()> {
    let rig = Rig::with(&[("waits", WAITS), ("fine", FINE)], json!({}), |setup| {
        setup.recycle_bytes = 200_000_000;
    })
    .await?;
    let (session, directory) = open(&rig, 1, "waits").await?;
    let pid = rig.backend.server_pid(1).await.context("a server")?;
    let turn = rig.prompt_until(&session, prompt("Go"), CancellationToken::new(), |_| {});
    let tend = async {
        wait_until("the turn runs", LONG, async || rig.model.requests().len() == 1).await?;
        // Larger than it may be, and with nothing but this turn to keep it.
        rig.backend.tend().await;
        ensure!(rig.backend.server_pid(1).await == Some(pid), "a busy server was ended");
        std::fs::write(directory.join("go"), "")?;
        Ok(())
    };
    let (ran, tended) = tokio::join!(turn, tend);
    tended?;
    let ran = ran?;
    assert_eq!(ran.report.ending, Ending::Completed, "{ran:?}");
    rig.backend.tend().await;
    wait_until("it is recycled", LONG, async || rig.backend.server_pid(1).await.is_none()).await?;
    // And a new one takes over where it was.
    let mut request = rig.request(&directory, "fine");
    request.resume = Some((session.id.clone(), session.config_hash.clone()));
    let (resumed, _) = rig.open(request).await?;
    assert!(resumed.resumed && resumed.id == session.id);
    rig.end().await
}

#[tokio::test]
async fn worktrees_that_are_not_used_are_let_go_of_and_used_ones_are_not() -> Result<()> {
    let rig = Rig::with(&[("waits", WAITS), ("fine", FINE)], json!({}), |setup| setup.max_directories = 2).await?;
    let directory = rig.worktree("busy", &[]).await?;
    let session = rig.session(&directory, "waits").await?;
    let ran = rig.prompt_until(&session, prompt("Go"), CancellationToken::new(), |_| {});
    let others = async {
        wait_until("the turn runs", LONG, async || rig.model.requests().len() == 1).await?;
        for name in ["a", "b", "c"] {
            let other = rig.worktree(name, &[]).await?;
            let session = rig.session(&other, "fine").await?;
            ensure!(rig.prompt(&session, prompt("Go")).await?.report.ending == Ending::Completed);
        }
        ensure!(rig.backend.loaded_directories(1).await.is_some_and(|n| n <= 2), "too many are loaded");
        let refused = rig.backend.close(&rig.project, &directory).await.expect_err("a turn runs there");
        ensure!(refused.message.contains("a turn runs"), "{refused}");
        std::fs::write(directory.join("go"), "")?;
        Ok(())
    };
    let (ran, others) = tokio::join!(ran, others);
    others?;
    let ran = ran?;
    assert_eq!(ran.report.ending, Ending::Completed, "{ran:?}");
    rig.backend.close(&rig.project, &directory).await?;
    // Let go of, it is loaded again for who comes back.
    assert_eq!(rig.prompt(&session, prompt("More")).await?.report.ending, Ending::Completed);
    rig.end().await
}

#[tokio::test]
async fn a_new_configuration_waits_for_the_turn_that_runs() -> Result<()> {
    let mut rig = Rig::with(&[("waits", WAITS), ("fine", FINE)], json!({}), |setup| {
        setup.timings.server_drain = Duration::ZERO;
    })
    .await?;
    let directory = rig.worktree("w", &[]).await?;
    let session = rig.session(&directory, "waits").await?;
    let pid = rig.backend.server_pid(1).await.context("a server")?;
    rig.project.asks = AskPolicy::Allow;
    let other = rig.worktree("other", &[]).await?;
    let seats = rig.backend.reserve(&[1], 1);
    let turn = rig.prompt_until(&session, prompt("Go"), CancellationToken::new(), |_| {});
    let change = async {
        wait_until("the turn runs", LONG, async || rig.model.requests().len() == 1).await?;
        let (_, events) = rig.open(rig.request(&other, "fine")).await?;
        let warned =
            |event: &AgentEvent| matches!(event, AgentEvent::Warning { message } if message.contains("configuration"));
        ensure!(events.iter().any(warned), "{events:?}");
        ensure!(rig.backend.server_pid(1).await == Some(pid));
        // It has had its time: the project takes no new turns until the server is idle.
        rig.backend.tend().await;
        ensure!(rig.backend.reserve(&[1], 1).is_empty(), "a server that is to be replaced took another turn");
        std::fs::write(directory.join("go"), "")?;
        Ok(())
    };
    let (ran, changed) = tokio::join!(turn, change);
    changed?;
    assert_eq!(ran?.report.ending, Ending::Completed);
    drop(seats);
    assert_eq!(projects(&rig.backend.reserve(&[1], 1)), [1]);
    rig.open(rig.request(&other, "fine")).await?;
    let next = rig.backend.server_pid(1).await;
    assert!(next.is_some() && next != Some(pid));
    rig.end().await
}

#[tokio::test]
async fn the_port_and_the_processes_of_a_killed_server_are_given_back() -> Result<()> {
    let rig = Rig::new(&[("waits", WAITS)]).await?;
    let directory = rig.worktree("w", &[]).await?;
    let session = rig.session(&directory, "waits").await?;
    let pid = rig.backend.server_pid(1).await.context("a server")?;
    let port = listening_port(pid).context("its port")?;
    let ran = rig
        .prompt_until(&session, prompt("Go"), CancellationToken::new(), |event| {
            if is_running(event) {
                signal("-KILL", pid);
            }
        })
        .await?;
    assert_eq!(ran.report.ending, Ending::ServerLost, "{ran:?}");
    // Its tool outlived it, and is ended with it; nobody holds the port any more.
    wait_until("the tool is gone", LONG, async || {
        millhand::supervise::find_family(rig.setup.supervisor.scope()).is_empty()
    })
    .await?;
    drop(std::net::TcpListener::bind(("127.0.0.1", port))?);
    rig.end().await
}

/// The port of loopback that a process listens on.
fn listening_port(pid: u32) -> Option<u16> {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<String> =
        command.split(|byte| *byte == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    words.iter().skip_while(|word| *word != "--port").nth(1)?.parse().ok()
}
