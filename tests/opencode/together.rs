//! Many sessions on one server at once: every event reaches its own turn, whole.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use millhand::{
    agent::Backend as _,
    model::{event::AgentEvent, outcome::Ending},
};
use serde_json::json;

use super::rig::{LONG, Rig, prompt};
use crate::support::wait_until;

const SESSIONS: usize = 20;

#[tokio::test]
async fn twenty_sessions_in_twenty_worktrees_lose_no_event() -> Result<()> {
    let scripts: Vec<(String, String)> = (0..SESSIONS)
        .map(|n| {
            let text = (0..40).map(|word| format!("word{n}x{word} ")).collect::<String>();
            // They end with what no secret begins with: such an end is held back, and told with the whole part only.
            let steps = json!([
                {"type": "reasoning", "content": format!("thinking of {n}.")},
                {"type": "text", "content": text},
                {"type": "tool_call", "id": format!("call{n}"), "name": "write", "arguments": {"filePath": "mine.txt", "content": format!("{n}\n")}},
                {"type": "text", "content": format!("done {n}.")},
                {"type": "done"},
            ]);
            (format!("s{n}"), steps.to_string())
        })
        .collect();
    let scripts: Vec<(&str, &str)> = scripts.iter().map(|(name, json)| (name.as_str(), json.as_str())).collect();
    let rig = Rig::new(&scripts).await?;
    let one = async |n: usize| {
        let script = format!("s{n}");
        let directory = rig.worktree(&format!("w{n}"), &[]).await?;
        let session = rig.session(&directory, &script).await?;
        let ran = rig.prompt(&session, prompt("Go")).await?;
        anyhow::Ok((directory, ran))
    };
    let runs = futures::future::join_all((0..SESSIONS).map(one)).await;
    for (n, ran) in runs.into_iter().enumerate() {
        let (directory, ran) = ran.with_context(|| format!("session {n}"))?;
        assert_eq!(ran.report.ending, Ending::Completed, "{n}: {ran:?}");
        assert_eq!(std::fs::read_to_string(directory.join("mine.txt"))?, format!("{n}\n"));
        // The deltas of each part add up to its text: none lost, none doubled, none of another's.
        let deltas = ran.deltas();
        assert_eq!(deltas.len(), 2, "{n}: {ran:?}");
        for event in &ran.events {
            if let AgentEvent::Text { part, text } = event {
                assert_eq!(deltas.get(part.as_str()).map(|delta| delta.trim_end()), Some(text.trim_end()), "{n}");
            }
        }
        assert_eq!(ran.texts().len(), 2);
        assert!(ran.texts()[0].contains(&format!("word{n}x39")));
        let tools: BTreeSet<_> = ran
            .events
            .iter()
            .filter_map(|e| if let AgentEvent::Tool { call, .. } = e { Some(&call.call_id) } else { None })
            .collect();
        assert_eq!(tools.into_iter().collect::<Vec<_>>(), [&format!("call{n}")]);
        assert_eq!(ran.report.steps.len(), 2, "{n}");
    }
    assert_eq!(rig.backend.unknown_events(1).await, Some(0));
    rig.end().await
}

#[tokio::test]
async fn who_stops_waiting_for_a_server_does_not_have_a_second_one_started_beside_it() -> Result<()> {
    let fine = r#"[{"type": "text", "content": "Fine."}, {"type": "done"}]"#;
    let rig = Rig::with(&[("fine", fine)], json!({}), |setup| {
        let script = r#"[ "$1" = serve ] && { echo started >> "$HERE/starts"; until [ -e "$HERE/go" ]; do sleep 0.05; done; }; exec "$REAL" "$@""#;
        Rig::wrapped(setup, script);
    })
    .await?;
    let starts = rig.folder.path().join("starts");
    let directory = rig.worktree("w", &[]).await?;
    let (sender, _events) = tokio::sync::mpsc::channel(100);
    let request = rig.request(&directory, "fine");
    tokio::select! {
        opened = rig.backend.ensure_session(request, &sender) => anyhow::bail!("{opened:?}"),
        started = wait_until("it starts", LONG, async || starts.exists()) => started?,
    }
    // Whoever waited is gone. The next one gets the server that they began.
    std::fs::write(rig.folder.path().join("go"), "")?;
    let session = rig.session(&directory, "fine").await?;
    assert_eq!(rig.prompt(&session, prompt("Do")).await?.report.ending, Ending::Completed);
    assert_eq!(std::fs::read_to_string(&starts)?, "started\n");
    assert_eq!(rig.setup.counters.all()["servers_started"], 1);
    rig.end().await
}

#[tokio::test]
async fn many_who_need_the_server_start_it_once() -> Result<()> {
    let fine = r#"[{"type": "text", "content": "Fine."}, {"type": "done"}]"#;
    let rig = Rig::with(&[("fine", fine)], json!({}), |setup| {
        Rig::wrapped(setup, r#"[ "$1" = serve ] && echo started >> "$HERE/starts"; exec "$REAL" "$@""#);
    })
    .await?;
    let directory = rig.worktree("w", &[]).await?;
    let sessions = futures::future::try_join_all((0..5).map(|_| rig.session(&directory, "fine"))).await?;
    assert_eq!(std::fs::read_to_string(rig.folder.path().join("starts"))?, "started\n");
    let ids: BTreeSet<_> = sessions.into_iter().map(|session| session.id).collect();
    assert_eq!(ids.len(), 5);
    rig.end().await
}
