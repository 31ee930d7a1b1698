//! When a turn is over, and how it ended. Pure: `now` is an argument, and reading the server is somebody else's work.
//!
//! No single event ends a turn (`session.error` may be followed by success, `idle` comes twice, a prompt may be taken
//! and never run), so there are two questions here, asked again and again:
//!
//! - [`Watch::demand`]: with what was heard and for how long, should the turn be followed, looked at by GET, or broken off?
//! - [`Watch::judge`]: with the [`Snapshot`] that GET gave, is it over, and how did it end?
//!
//! How an ended turn is named is [`name_ending`], which needs nothing but its messages.

use std::time::{Duration, Instant};

use super::{
    ending::{Broken, Context, name_ending},
    wire::{MessageWithParts, Status, WireError},
};
use crate::{
    config::Timings,
    model::{
        outcome::Ending,
        stall::{Action, Cause, Deadlines, Escalation, RetrySigns, Signs, act, escalate},
    },
};

/// After this many steps in a row without a finish reason the turn is broken off: opencode would go on for ever.
const UNKNOWN_FINISHES: u32 = 3;
/// After the same calls, with the same results, so many times in a row, too: the model would go on for ever.
const REPEATS: u32 = 20;
/// Retries of one model call before we stop waiting; opencode itself gives up after five.
const RETRIES: i64 = 8;
/// A provider that wants us to wait longer than this gets its wait in the queue, not in a turn.
const RETRY_WAIT: Duration = Duration::from_secs(60);
/// After an error or an idle that the messages do not bear out (yet), we look again this much later.
const GRACE: Duration = Duration::from_millis(250);
/// An end that only a GET tells of is believed after this long: the stream may be about to tell it, and what came before.
const UNHEARD: Duration = Duration::from_secs(3);
/// How long idle and messages may contradict each other before idle is believed.
const CONTRADICTION: Duration = Duration::from_secs(5);

/// What is to be done with the turn now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// Nothing until something is heard, or this moment comes.
    Follow(Instant),
    /// Read status, messages and subagents, and ask [`Watch::judge`].
    Look,
    /// Abort the turn; it ends as this.
    Break(Broken),
}

/// What GET says of a turn.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    /// What the session does; `None`: it is idle.
    pub(super) status: Option<Status>,
    /// The user's message of ours and all that follow it, in order. Empty: ours is not there.
    pub(super) messages: Vec<MessageWithParts>,
}

impl Snapshot {
    /// The last assistant message of the turn.
    pub(super) fn last(&self) -> Option<&MessageWithParts> {
        self.messages.iter().rev().find(|message| message.info.is_assistant())
    }

    fn is_idle(&self) -> bool {
        matches!(self.status, None | Some(Status::Idle))
    }
}

/// Everything that was heard of a turn, as far as its end depends on it.
#[derive(Debug)]
pub(super) struct Watch {
    limits: Limits,
    sent: Instant,
    user_seen: bool,
    assistant_seen: bool,
    last_activity: Instant,
    next_poll: Instant,
    /// Something says that the turn may be over, or that events were lost.
    look: Option<Instant>,
    idle_since: Option<Instant>,
    /// The stream told of it, and so of all that came before.
    idle_heard: bool,
    /// Since when a GET says that it is over, without the stream having told so.
    over_since: Option<Instant>,
    /// Events were lost, and the end may be among them.
    lost: bool,
    retry: Option<Retrying>,
    unknown_finishes: u32,
    repeats: u32,
    /// Since when the tool call runs that runs longest.
    tool: Option<Instant>,
    /// Since when something is asked that nobody has answered.
    unanswered: Option<Instant>,
    /// A person was asked, and has a deadline of their own.
    person_asked: bool,
    stream_lost: bool,
    broken: Option<(Broken, Instant)>,
    aborts: u32,
    context: Context,
}

#[derive(Debug)]
struct Retrying {
    since: Instant,
    attempt: i64,
    message: String,
    wait: Option<Duration>,
}

/// The durations that a turn is watched by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) poll: Duration,
    /// Without any event for this long the messages are read.
    pub(super) silence: Duration,
    pub(super) start: Duration,
    /// Steps after which opencode tells the model to stop.
    pub(super) steps: Option<u32>,
    /// How long an abort may take.
    pub(super) abort: Duration,
    /// How long the turn may wait for what.
    pub(super) deadlines: Deadlines,
}

impl Limits {
    pub(super) fn new(timings: &Timings, steps: Option<u32>) -> Self {
        Self {
            steps,
            poll: timings.settle_poll,
            silence: timings.stream_silence,
            start: timings.turn_start,
            abort: timings.server_request.min(Duration::from_secs(10)),
            deadlines: Deadlines {
                turn: timings.turn_limit,
                silence: timings.turn_stall,
                answer: timings.turn_answer,
                tool: timings.turn_tool,
                retry_age: timings.turn_retry,
                retry_wait: RETRY_WAIT,
                retries: RETRIES,
                unknown_finishes: UNKNOWN_FINISHES,
                repeats: REPEATS,
            },
        }
    }
}

impl Watch {
    /// Begins with the moment that the prompt was taken.
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            sent: now,
            user_seen: false,
            assistant_seen: false,
            last_activity: now,
            next_poll: now + limits.poll,
            look: None,
            idle_since: None,
            idle_heard: false,
            over_since: None,
            lost: false,
            retry: None,
            unknown_finishes: 0,
            repeats: 0,
            tool: None,
            unanswered: None,
            person_asked: false,
            stream_lost: false,
            broken: None,
            aborts: 0,
            context: Context { step_limit: limits.steps, ..Context::default() },
        }
    }

    /// Something of the turn was heard.
    pub(super) fn heard(&mut self, now: Instant) {
        self.last_activity = now;
    }

    /// Our message is in the conversation.
    pub(super) fn saw_user(&mut self) {
        self.user_seen = true;
    }

    /// Whether the stream told that it came to rest, and so all that came before.
    pub(super) fn has_heard_idle(&self) -> bool {
        self.idle_heard
    }

    /// Whether nothing was heard for longer than a stream may be silent: if things happen, it does not tell of them.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        now.duration_since(self.last_activity) >= self.limits.silence
    }

    /// An assistant message of the turn was heard of; `finish` once, when it has one.
    pub(super) fn saw_assistant(&mut self, finish: Option<&str>) {
        self.assistant_seen = true;
        self.is_working();
        match finish {
            Some("unknown") => self.unknown_finishes += 1,
            Some(_) => self.unknown_finishes = 0,
            None => {}
        }
    }

    /// The model answers, or a tool works: it waits for no retry any more.
    pub(super) fn progressed(&mut self) {
        self.retry = None;
    }

    /// Whether something says that the turn may be over.
    pub(super) fn expects_end(&self) -> bool {
        self.idle_since.is_some() || self.broken.is_some() || self.context.error.is_some()
    }

    /// The session does something else now.
    pub(super) fn status(&mut self, status: &Status, wall_ms: f64, now: Instant) {
        match status {
            Status::Busy => self.is_working(),
            Status::Idle => self.idle(now),
            Status::Retry { attempt, message, next } => {
                self.is_working();
                let since = self.retry.as_ref().map_or(now, |retry| retry.since);
                let wait = next.map(|next| Duration::from_secs_f64(((next - wall_ms) / 1000.0).clamp(0.0, 1e9)));
                self.retry = Some(Retrying { since, attempt: *attempt, message: message.clone(), wait });
            }
        }
    }

    fn is_working(&mut self) {
        self.idle_since = None;
        self.idle_heard = false;
        self.over_since = None;
    }

    /// The session came to rest, or says so.
    pub(super) fn idle(&mut self, now: Instant) {
        self.idle_since.get_or_insert(now);
        self.idle_heard = true;
        self.look = Some(now);
    }

    /// An error was heard. It does not end the turn by itself.
    pub(super) fn error(&mut self, error: WireError, now: Instant) {
        // When the prompt is refused there is neither message nor idle: only a look tells.
        if !self.user_seen || !self.assistant_seen {
            self.look.get_or_insert(now + GRACE);
        }
        self.context.error = Some(error);
    }

    /// A permission ask was answered with no.
    pub(super) fn ask_rejected(&mut self) {
        self.context.ask_rejected = true;
    }

    /// A question was rejected.
    pub(super) fn question_rejected(&mut self) {
        self.context.question_rejected = true;
    }

    /// Since when the tool call runs that runs longest, anywhere in the tree: silence means less then.
    pub(super) fn tool_runs(&mut self, since: Option<Instant>) {
        self.tool = since;
    }

    /// How often the same calls came one after another.
    pub(super) fn repeated(&mut self, times: u32) {
        self.repeats = times;
    }

    /// Whether something is asked that could not be answered yet.
    pub(super) fn waits_for_answer(&mut self, waits: bool, now: Instant) {
        self.unanswered = waits.then(|| self.unanswered.unwrap_or(now));
    }

    /// Whether a person is asked something; somebody else sees to it that they do not take for ever.
    pub(super) fn asks_person(&mut self, asks: bool) {
        self.person_asked = asks;
    }

    /// Whether what happens is told as it happens.
    pub(super) fn stream_is(&mut self, open: bool) {
        self.stream_lost = !open;
    }

    /// Events were lost.
    pub(super) fn lost_events(&mut self, now: Instant) {
        self.lost = true;
        self.look = Some(now);
    }

    /// The turn was aborted, by us; once more, if it was before.
    pub(super) fn broke(&mut self, why: Broken, now: Instant) {
        self.broken.get_or_insert((why, now));
        self.aborts += 1;
        self.look = Some(now + GRACE);
    }

    /// Whether the turn was aborted by us.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// How the turn ends if its abort did nothing for too long, whatever the server says.
    pub(super) fn given_up(&self, now: Instant) -> Option<(Ending, String)> {
        let (why, since) = self.broken.as_ref()?;
        let escalation = escalate(now.duration_since(*since), self.aborts, self.limits.abort);
        (escalation == Escalation::GiveUp).then(|| why.ending())
    }

    /// What is to be done now.
    pub(super) fn demand(&mut self, now: Instant) -> Demand {
        let action = act(&self.signs(now), &self.limits.deadlines);
        match (&self.broken, action) {
            (None, Action::Abort(cause)) => return Demand::Break(self.broken_by(cause)),
            (Some((why, since)), _)
                if escalate(now.duration_since(*since), self.aborts, self.limits.abort) == Escalation::AbortAgain =>
            {
                return Demand::Break(why.clone());
            }
            // A dead server is known by its process, which whoever waits looks at.
            (_, Action::Wait(_) | Action::Read | Action::LetGo | Action::Abort(_)) => {}
        }
        if self.look.is_some_and(|at| at <= now) || self.next_poll <= now {
            self.look = self.look.filter(|at| *at > now);
            self.next_poll = now + self.limits.poll;
            return Demand::Look;
        }
        let mut wake = self.next_poll;
        if let Some(at) = self.look {
            wake = wake.min(at);
        }
        if let (None, Action::Wait(wait)) = (&self.broken, action) {
            wake = wake.min(now + wait);
        }
        Demand::Follow(wake.max(now + Duration::from_millis(1)))
    }

    fn signs(&self, now: Instant) -> Signs {
        let age = |since: Instant| now.duration_since(since);
        Signs {
            lasted: age(self.sent),
            silent: age(self.last_activity),
            server_gone: false,
            stream_lost: self.stream_lost,
            unanswered: self.unanswered.map(age),
            person_asked: self.person_asked,
            retry: self.retry.as_ref().map(|retry| RetrySigns {
                attempt: retry.attempt,
                age: age(retry.since),
                wait: retry.wait,
            }),
            tool: self.tool.map(age),
            unknown_finishes: self.unknown_finishes,
            repeats: self.repeats,
        }
    }

    fn broken_by(&self, cause: Cause) -> Broken {
        match cause {
            Cause::TimedOut => Broken::TimedOut,
            Cause::UnknownFinishes => Broken::UnknownFinishLoop,
            Cause::Repeats => Broken::ToolLoop,
            Cause::Unanswered => Broken::Unanswered,
            Cause::LongTool => Broken::LongTool,
            Cause::Stalled => Broken::Stalled,
            Cause::RetryTooFar | Cause::RetriesExhausted => {
                let retry = self.retry.as_ref();
                let message = retry.map(|retry| retry.message.clone()).unwrap_or_default();
                if cause == Cause::RetriesExhausted && !speaks_of_limits(&message) {
                    return Broken::RetriesExhausted { message };
                }
                let seconds = retry.and_then(|retry| retry.wait).map(|wait| wait.as_secs_f64().ceil());
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "clamped where it was made"
                )]
                let retry_after_seconds = seconds.map(|seconds| seconds as u64);
                Broken::RateLimited { retry_after_seconds, message }
            }
        }
    }

    /// Whether the turn is over, by what GET says, and how it ended.
    pub(super) fn judge(&mut self, snapshot: &Snapshot, now: Instant) -> Option<(Ending, String)> {
        self.user_seen |= !snapshot.messages.is_empty();
        self.assistant_seen |= snapshot.last().is_some();
        if let Some((why, at)) = &self.broken {
            let settled = snapshot.is_idle() && snapshot.last().is_none_or(|last| last.info.is_complete());
            let given_up = self.given_up(now).is_some();
            // Without a message of its own an aborted turn can still be about to begin.
            if settled && (snapshot.last().is_some() || now.duration_since(*at) >= GRACE * 2) || given_up {
                return Some(why.ending());
            }
            self.look = Some(now + GRACE);
            return None;
        }
        if !snapshot.is_idle() {
            self.is_working();
            return None;
        }
        let overdue = now.duration_since(*self.idle_since.get_or_insert(now)) >= CONTRADICTION;
        if !self.idle_heard && !self.lost && snapshot.last().is_some_and(|last| last.info.is_complete()) {
            let known = now.duration_since(*self.over_since.get_or_insert(now));
            if known < UNHEARD {
                self.look = Some(now + UNHEARD - known);
                return None;
            }
        }
        match snapshot.last() {
            Some(last) if last.info.is_complete() => Some(name_ending(&snapshot.messages, &self.context)),
            Some(_) if overdue => Some((
                Ending::AgentError,
                "opencode says that it is idle, but its last message was never completed".to_owned(),
            )),
            None if self.context.error.is_some() && self.refusal_is_final(now) => {
                Some(name_ending(&snapshot.messages, &self.context))
            }
            None if now.duration_since(self.sent) >= self.limits.start => {
                let what = if snapshot.messages.is_empty() { "and lost it" } else { "but never began to work on it" };
                Some((Ending::NotStarted, format!("opencode took the prompt {what}")))
            }
            // It has not begun; the poll sees to that.
            None if self.context.error.is_none() => None,
            _ => {
                self.look = Some(now + GRACE);
                None
            }
        }
    }

    /// An error without any assistant message: believed once nothing more came of it for a while.
    fn refusal_is_final(&self, now: Instant) -> bool {
        now.duration_since(self.last_activity) >= GRACE
    }
}

fn speaks_of_limits(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["rate limit", "rate_limit", "rate-limit", "too many requests", "429", "quota", "overloaded"]
        .iter()
        .any(|words| message.contains(words))
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
