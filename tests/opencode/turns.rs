//! Turns as they should be: what is told, what is counted, what they cost.

use anyhow::Result;
use millhand::{
    agent::Backend,
    model::{
        event::{AgentEvent, ToolStatus},
        outcome::Ending,
    },
    scripted::Prices,
};
use rust_decimal::Decimal;
use serde_json::json;

use super::rig::{Rig, prompt};

const HELLO: &str = r#"[
  {"type": "reasoning", "content": "A short one. <dcp-message-id>m0001</dcp-message-id>"},
  {"type": "text", "content": "Hello <b>you</b>. <dcp-message-id>m0002</dcp-message-id>Bye."},
  {"type": "usage", "input": 1200, "output": 34, "reasoning": 11, "cache_read": 800},
  {"type": "done"},
  {"type": "text", "content": "Again."},
  {"type": "usage", "input": 1300, "output": 3},
  {"type": "done"}
]"#;

#[tokio::test]
async fn a_turn_is_told_once_counted_and_charged() -> Result<()> {
    let rig = Rig::new(&[("hello", HELLO)]).await?;
    let directory = rig.worktree("w", &[]).await?;
    let session = rig.session(&directory, "hello").await?;
    assert_eq!((session.mode.as_str(), session.model.as_str()), ("build", "scripted/hello"));
    let ran = rig.prompt(&session, prompt("Say hello")).await?;
    assert_eq!(ran.report.ending, Ending::Completed, "{ran:?}");
    assert_eq!(ran.report.summary, "Hello <b>you</b>. Bye.");
    assert_eq!(ran.texts(), ["Hello <b>you</b>. Bye."]);
    assert_eq!(ran.deltas().into_values().collect::<Vec<_>>(), ["Hello <b>you</b>. Bye."]);
    let reasoning: Vec<_> = ran
        .events
        .iter()
        .filter_map(|e| if let AgentEvent::Reasoning { text, .. } = e { Some(text) } else { None })
        .collect();
    assert_eq!(reasoning, ["A short one. <dcp-message-id>m0001</dcp-message-id>"]);
    let unknown: Vec<_> = ran.events.iter().filter(|event| matches!(event, AgentEvent::Unknown { .. })).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert_eq!(rig.backend.unknown_events(1).await, Some(0));

    let [step] = ran.report.steps.as_slice() else { panic!("one step: {:?}", ran.report.steps) };
    assert_eq!(
        (step.input_tokens, step.output_tokens, step.reasoning_tokens, step.cache_read_tokens),
        (1200, 34, 11, 800)
    );
    assert_eq!(step.model, "scripted/hello");
    assert_eq!(step.cost_usd, Some(Prices::default().cost_usd(rig.model.billed())));

    // The second turn tells and charges nothing of the first.
    let second = rig.prompt(&session, prompt("Again")).await?;
    assert_eq!(second.report.ending, Ending::Completed, "{second:?}");
    assert_eq!(second.texts(), ["Again."]);
    assert_eq!(second.report.steps.len(), 1);
    rig.end().await
}

#[tokio::test]
async fn tools_are_told_from_pending_to_their_result() -> Result<()> {
    let script = r#"[
      {"type": "text", "content": "I write."},
      {"type": "tool_call", "id": "c1", "name": "write", "arguments": {"filePath": "made.txt", "content": "one\n"}},
      {"type": "tool_call", "id": "c2", "name": "bash", "arguments": {"command": "echo out; exit 3", "description": "Exit"}},
      {"type": "tool_call", "id": "c3", "name": "read", "arguments": {"filePath": "nothing.txt"}},
      {"type": "text", "content": "Done."},
      {"type": "done"}
    ]"#;
    let rig = Rig::new(&[("tools", script)]).await?;
    let ran = rig.run("tools").await?;
    assert_eq!(ran.report.ending, Ending::Completed, "{ran:?}");
    let last = |id: &str| {
        ran.events.iter().rev().find_map(|e| {
            if let AgentEvent::Tool { call, .. } = e { (call.call_id == id).then_some(call) } else { None }
        })
    };
    assert_eq!(last("c1").map(|call| (call.status, call.tool.as_str())), Some((ToolStatus::Completed, "write")));
    let bash = last("c2").expect("bash");
    assert_eq!((bash.status, bash.exit_code), (ToolStatus::Completed, Some(3)));
    assert!(bash.output.as_deref().is_some_and(|output| output.contains("out")));
    assert_eq!(bash.input["command"], "echo out; exit 3");
    assert_eq!(last("c3").map(|call| call.status), Some(ToolStatus::Error));
    assert_eq!(ran.report.steps.len(), 2);
    rig.end().await
}

#[tokio::test]
async fn a_subagents_cost_is_part_of_the_turns() -> Result<()> {
    let parent = r#"[
      {"type": "text", "content": "I delegate."},
      {"type": "tool_call", "id": "c1", "name": "task", "arguments": {"description": "look", "prompt": "Look around", "subagent_type": "general"}},
      {"type": "usage", "input": 1000, "output": 20},
      {"type": "text", "content": "It looked."},
      {"type": "usage", "input": 1100, "output": 5},
      {"type": "done"}
    ]"#;
    let child = r#"[
      {"type": "text", "content": "I look."},
      {"type": "tool_call", "id": "k1", "name": "bash", "arguments": {"command": "ls", "description": "List"}},
      {"type": "usage", "input": 500, "output": 10},
      {"type": "text", "content": "Nothing there."},
      {"type": "usage", "input": 600, "output": 7},
      {"type": "done"}
    ]"#;
    let extra = json!({"agent": {"general": {"model": "scripted/child"}}});
    let rig = Rig::with(&[("parent", parent), ("child", child)], extra, |_| {}).await?;
    let ran = rig.run("parent").await?;
    assert_eq!(ran.report.ending, Ending::Completed, "{ran:?}");
    assert_eq!(ran.report.steps.len(), 4, "{:?}", ran.report.steps);
    let billed = rig.model.billed();
    let sum = |of: fn(&millhand::model::usage::StepUsage) -> i64| ran.report.steps.iter().map(of).sum::<i64>();
    assert_eq!(sum(|step| step.input_tokens), i64::try_from(billed.input)?);
    assert_eq!(sum(|step| step.output_tokens), i64::try_from(billed.output)?);
    assert_eq!(
        ran.report.steps.iter().filter_map(|step| step.cost_usd).sum::<Decimal>(),
        Prices::default().cost_usd(billed)
    );
    assert_eq!(ran.texts(), ["I delegate.", "It looked."], "what the subagent says is its own");
    // What a step cost is told when it is over, and not only in the end: who is killed before that has told it.
    let told: Vec<_> = ran
        .events
        .iter()
        .filter_map(|event| match event {
            AgentEvent::StepFinish { usage, .. } => Some(usage),
            _ => None,
        })
        .collect();
    assert!(ran.report.steps.iter().all(|step| told.iter().filter(|told| **told == step).count() == 1), "{told:?}");
    rig.end().await
}

#[tokio::test]
async fn a_conversation_is_resumed_or_the_loss_is_told() -> Result<()> {
    let rig = Rig::new(&[("hello", HELLO)]).await?;
    let directory = rig.worktree("w", &[]).await?;
    let first = rig.session(&directory, "hello").await?;
    rig.prompt(&first, prompt("Say hello")).await?;
    let mut request = rig.request(&directory, "hello");
    request.resume = Some((first.id.clone(), first.config_hash.clone()));
    let (again, events) = rig.open(request.clone()).await?;
    assert!(again.resumed && again.id == first.id && events.is_empty(), "{events:?}");

    for (id, hash) in
        [(first.id.as_str(), "another"), ("ses_nobody", &first.config_hash), ("odd/../id", &first.config_hash)]
    {
        request.resume = Some((id.to_owned(), hash.to_owned()));
        let (new, events) = rig.open(request.clone()).await?;
        assert!(!new.resumed && new.id != first.id, "{id}");
        assert!(matches!(events.as_slice(), [AgentEvent::Warning { .. }]), "{id}: {events:?}");
    }
    rig.end().await
}

#[tokio::test]
async fn closing_a_worktree_lets_go_of_it_and_it_can_be_used_again() -> Result<()> {
    let rig = Rig::new(&[("hello", HELLO)]).await?;
    let directory = rig.worktree("w", &[]).await?;
    let session = rig.session(&directory, "hello").await?;
    rig.prompt(&session, prompt("Say hello")).await?;
    rig.backend.close(&rig.project, &directory).await?;
    let second = rig.prompt(&session, prompt("Again")).await?;
    assert_eq!(second.report.ending, Ending::Completed, "{second:?}");
    rig.end().await
}
