//! Every ending has its name, on the real server.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use millhand::{
    agent::Backend,
    model::{
        ask::AskPolicy,
        event::{AgentEvent, ToolStatus},
        outcome::Ending,
    },
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::rig::{LONG, Ran, Rig, prompt};

const FINE: &str = r#"[{"type": "text", "content": "Fine."}, {"type": "done"}]"#;
/// Says something, then nothing more.
const STALLS: &str = r#"[{"type": "text", "content": "One moment"}, {"type": "usage", "input": 50, "output": 5}, {"type": "stall"}, {"type": "text", "content": "never"}, {"type": "done"}]"#;
const SLEEPS: &str = r#"[
  {"type": "text", "content": "I look first."},
  {"type": "tool_call", "id": "c0", "name": "bash", "arguments": {"command": "ls", "description": "List"}},
  {"type": "usage", "input": 60, "output": 6},
  {"type": "text", "content": "I sleep."},
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "sleep 300", "description": "Sleep"}},
  {"type": "usage", "input": 70, "output": 7},
  {"type": "text", "content": "Slept."},
  {"type": "done"}
]"#;
const ASKS: &str = r#"[
  {"type": "text", "content": "I ask."},
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "touch asked.txt", "description": "Touch"}},
  {"type": "text", "content": "I may."},
  {"type": "done"}
]"#;

fn faulty(fault: &str) -> String {
    format!(r#"[{fault}, {{"type": "text", "content": "Half"}}, {{"type": "done"}}]"#)
}

#[tokio::test]
async fn every_ending_of_a_provider_has_its_name() -> Result<()> {
    let cases: Vec<(&str, String, Ending)> = vec![
        (
            "length",
            r#"[{"type":"text","content":"Half"},{"type":"finish","reason":"length"},{"type":"done"}]"#.into(),
            Ending::Length,
        ),
        (
            "filtered",
            r#"[{"type":"text","content":"Half"},{"type":"finish","reason":"content_filter"},{"type":"done"}]"#.into(),
            Ending::ContentFilter,
        ),
        ("empty", r#"[{"type":"text","content":""},{"type":"done"}]"#.into(), Ending::Empty),
        ("unauthorised", faulty(r#"{"type":"http","status":401}"#), Ending::ProviderError { status: Some(401) }),
        ("bad", faulty(r#"{"type":"http","status":400}"#), Ending::ProviderError { status: Some(400) }),
        ("html", faulty(r#"{"type":"html"}"#), Ending::UnknownFinishLoop),
        (
            "reasonless",
            r#"[{"type":"text","content":"x"},{"type":"finish","reason":"none"},{"type":"done"}]"#.into(),
            Ending::UnknownFinishLoop,
        ),
        ("fine", FINE.into(), Ending::Completed),
    ];
    let scripts: Vec<(&str, &str)> = cases.iter().map(|(name, script, _)| (*name, script.as_str())).collect();
    let rig = Rig::new(&scripts).await?;
    let runs = futures::future::join_all(cases.iter().map(|(name, _, _)| rig.run(name))).await;
    for ((name, _, expected), ran) in cases.iter().zip(runs) {
        let report = ran.with_context(|| (*name).to_owned())?.report;
        assert_eq!(report.ending, *expected, "{name}: {report:?}");
        assert_eq!(report.error.is_empty(), report.ending == Ending::Completed, "{name}: {report:?}");
    }
    rig.end().await
}

#[tokio::test]
async fn a_provider_that_wants_an_hour_gets_it_in_the_queue() -> Result<()> {
    let limited = faulty(r#"{"type":"http","status":429,"retry_after":"3600","message":"slow down"}"#);
    let rig = Rig::new(&[("limited", &limited)]).await?;
    let begun = Instant::now();
    let ran = rig.run("limited").await?;
    assert!(begun.elapsed() < Duration::from_secs(60));
    let Ending::RateLimited { retry_after_seconds: Some(seconds) } = ran.report.ending else { panic!("{ran:?}") };
    assert!((3500..=3600).contains(&seconds), "{seconds}");
    assert!(ran.events.iter().any(|event| matches!(event, AgentEvent::Retry { attempt: 1, .. })), "{ran:?}");
    rig.end().await
}

#[tokio::test]
async fn what_cannot_run_is_refused_before_anything_is_paid() -> Result<()> {
    let rig = Rig::new(&[("fine", FINE)]).await?;
    let directory = rig.worktree("w", &[]).await?;
    let (events, _keep) = mpsc::channel(100);
    let good = rig.request(&directory, "fine");
    let refused = async |change: &dyn Fn(&mut millhand::agent::SessionRequest)| {
        let mut request = good.clone();
        change(&mut request);
        rig.backend.ensure_session(request, &events).await.expect_err("refused")
    };
    let error = refused(&|r| r.mode = Some("nobody".to_owned())).await;
    assert_eq!(error.ending, Ending::AgentInvalid);
    assert!(error.message.contains("build"), "{error}");
    // A subagent is no mode to choose.
    assert_eq!(refused(&|r| r.mode = Some("general".to_owned())).await.ending, Ending::AgentInvalid);
    let error = refused(&|r| r.model = Some("scripted/fien".to_owned())).await;
    assert_eq!(error.ending, Ending::ModelInvalid);
    assert!(error.message.contains("scripted/fine") && error.message.contains("millhand models"), "{error}");
    assert_eq!(refused(&|r| r.model = Some("elsewhere/fine".to_owned())).await.ending, Ending::ModelInvalid);
    assert_eq!(refused(&|r| r.variant = Some("odd".to_owned())).await.ending, Ending::ModelInvalid);
    let error = refused(&|r| r.model = None).await;
    assert_eq!(error.ending, Ending::Misconfigured);
    assert!(error.message.contains("millhand models"), "{error}");

    let mut request = good.clone();
    request.model = Some("fine".to_owned());
    let session = rig.open(request).await?.0;
    assert_eq!(session.model, "scripted/fine", "a bare name is of the default provider");
    // What only the server finds out, it says at once: there is no idle to wait for.
    for (mode, model, expected) in
        [("nobody", "scripted/fine", Ending::AgentInvalid), ("build", "scripted/nothing", Ending::ModelInvalid)]
    {
        let mut wrong = session.clone();
        (wrong.mode, wrong.model) = (mode.to_owned(), model.to_owned());
        let begun = Instant::now();
        let ran = rig.prompt(&wrong, prompt("Go")).await?;
        assert_eq!(ran.report.ending, expected, "{ran:?}");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    assert_eq!(rig.model.requests().len(), 0);
    let ran = rig.prompt(&session, prompt("Go")).await?;
    assert_eq!(ran.report.ending, Ending::Completed, "the conversation is none the worse: {ran:?}");
    rig.end().await
}

#[tokio::test]
async fn asks_are_refused_with_a_warning_or_allowed_by_policy() -> Result<()> {
    let question = r#"[
      {"type": "tool_call", "id": "c1", "name": "question", "arguments": {"questions": [{"question": "Which?", "header": "Which", "options": [{"label": "a", "description": "a"}]}]}},
      {"type": "text", "content": "Then not."},
      {"type": "done"}
    ]"#;
    let extra = json!({"permission": {"bash": {"*": "allow", "touch*": "ask"}}});
    let mut rig = Rig::with(&[("asks", ASKS), ("question", question)], extra, |_| {}).await?;
    let ran = rig.run("asks").await?;
    assert_eq!(ran.report.ending, Ending::AskRejected, "{ran:?}");
    assert!(ran.warnings().iter().any(|warning| warning.contains("bash")), "{ran:?}");
    let asks = |ran: &Ran, wanted: &str| {
        let asks =
            ran.events.iter().filter(|event| matches!(event, AgentEvent::Ask { answer, .. } if answer == wanted));
        asks.count()
    };
    assert_eq!(asks(&ran, "reject"), 1);
    // Denied, a question does not stop the turn.
    assert_eq!(rig.run("question").await?.report.ending, Ending::Completed);

    rig.project.asks = AskPolicy::Allow;
    let ran = rig.run("asks").await?;
    assert_eq!(ran.report.ending, Ending::Completed, "{ran:?}");
    assert_eq!((asks(&ran, "once"), asks(&ran, "reject")), (1, 0));
    assert!(ran.warnings().is_empty(), "{ran:?}");
    rig.end().await?;

    let extra = json!({"permission": {"question": "allow"}});
    let rig = Rig::with(&[("question", question)], extra, |_| {}).await?;
    let ran = rig.run("question").await?;
    assert_eq!(ran.report.ending, Ending::QuestionRejected, "{ran:?}");
    rig.end().await
}

/// Starts a turn, stops it when an event says that it is where it should be, and gives what came of it.
async fn stopped(rig: &Rig, script: &str, is_there: impl Fn(&AgentEvent) -> bool) -> Result<Ran> {
    let directory = rig.worktree(&format!("stop-{script}"), &[]).await?;
    let session = rig.session(&directory, script).await?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    let ran = rig
        .prompt_until(&session, prompt("Go"), stop, |event| {
            if is_there(event) {
                token.cancel()
            }
        })
        .await;
    ran.with_context(|| script.to_owned())
}

#[tokio::test]
async fn a_cancel_ends_the_turn_and_never_the_server_nor_the_turns_beside_it() -> Result<()> {
    let slow = r#"[{"type":"delay","ms":40},{"type":"text","content":"A text that takes its time, word by word, until it has been said to the end."},{"type":"done"}]"#;
    let limited = faulty(r#"{"type":"http","status":429,"retry_after":"30","message":"slow down"}"#);
    let rig = Rig::new(&[("stalls", STALLS), ("sleeps", SLEEPS), ("limited", &limited), ("slow", slow)]).await?;
    let is_text = |event: &AgentEvent| matches!(event, AgentEvent::TextDelta { .. });
    let is_running = |event: &AgentEvent| matches!(event, AgentEvent::Tool { call, .. } if call.call_id == "c1" && call.status == ToolStatus::Running);
    let is_retry = |event: &AgentEvent| matches!(event, AgentEvent::Retry { .. });
    let (in_stream, in_tool, in_retry, beside) = tokio::join!(
        stopped(&rig, "stalls", is_text),
        stopped(&rig, "sleeps", is_running),
        stopped(&rig, "limited", is_retry),
        rig.run("slow"),
    );
    for ran in [&in_stream, &in_tool, &in_retry] {
        let ran = ran.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        assert_eq!(ran.report.ending, Ending::Aborted, "{ran:?}");
    }
    let in_tool = in_tool?;
    // opencode counts a step when it is over: the one that was broken off is nowhere in its books.
    assert_eq!(in_tool.report.steps.iter().map(|step| step.input_tokens).sum::<i64>(), 60, "an aborted turn costs too");
    assert_eq!(beside?.report.ending, Ending::Completed);
    let pid = rig.backend.server_pid(1).await;
    assert!(pid.is_some());
    assert_eq!(rig.run("slow").await?.report.ending, Ending::Completed);
    assert_eq!(rig.backend.server_pid(1).await, pid);
    rig.end().await
}

#[tokio::test]
async fn silence_is_a_stall_a_long_tool_is_not_and_nothing_lasts_for_ever() -> Result<()> {
    let rig = Rig::with(&[("stalls", STALLS), ("sleeps", SLEEPS)], json!({}), |setup| {
        setup.timings.turn_stall = Duration::from_secs(6);
        setup.timings.turn_limit = Duration::from_secs(15);
    })
    .await?;
    let begun = Instant::now();
    let (stalls, sleeps) = tokio::join!(rig.run("stalls"), rig.run("sleeps"));
    assert_eq!(stalls?.report.ending, Ending::Stalled);
    let sleeps = sleeps?;
    assert_eq!(sleeps.report.ending, Ending::TimedOut, "{sleeps:?}");
    assert!(begun.elapsed() >= Duration::from_secs(15) && begun.elapsed() < LONG);
    assert!(rig.backend.server_pid(1).await.is_some());
    rig.end().await
}
