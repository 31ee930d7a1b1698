use super::*;
use crate::agent::opencode::wire::{MessageTime, PartTime, ToolState};

fn message(id: &str, role: &str) -> Message {
    Message {
        id: id.to_owned(),
        session: "ses".to_owned(),
        role: role.to_owned(),
        provider: Some("p".to_owned()),
        model: Some("m".to_owned()),
        ..Default::default()
    }
}

fn text(id: &str, text: &str, is_final: bool) -> Part {
    Part {
        id: id.to_owned(),
        message: "a".to_owned(),
        kind: "text".to_owned(),
        text: text.to_owned(),
        time: PartTime { end: is_final.then_some(1.0) },
        ..Default::default()
    }
}

fn tool(status: &str) -> Part {
    Part {
        id: "t".to_owned(),
        message: "a".to_owned(),
        kind: "tool".to_owned(),
        tool: "bash".to_owned(),
        call: "c".to_owned(),
        state: ToolState {
            status: status.to_owned(),
            output: Some("<dcp-message-id>m1</dcp-message-id>".to_owned()),
            ..Default::default()
        },
        ..Default::default()
    }
}

fn begun() -> Transcript {
    let mut transcript = Transcript::new("ses", true, HashSet::from(["old".to_owned()]));
    transcript.message(&message("u", "user"));
    transcript.message(&message("a", "assistant"));
    transcript
}

fn texts(told: &[AgentEvent]) -> (String, Vec<String>) {
    let mut deltas = String::new();
    let mut whole = Vec::new();
    for event in told {
        match event {
            AgentEvent::TextDelta { delta, .. } => deltas.push_str(delta),
            AgentEvent::Text { text, .. } => whole.push(text.clone()),
            _ => {}
        }
    }
    (deltas, whole)
}

#[test]
fn a_part_is_told_once_however_often_it_is_heard_of() {
    let mut transcript = begun();
    let mut told = Vec::new();
    transcript.part(&text("p", "", false), &mut told);
    transcript.delta("a", "p", "text", "Hello <dcp-mess", &mut told);
    transcript.delta("a", "p", "text", "age-id>m1</dcp-message-id>world", &mut told);
    transcript.part(&text("p", "Hello <dcp-mess", false), &mut told);
    for _ in 0..2 {
        transcript.part(&text("p", "Hello <dcp-message-id>m1</dcp-message-id>world", true), &mut told);
    }
    // Late deltas of a part that is final are behind it.
    transcript.delta("a", "p", "text", "world", &mut told);
    assert_eq!(texts(&told), ("Hello world".to_owned(), vec!["Hello world".to_owned()]));
    assert_eq!(transcript.summary(), "Hello world");
}

#[test]
fn what_the_stream_lost_is_told_by_the_get_and_no_more() {
    let mut transcript = begun();
    let mut told = Vec::new();
    transcript.part(&text("p", "", false), &mut told);
    transcript.delta("a", "p", "text", "one ", &mut told);
    let mut info = message("a", "assistant");
    info.time = MessageTime { created: 0.0, completed: Some(1.0) };
    let mut step = text("s", "", false);
    step.kind = "step-finish".to_owned();
    let parts = vec![text("p", "one two", false), tool("completed"), step.clone()];
    let messages = vec![MessageWithParts { info, parts }];
    transcript.reconcile(&messages, true, &mut told);
    let count = told.len();
    transcript.reconcile(&messages, true, &mut told);
    transcript.part(&tool("running"), &mut told);
    transcript.part(&step, &mut told);
    assert_eq!(told.len(), count, "nothing twice, nothing backwards: {told:?}");
    assert_eq!(texts(&told).1, ["one two"]);
    let kinds: Vec<_> = told.iter().map(AgentEvent::kind).collect();
    assert_eq!(kinds, ["text_delta", "text", "tool", "step_finish"]);
    assert!(
        matches!(&told[2], AgentEvent::Tool { call, .. } if call.output.as_deref() == Some("<dcp-message-id>m1</dcp-message-id>"))
    );
}

#[test]
fn growth_that_came_as_an_update_is_told_as_a_delta() {
    let mut transcript = begun();
    let mut told = Vec::new();
    transcript.part(&text("p", "one", false), &mut told);
    transcript.part(&text("p", "one two", false), &mut told);
    transcript.delta("a", "p", "text", " three", &mut told);
    transcript.part(&text("p", "one", false), &mut told);
    assert_eq!(texts(&told).0, "one two three");
}

#[test]
fn other_messages_are_not_told_and_unknown_ones_ask_for_a_get() {
    let mut transcript = begun();
    let mut told = Vec::new();
    let mut part = text("p", "mine is the prompt", true);
    part.message = "u".to_owned();
    transcript.part(&part, &mut told);
    part.message = "old".to_owned();
    transcript.part(&part, &mut told);
    assert!(!transcript.take_missing());
    part.message = "nobody".to_owned();
    transcript.part(&part, &mut told);
    assert!(transcript.take_missing() && !transcript.take_missing());
    transcript.delta("a", "unheard", "text", "x", &mut told);
    assert!(transcript.take_missing());
    assert!(told.is_empty());
}

#[test]
fn reasoning_is_apart_and_can_be_hidden() {
    for show in [true, false] {
        let mut transcript = Transcript::new("ses", show, HashSet::new());
        transcript.message(&message("a", "assistant"));
        let mut told = Vec::new();
        let mut part = text("r", "", false);
        part.kind = "reasoning".to_owned();
        transcript.part(&part, &mut told);
        transcript.delta("a", "r", "text", "<dcp-message-id>m1</dcp-message-id>", &mut told);
        part.text = "<dcp-message-id>m1</dcp-message-id>".to_owned();
        part.time.end = Some(1.0);
        transcript.part(&part, &mut told);
        assert_eq!(told.len(), if show { 2 } else { 0 }, "{told:?}");
    }
}
