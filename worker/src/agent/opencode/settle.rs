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
use crate::{config::Timings, model::outcome::Ending};

/// After this many steps in a row without a finish reason the turn is broken off: opencode would go on for ever.
const UNKNOWN_FINISHES: u32 = 3;
/// Retries of one model call before we stop waiting; opencode itself gives up after five.
const RETRIES: i64 = 8;
/// A provider that wants us to wait longer than this gets its wait in the queue, not in a turn.
const RETRY_WAIT: Duration = Duration::from_secs(60);
/// All retries of one model call together.
const RETRY_AGE: Duration = Duration::from_secs(300);
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
    tools_running: bool,
    broken: Option<(Broken, Instant)>,
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
    pub(super) start: Duration,
    pub(super) stall: Duration,
    pub(super) limit: Duration,
    /// How long an abort may take.
    pub(super) abort: Duration,
}

impl Limits {
    pub(super) fn new(timings: &Timings) -> Self {
        Self {
            poll: timings.settle_poll,
            start: timings.turn_start,
            stall: timings.turn_stall,
            limit: timings.turn_limit,
            abort: timings.server_request.min(Duration::from_secs(10)),
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
            tools_running: false,
            broken: None,
            context: Context::default(),
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

    /// Whether a tool runs, anywhere in the tree: silence is no stall then.
    pub(super) fn tools_running(&mut self, running: bool) {
        self.tools_running = running;
    }

    /// Events were lost.
    pub(super) fn lost_events(&mut self, now: Instant) {
        self.lost = true;
        self.look = Some(now);
    }

    /// The turn was aborted, by us.
    pub(super) fn broke(&mut self, why: Broken, now: Instant) {
        self.broken.get_or_insert((why, now));
        self.look = Some(now + GRACE);
    }

    /// Whether the turn was aborted by us.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// What is to be done now.
    pub(super) fn demand(&mut self, now: Instant) -> Demand {
        if self.broken.is_none()
            && let Some(why) = self.reason_to_break(now)
        {
            return Demand::Break(why);
        }
        if self.look.is_some_and(|at| at <= now) || self.next_poll <= now {
            self.look = self.look.filter(|at| *at > now);
            self.next_poll = now + self.limits.poll;
            return Demand::Look;
        }
        let mut wake = self.next_poll.min(self.sent + self.limits.limit);
        if let Some(at) = self.look {
            wake = wake.min(at);
        }
        if self.broken.is_none() && !self.tools_running {
            wake = wake.min(self.last_activity + self.limits.stall);
        }
        Demand::Follow(wake.max(now + Duration::from_millis(1)))
    }

    fn reason_to_break(&self, now: Instant) -> Option<Broken> {
        if now.duration_since(self.sent) >= self.limits.limit {
            return Some(Broken::TimedOut);
        }
        if self.unknown_finishes >= UNKNOWN_FINISHES {
            return Some(Broken::UnknownFinishLoop);
        }
        if let Some(retry) = &self.retry {
            return retry.reason_to_break(now);
        }
        if !self.tools_running && now.duration_since(self.last_activity) >= self.limits.stall {
            return Some(Broken::Stalled);
        }
        None
    }

    /// Whether the turn is over, by what GET says, and how it ended.
    pub(super) fn judge(&mut self, snapshot: &Snapshot, now: Instant) -> Option<(Ending, String)> {
        self.user_seen |= !snapshot.messages.is_empty();
        self.assistant_seen |= snapshot.last().is_some();
        if let Some((why, at)) = &self.broken {
            let settled = snapshot.is_idle() && snapshot.last().is_none_or(|last| last.info.is_complete());
            let given_up = now.duration_since(*at) >= self.limits.abort;
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

impl Retrying {
    fn reason_to_break(&self, now: Instant) -> Option<Broken> {
        let far = self.wait.is_some_and(|wait| wait > RETRY_WAIT);
        let too_often = self.attempt > RETRIES || now.duration_since(self.since) >= RETRY_AGE;
        // Its own waits stay below a minute: a longer one is what the provider asked for.
        if far || (too_often && speaks_of_limits(&self.message)) {
            let seconds = self.wait.map(|wait| wait.as_secs_f64().ceil());
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped where it was made")]
            let retry_after_seconds = seconds.map(|seconds| seconds as u64);
            return Some(Broken::RateLimited { retry_after_seconds, message: self.message.clone() });
        }
        too_often.then(|| Broken::RetriesExhausted { message: self.message.clone() })
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
