//! Every row of "how turns end", as a table.

use super::*;
use crate::agent::opencode::wire::{Message, MessageTime, Part, ToolState, WireErrorData};

const LIMITS: Limits = Limits {
    poll: Duration::from_secs(5),
    silence: Duration::from_secs(25),
    start: Duration::from_secs(60),
    steps: None,
    abort: Duration::from_secs(10),
    deadlines: Deadlines {
        turn: Duration::from_secs(3600),
        silence: Duration::from_secs(600),
        answer: Duration::from_secs(60),
        tool: Duration::from_secs(1800),
        retry_age: Duration::from_secs(300),
        retry_wait: RETRY_WAIT,
        retries: RETRIES,
        unknown_finishes: UNKNOWN_FINISHES,
        repeats: REPEATS,
    },
};

fn after(start: Instant, seconds: f64) -> Instant {
    start + Duration::from_secs_f64(seconds)
}

fn user() -> MessageWithParts {
    MessageWithParts {
        info: Message { id: "msg_ours".to_owned(), role: "user".to_owned(), ..Default::default() },
        parts: Vec::new(),
    }
}

fn assistant(finish: Option<&str>, error: Option<WireError>, parts: Vec<Part>) -> MessageWithParts {
    MessageWithParts {
        info: Message {
            id: "msg_a".to_owned(),
            role: "assistant".to_owned(),
            finish: finish.map(str::to_owned),
            error,
            time: MessageTime { created: 1.0, completed: Some(2.0) },
            ..Default::default()
        },
        parts,
    }
}

fn error(name: &str, status: Option<u16>, message: &str) -> WireError {
    WireError {
        name: name.to_owned(),
        data: WireErrorData { message: message.to_owned(), status, ..Default::default() },
    }
}

fn text(text: &str) -> Part {
    Part { kind: "text".to_owned(), text: text.to_owned(), ..Default::default() }
}

fn tool(status: &str) -> Part {
    let state = ToolState { status: status.to_owned(), ..Default::default() };
    Part { kind: "tool".to_owned(), state, ..Default::default() }
}

fn snapshot(messages: Vec<MessageWithParts>) -> Snapshot {
    Snapshot { status: None, messages }
}

fn judge_idle(watch: &mut Watch, messages: Vec<MessageWithParts>, now: Instant) -> Option<Ending> {
    watch.idle(now);
    assert_eq!(watch.demand(now), Demand::Look);
    watch.judge(&snapshot(messages), now).map(|(ending, _)| ending)
}

#[test]
fn every_last_message_has_its_ending() {
    let cases: Vec<(MessageWithParts, Ending)> = vec![
        (assistant(Some("stop"), None, vec![text("hello")]), Ending::Completed),
        (assistant(Some("stop"), None, vec![tool("completed")]), Ending::Completed),
        (assistant(Some("stop"), None, vec![text(" \n")]), Ending::Empty),
        (assistant(Some("stop"), None, vec![text("<dcp-message-id>m1</dcp-message-id>")]), Ending::Empty),
        (assistant(Some("length"), None, vec![text("half")]), Ending::Length),
        (assistant(Some("content-filter"), None, vec![]), Ending::ContentFilter),
        (assistant(Some("content-filter"), Some(error("ContentFilterError", None, "")), vec![]), Ending::ContentFilter),
        (assistant(Some("unknown"), None, vec![text("x")]), Ending::ProviderError { status: None }),
        (assistant(Some("tool-calls"), None, vec![tool("completed")]), Ending::StepLimit { answered: false }),
        (assistant(Some("other"), None, vec![text("x")]), Ending::AgentError),
        (assistant(None, None, vec![]), Ending::Aborted),
        (assistant(None, Some(error("MessageAbortedError", None, "aborted")), vec![]), Ending::Aborted),
        (assistant(None, Some(error("MessageOutputLengthError", None, "")), vec![]), Ending::Length),
        (
            assistant(None, Some(error("ProviderAuthError", None, "no key")), vec![]),
            Ending::ProviderError { status: Some(401) },
        ),
        (
            assistant(None, Some(error("APIError", Some(500), "down")), vec![]),
            Ending::ProviderError { status: Some(500) },
        ),
        (assistant(None, Some(error("APIError", None, "refused")), vec![]), Ending::ProviderError { status: None }),
        (
            assistant(None, Some(error("APIError", Some(429), "slow")), vec![]),
            Ending::RateLimited { retry_after_seconds: None },
        ),
        (assistant(None, Some(error("UnknownError", None, "broken chunk")), vec![]), Ending::AgentError),
        (assistant(None, Some(error("UnknownError", None, "Model not found: a/b")), vec![]), Ending::ModelInvalid),
    ];
    for (message, expected) in cases {
        let start = Instant::now();
        let mut watch = Watch::new(LIMITS, start);
        let ending = judge_idle(&mut watch, vec![user(), message.clone()], after(start, 1.0));
        assert_eq!(ending, Some(expected), "{message:?}");
    }
}

#[test]
fn a_turn_that_used_up_its_steps_is_no_completed_one() {
    let step = || assistant(Some("tool-calls"), None, vec![tool("completed")]);
    let last = || assistant(Some("stop"), None, vec![text("That much is done.")]);
    for (limit, messages, expected) in [
        (Some(2), vec![user(), step(), last()], Ending::StepLimit { answered: true }),
        (Some(3), vec![user(), step(), last()], Ending::Completed),
        (None, vec![user(), step(), last()], Ending::Completed),
    ] {
        let start = Instant::now();
        let mut watch = Watch::new(Limits { steps: limit, ..LIMITS }, start);
        assert_eq!(judge_idle(&mut watch, messages, start), Some(expected), "{limit:?}");
    }
}

#[test]
fn rejected_asks_and_questions_stop_the_turn_only_where_it_stopped() {
    let start = Instant::now();
    let stopped = || vec![user(), assistant(Some("tool-calls"), None, vec![tool("error")])];
    let mut watch = Watch::new(LIMITS, start);
    watch.ask_rejected();
    assert_eq!(judge_idle(&mut watch, stopped(), start), Some(Ending::AskRejected));
    let went_on = vec![user(), assistant(Some("stop"), None, vec![text("without it, then")])];
    assert_eq!(judge_idle(&mut watch, went_on, start), Some(Ending::Completed));
    watch.question_rejected();
    assert_eq!(judge_idle(&mut watch, stopped(), start), Some(Ending::QuestionRejected));
}

#[test]
fn busy_or_incomplete_is_not_over_whatever_was_heard() {
    let start = Instant::now();
    let mut watch = Watch::new(LIMITS, start);
    watch.error(error("ContextOverflowError", None, "too long"), start);
    watch.idle(start);
    let done = assistant(Some("stop"), None, vec![text("x")]);
    let busy = Snapshot { status: Some(Status::Busy), messages: vec![user(), done.clone()] };
    assert_eq!(watch.judge(&busy, start), None);
    let mut half = done;
    half.info.time.completed = None;
    assert_eq!(judge_idle(&mut watch, vec![user(), half.clone()], after(start, 0.1)), None);
    // It is looked at again soon, and an idle that stays is believed in the end.
    assert!(matches!(watch.demand(after(start, 0.1)), Demand::Follow(at) if at <= after(start, 0.4)));
    assert_eq!(judge_idle(&mut watch, vec![user(), half], after(start, 6.0)), Some(Ending::AgentError));
}

#[test]
fn an_invalid_agent_or_model_is_known_within_a_second_without_an_idle() {
    let start = Instant::now();
    for (messages, message, expected) in [
        (vec![], "Agent not found: \"nobody\"", Ending::AgentInvalid),
        (vec![user()], "Model not found: a/b", Ending::ModelInvalid),
    ] {
        let mut watch = Watch::new(LIMITS, start);
        watch.error(error("UnknownError", None, message), start);
        assert!(matches!(watch.demand(start), Demand::Follow(at) if at <= after(start, 0.3)));
        let now = after(start, 0.3);
        assert_eq!(watch.demand(now), Demand::Look);
        assert_eq!(watch.judge(&snapshot(messages), now).map(|(ending, _)| ending), Some(expected));
    }
}

#[test]
fn a_prompt_that_was_taken_and_never_run_is_noticed() {
    let start = Instant::now();
    let mut watch = Watch::new(LIMITS, start);
    assert_eq!(watch.demand(after(start, 5.0)), Demand::Look);
    assert_eq!(watch.judge(&snapshot(vec![]), after(start, 5.0)), None);
    assert_eq!(watch.judge(&snapshot(vec![user()]), after(start, 61.0)).map(|(e, _)| e), Some(Ending::NotStarted));
}

#[test]
fn steps_without_a_finish_reason_are_broken_off_after_three_in_a_row() {
    let start = Instant::now();
    let mut watch = Watch::new(LIMITS, start);
    for finish in ["unknown", "unknown", "tool-calls", "unknown", "unknown"] {
        watch.saw_assistant(Some(finish));
        assert!(matches!(watch.demand(start), Demand::Follow(_)));
    }
    watch.saw_assistant(Some("unknown"));
    assert_eq!(watch.demand(start), Demand::Break(Broken::UnknownFinishLoop));
}

#[test]
fn retries_are_bounded_by_wait_count_and_age() {
    let retry = |attempt, message: &str, next| Status::Retry { attempt, message: message.to_owned(), next: Some(next) };
    let start = Instant::now();
    // A usual retry is waited for, even one in silence.
    let mut watch = Watch::new(LIMITS, start);
    watch.status(&retry(3, "slow down", 8_000.0), 0.0, start);
    assert!(matches!(watch.demand(after(start, 1.0)), Demand::Follow(_)));
    // An hour is not.
    watch.status(&retry(1, "slow down", 3_600_000.0), 0.0, start);
    let limited = |message: &str, seconds| {
        Demand::Break(Broken::RateLimited { retry_after_seconds: Some(seconds), message: message.to_owned() })
    };
    assert_eq!(watch.demand(start), limited("slow down", 3600));
    // Too many, with and without words of limits.
    let mut watch = Watch::new(LIMITS, start);
    watch.status(&retry(9, "Too Many Requests", 1_000.0), 0.0, start);
    assert_eq!(watch.demand(start), limited("Too Many Requests", 1));
    watch.status(&retry(9, "boom", 1_000.0), 0.0, start);
    assert_eq!(watch.demand(start), Demand::Break(Broken::RetriesExhausted { message: "boom".to_owned() }));
    // Too long.
    let mut watch = Watch::new(LIMITS, start);
    watch.status(&retry(1, "boom", 1_000.0), 0.0, start);
    watch.status(&retry(2, "boom", 1_000.0), 0.0, after(start, 299.0));
    assert!(matches!(watch.demand(after(start, 301.0)), Demand::Break(Broken::RetriesExhausted { .. })));
    // An answer ends it.
    watch.progressed();
    watch.heard(after(start, 301.0));
    assert!(!matches!(watch.demand(after(start, 301.0)), Demand::Break(_)));
}

#[test]
fn silence_is_a_stall_unless_a_tool_runs_and_the_limit_holds_for_all() {
    let start = Instant::now();
    let mut watch = Watch::new(LIMITS, start);
    assert_eq!(watch.demand(after(start, 600.0)), Demand::Break(Broken::Stalled));
    watch.tool_runs(Some(start));
    assert!(!matches!(watch.demand(after(start, 600.0)), Demand::Break(_)));
    assert_eq!(watch.demand(after(start, 1800.0)), Demand::Break(Broken::LongTool));
    assert_eq!(watch.demand(after(start, 3600.0)), Demand::Break(Broken::TimedOut));
}

#[test]
fn an_aborted_turn_is_over_when_it_is_final_or_the_abort_did_nothing() {
    let start = Instant::now();
    let mut watch = Watch::new(LIMITS, start);
    watch.broke(Broken::Stopped, start);
    watch.idle(start);
    let mut half = assistant(None, None, vec![]);
    half.info.time.completed = None;
    // The first idle comes before the message is final.
    assert_eq!(watch.judge(&snapshot(vec![user(), half.clone()]), start), None);
    let aborted = assistant(None, Some(error("MessageAbortedError", None, "")), vec![]);
    let ending = watch.judge(&snapshot(vec![user(), aborted]), after(start, 0.5)).map(|(e, _)| e);
    assert_eq!(ending, Some(Ending::Aborted));
    let busy = Snapshot { status: Some(Status::Busy), messages: vec![user(), half] };
    assert_eq!(watch.demand(after(start, 5.0)), Demand::Break(Broken::Stopped), "it is told once more");
    watch.broke(Broken::Stopped, after(start, 5.0));
    assert!(!matches!(watch.demand(after(start, 6.0)), Demand::Break(_)));
    assert_eq!(watch.judge(&busy, after(start, 9.0)), None);
    assert_eq!(watch.judge(&busy, after(start, 10.0)).map(|(e, _)| e), Some(Ending::Aborted));
}

#[test]
fn a_turn_is_looked_at_beside_the_stream_and_once_per_sign() {
    let start = Instant::now();
    let mut watch = Watch::new(LIMITS, start);
    assert!(matches!(watch.demand(start), Demand::Follow(at) if at == after(start, 5.0)));
    assert_eq!(watch.demand(after(start, 5.0)), Demand::Look);
    assert!(matches!(watch.demand(after(start, 5.0)), Demand::Follow(_)));
    watch.lost_events(after(start, 6.0));
    assert_eq!(watch.demand(after(start, 6.0)), Demand::Look);
}

#[test]
fn an_end_that_only_a_get_tells_of_waits_for_the_stream_a_while() {
    let start = Instant::now();
    let done = || snapshot(vec![user(), assistant(Some("stop"), None, vec![text("x")])]);
    let mut watch = Watch::new(LIMITS, start);
    assert_eq!(watch.judge(&snapshot(vec![user()]), start), None, "not begun");
    assert_eq!(watch.judge(&done(), after(start, 20.0)), None);
    assert!(matches!(watch.demand(after(start, 20.0)), Demand::Look), "the poll was due");
    assert!(matches!(watch.demand(after(start, 20.0)), Demand::Follow(at) if at <= after(start, 23.0)));
    assert!(watch.judge(&done(), after(start, 23.0)).is_some());
    // Where events were lost, there is nothing to wait for.
    let mut watch = Watch::new(LIMITS, start);
    watch.lost_events(start);
    assert!(watch.judge(&done(), start).is_some());
}
