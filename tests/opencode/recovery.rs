//! Servers that die or get stuck, streams that break, prompts that are sent twice.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millhand::{
    agent::{AgentSession, Backend, Prompt},
    model::{
        event::{AgentEvent, ToolStatus},
        outcome::Ending,
        resume::TurnMessage,
    },
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::rig::{LONG, Rig, prompt};
use crate::support::{
    proxy::{TcpProxy, Upstream},
    wait_until,
};

/// Two steps; the tool of the first waits for a file.
pub const WAITS: &str = r#"[
  {"type": "text", "content": "I wait."},
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "while [ ! -e go ]; do sleep 0.1; done; echo went", "description": "Wait"}},
  {"type": "usage", "input": 100, "output": 10},
  {"type": "text", "content": "It is done."},
  {"type": "usage", "input": 200, "output": 20},
  {"type": "done"}
]"#;
const FINE: &str = r#"[{"type": "text", "content": "Fine."}, {"type": "done"}, {"type": "text", "content": "Again."}, {"type": "done"}]"#;

pub fn is_running(event: &AgentEvent) -> bool {
    matches!(event, AgentEvent::Tool { call, .. } if call.status == ToolStatus::Running)
}

pub fn signal(name: &str, pid: u32) {
    let status = std::process::Command::new("kill").args([name, &pid.to_string()]).status().expect("kill");
    assert!(status.success(), "kill {name} {pid}");
}

#[tokio::test]
async fn a_killed_server_costs_the_turn_and_the_same_prompt_goes_on_from_there() -> Result<()> {
    let rig = Rig::new(&[("waits", WAITS)]).await?;
    let directory = rig.worktree("w", &[]).await?;
    let session = rig.session(&directory, "waits").await?;
    let ours = prompt("Go");
    let pid = rig.backend.server_pid(1).await.context("a server")?;
    let ran = rig
        .prompt_until(&session, ours.clone(), CancellationToken::new(), |event| {
            if is_running(event) {
                signal("-KILL", pid);
            }
        })
        .await?;
    assert_eq!(ran.report.ending, Ending::ServerLost, "{ran:?}");
    let calls = rig.model.requests().len();
    let lost = rig.prompt(&session, ours.clone()).await?;
    assert_eq!(lost.report.ending, Ending::ServerLost, "without a server nothing is sent");

    std::fs::write(directory.join("go"), "")?;
    let mut request = rig.request(&directory, "waits");
    request.resume = Some((session.id.clone(), session.config_hash.clone()));
    let (resumed, _) = rig.open(request).await?;
    assert!(resumed.resumed && resumed.id == session.id);
    assert_ne!(rig.backend.server_pid(1).await, Some(pid));
    let again = rig.prompt(&resumed, ours.clone()).await?;
    assert_eq!(again.report.ending, Ending::Completed, "{again:?}");
    assert!(rig.model.requests().len() - calls <= 2, "it goes on, it does not begin again");
    assert!(!again.report.steps.is_empty());

    // A third time there is nothing left to do but to say so.
    let calls = rig.model.requests().len();
    let third = rig.prompt(&resumed, ours).await?;
    assert_eq!(third.report.ending, Ending::Completed, "{third:?}");
    assert_eq!(third.report.steps, again.report.steps);
    assert_eq!(rig.model.requests().len(), calls, "nothing is paid twice");
    rig.end().await
}

#[tokio::test]
async fn a_turn_that_was_stopped_goes_on_with_the_same_prompt() -> Result<()> {
    let rig = Rig::new(&[("waits", WAITS)]).await?;
    let directory = rig.worktree("w", &[]).await?;
    let session = rig.session(&directory, "waits").await?;
    let ours = prompt("Go");
    let stop = CancellationToken::new();
    let token = stop.clone();
    let ran = rig
        .prompt_until(&session, ours.clone(), stop, |e| {
            if is_running(e) {
                token.cancel()
            }
        })
        .await?;
    assert_eq!(ran.report.ending, Ending::Aborted, "{ran:?}");
    std::fs::write(directory.join("go"), "")?;
    let again = rig.prompt(&session, ours).await?;
    assert_eq!(again.report.ending, Ending::Completed, "{again:?}");
    rig.end().await
}

#[tokio::test]
async fn a_server_that_is_stuck_is_ended_and_its_turn_is_lost() -> Result<()> {
    let rig = Rig::with(&[("waits", WAITS)], json!({}), |setup| {
        setup.timings.stream_silence = Duration::from_secs(12);
        setup.timings.server_request = Duration::from_secs(5);
    })
    .await?;
    let directory = rig.worktree("w", &[]).await?;
    let session = rig.session(&directory, "waits").await?;
    let pid = rig.backend.server_pid(1).await.context("a server")?;
    let ran = rig
        .prompt_until(&session, prompt("Go"), CancellationToken::new(), |event| {
            if is_running(event) {
                signal("-STOP", pid);
            }
        })
        .await?;
    assert_eq!(ran.report.ending, Ending::ServerLost, "{ran:?}");
    wait_until("the stuck server is gone", LONG, async || rig.backend.server_pid(1).await.is_none()).await?;
    rig.end().await
}

/// A conversation on a server behind a proxy that can cut: the wrapper has the server listen elsewhere.
async fn behind_proxy(script: &str) -> Result<(Rig, AgentSession, TcpProxy)> {
    let rig = Rig::with(&[("script", script)], json!({}), |setup| {
        Rig::wrapped(
            setup,
            r#"[ "$1" = serve ] || exec "$REAL" "$@"
echo "$5" > "$HERE/asked.new"; mv "$HERE/asked.new" "$HERE/asked"
while [ ! -e "$HERE/other" ]; do sleep 0.05; done
exec "$REAL" serve --hostname 127.0.0.1 --port "$(cat "$HERE/other")""#,
        );
    })
    .await?;
    let here = rig.folder.path().canonicalize()?;
    let proxy = async {
        wait_until("the server is asked for", LONG, async || here.join("asked").exists()).await?;
        let asked: u16 = std::fs::read_to_string(here.join("asked"))?.trim().parse()?;
        let other = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let proxy = TcpProxy::start_on(asked, Upstream::Tcp(format!("127.0.0.1:{other}"))).await?;
        std::fs::write(here.join("other.new"), other.to_string())?;
        std::fs::rename(here.join("other.new"), here.join("other"))?;
        anyhow::Ok(proxy)
    };
    let directory = rig.worktree("w", &[]).await?;
    let (session, proxy) = tokio::try_join!(rig.session(&directory, "script"), proxy)?;
    Ok((rig, session, proxy))
}

#[tokio::test]
async fn a_stream_that_is_cut_changes_nothing_in_the_record() -> Result<()> {
    let script = r#"[
      {"type": "reasoning", "content": "I think about it."},
      {"type": "delay", "ms": 20},
      {"type": "text", "content": "A long text that is said slowly enough to be cut several times on its way to us, word by word."},
      {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "echo one", "description": "One"}},
      {"type": "delay", "ms": 20},
      {"type": "text", "content": "And another text, after the tool, that is cut as well, so that parts are lost here and there."},
      {"type": "done"}
    ]"#;
    let plain = Rig::new(&[("script", script)]).await?;
    let expected = plain.run("script").await?;
    plain.end().await?;

    let (rig, session, proxy) = behind_proxy(script).await?;
    let mut heard = 0;
    let ran = rig
        .prompt_until(&session, prompt("Do what the script says"), CancellationToken::new(), |event| {
            heard += 1;
            if matches!(event, AgentEvent::TextDelta { .. } | AgentEvent::Tool { .. }) && heard % 3 == 0 {
                proxy.cut();
            }
        })
        .await?;
    assert_eq!(ran.report.ending, Ending::Completed, "{ran:?}");
    assert_eq!(ran.record(), expected.record());
    assert_eq!(ran.report.steps.len(), expected.report.steps.len());
    rig.end().await
}

#[tokio::test]
async fn a_prompt_whose_answer_was_lost_is_sent_again_and_runs_once() -> Result<()> {
    let (rig, session, proxy) = behind_proxy(FINE).await?;
    proxy.drop_reply_to("/prompt_async");
    let ran = rig.prompt(&session, prompt("Go")).await?;
    proxy.reply_dropped().await?;
    assert_eq!(ran.report.ending, Ending::Completed, "{ran:?}");
    assert_eq!(ran.texts(), ["Fine."]);
    assert_eq!(rig.model.requests().len(), 1);
    rig.end().await
}

#[tokio::test]
async fn a_port_that_somebody_takes_is_tried_again_elsewhere() -> Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();
    let rig = Rig::with(&[("fine", FINE)], json!({}), |setup| {
        let script = format!(
            r#"if [ "$1" = serve ] && [ ! -e "$HERE/once" ]; then touch "$HERE/once"; exec "$REAL" serve --hostname 127.0.0.1 --port {port}; fi
exec "$REAL" "$@""#
        );
        Rig::wrapped(setup, &script);
    })
    .await?;
    assert_eq!(rig.run("fine").await?.report.ending, Ending::Completed);
    ensure!(rig.folder.path().join("once").exists());
    rig.end().await
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why_within_the_bound() -> Result<()> {
    let cases: [(&str, &str, Ending); 4] = [
        ("old", r#"[ "$1" = --version ] && { echo 1.10.0; exit 0; }; exit 9"#, Ending::Misconfigured),
        (
            "broken",
            r#"[ "$1" = --version ] && exec "$REAL" "$@"; echo "this is broken"; exit 1"#,
            Ending::Misconfigured,
        ),
        ("mute", r#"[ "$1" = --version ] && exec "$REAL" "$@"; exec sleep 300"#, Ending::ServerLost),
        (
            "liar",
            r#"[ "$1" = --version ] && exec "$REAL" "$@"; echo "server listening on http://x"; exec sleep 300"#,
            Ending::ServerLost,
        ),
    ];
    for (name, script, expected) in cases {
        let rig = Rig::with(&[("fine", FINE)], json!({}), |setup| {
            setup.timings.server_start = Duration::from_secs(4);
            Rig::wrapped(setup, script);
        })
        .await?;
        let directory = rig.worktree("w", &[]).await?;
        let (events, _keep) = tokio::sync::mpsc::channel(100);
        let begun = Instant::now();
        let error = rig.backend.ensure_session(rig.request(&directory, "fine"), &events).await.expect_err(name);
        assert_eq!(error.ending, expected, "{name}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(40), "{name}");
        match name {
            "old" => assert!(error.message.contains("1.10.0") && error.message.contains("1.14.50"), "{error}"),
            "broken" => assert!(error.message.contains("this is broken"), "{error}"),
            _ => {}
        }
        rig.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_prompt_to_go_on_reports_the_cost_of_the_whole_turn_and_tells_what_was_not_told() -> Result<()> {
    let rig = Rig::new(&[("fine", FINE)]).await?;
    for (tells_all, expected) in [(false, &["Again."][..]), (true, &["Fine.", "Again."])] {
        let directory = rig.worktree(&format!("w-{tells_all}"), &[]).await?;
        let session = rig.session(&directory, "fine").await?;
        let first = prompt("Go");
        let began = rig.prompt(&session, first.clone()).await?;
        let limit = Ending::StepLimit { answered: true };
        let next = TurnMessage::first(first.message_id.clone()).next(&limit, 1, std::time::SystemTime::now());
        let id = next.context("within the budget")?.id().to_owned();
        let go_on = Prompt { began_with: first.message_id, tells_all, ..Prompt::new("Go on".to_owned(), id) };
        let ran = rig.prompt(&session, go_on.clone()).await?;
        assert_eq!(ran.report.ending, Ending::Completed, "{ran:?}");
        assert_eq!(ran.texts(), expected);
        assert_eq!(ran.report.steps.len(), 2, "{ran:?}");
        assert!(ran.report.steps.contains(&began.report.steps[0]));
        // By an attempt that follows a lost one: nothing is paid again.
        let calls = rig.model.requests().len();
        let again = rig.prompt(&session, Prompt { tells_all: true, ..go_on }).await?;
        assert_eq!(again.texts(), ["Fine.", "Again."]);
        assert_eq!((again.report.steps, rig.model.requests().len()), (ran.report.steps, calls));
    }
    rig.end().await
}
