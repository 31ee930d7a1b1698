//! What a turn that has not ended is waiting for, and when that has lasted too long.
//!
//! Two questions, one after the other: [`classify`] says what it waits for, by what was seen of it; [`act`] says what is to be
//! done then. Each class has a deadline of its own, because silence means something else in each.

use std::time::Duration;

/// What was seen of a turn. Durations are ages, by now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// Since the prompt was taken.
    pub lasted: Duration,
    /// Since anything of the turn was heard or read.
    pub silent: Duration,
    /// The agent's server has ended, or was given up.
    pub server_gone: bool,
    /// Nothing tells of the turn as it happens; it can only be read.
    pub stream_lost: bool,
    /// Since the oldest ask or question that nobody has answered.
    pub unanswered: Option<Duration>,
    /// A person was asked something. They have a deadline of their own, which answers for them.
    pub person_asked: bool,
    /// The provider is being asked again.
    pub retry: Option<RetrySigns>,
    /// Since the tool call began that runs longest.
    pub tool: Option<Duration>,
    /// Steps in a row that ended without a reason.
    pub unknown_finishes: u32,
    /// How often the same calls, with the same results, came one after another.
    pub repeats: u32,
}

/// What was seen of a provider that is being asked again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetrySigns {
    /// Which try of this model call.
    pub attempt: i64,
    /// Since the first.
    pub age: Duration,
    /// How long until the next, as far as it is known.
    pub wait: Option<Duration>,
}

/// How long, or how often, each may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// A whole turn.
    pub turn: Duration,
    /// Silence of the provider, or of a turn that can only be read.
    pub silence: Duration,
    /// An ask or question without an answer.
    pub answer: Duration,
    /// One tool call.
    pub tool: Duration,
    /// All tries of one model call together.
    pub retry_age: Duration,
    /// One wait between two tries; a longer one belongs into the queue, not into a turn.
    pub retry_wait: Duration,
    /// Tries of one model call.
    pub retries: i64,
    /// Steps in a row without a reason.
    pub unknown_finishes: u32,
    /// The same calls one after another.
    pub repeats: u32,
}

/// What a turn waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Its server is dead: for nothing any more.
    DeadServer,
    /// It goes in circles.
    Loop,
    /// A person's answer.
    Person,
    /// The provider's next try.
    ProviderRetrying,
    /// A tool that runs.
    Tool,
    /// Unknown, as nothing tells of it.
    LostStream,
    /// The provider, which says nothing.
    Provider,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing for this long.
    Wait(Duration),
    /// Read it, now and then: nothing will be told.
    Read,
    /// Abort it.
    Abort(Cause),
    /// Let go: there is nothing to abort.
    LetGo,
}

/// Why a turn is aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The whole turn took too long.
    TimedOut,
    /// Steps without a reason, one after another.
    UnknownFinishes,
    /// The same calls, one after another.
    Repeats,
    /// Nobody answered.
    Unanswered,
    /// The provider asks for a wait that does not belong into a turn.
    RetryTooFar,
    /// The provider was tried too often, or for too long.
    RetriesExhausted,
    /// One tool call took too long.
    LongTool,
    /// Silence.
    Stalled,
}

/// Says what a turn waits for.
pub fn classify(signs: &Signs, deadlines: &Deadlines) -> Waiting {
    if signs.server_gone {
        Waiting::DeadServer
    } else if signs.unknown_finishes >= deadlines.unknown_finishes || signs.repeats >= deadlines.repeats {
        Waiting::Loop
    } else if signs.unanswered.is_some() || signs.person_asked {
        Waiting::Person
    } else if signs.retry.is_some() {
        Waiting::ProviderRetrying
    } else if signs.tool.is_some() {
        Waiting::Tool
    } else if signs.stream_lost {
        Waiting::LostStream
    } else {
        Waiting::Provider
    }
}

/// Says what is to be done about a turn.
pub fn act(signs: &Signs, deadlines: &Deadlines) -> Action {
    let waiting = classify(signs, deadlines);
    if waiting != Waiting::DeadServer && signs.lasted >= deadlines.turn {
        return Action::Abort(Cause::TimedOut);
    }
    let until = |lasted: Duration, deadline: Duration, cause| match deadline.checked_sub(lasted) {
        Some(left) if !left.is_zero() => Action::Wait(left.min(deadlines.turn.saturating_sub(signs.lasted))),
        _ => Action::Abort(cause),
    };
    match waiting {
        Waiting::DeadServer => Action::LetGo,
        Waiting::Loop if signs.unknown_finishes >= deadlines.unknown_finishes => Action::Abort(Cause::UnknownFinishes),
        Waiting::Loop => Action::Abort(Cause::Repeats),
        Waiting::Person if signs.unanswered.is_none() => until(signs.lasted, deadlines.turn, Cause::TimedOut),
        Waiting::Person => until(signs.unanswered.unwrap_or_default(), deadlines.answer, Cause::Unanswered),
        Waiting::ProviderRetrying => {
            let retry = signs.retry.unwrap_or_default();
            if retry.wait.is_some_and(|wait| wait > deadlines.retry_wait) {
                Action::Abort(Cause::RetryTooFar)
            } else if retry.attempt > deadlines.retries {
                Action::Abort(Cause::RetriesExhausted)
            } else {
                until(retry.age, deadlines.retry_age, Cause::RetriesExhausted)
            }
        }
        Waiting::Tool => until(signs.tool.unwrap_or_default(), deadlines.tool, Cause::LongTool),
        Waiting::LostStream if signs.silent < deadlines.silence => Action::Read,
        Waiting::LostStream | Waiting::Provider => until(signs.silent, deadlines.silence, Cause::Stalled),
    }
}

/// The next step towards the end of a turn that was told to abort and goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escalation {
    /// It may still end.
    Wait,
    /// Tell it once more.
    AbortAgain,
    /// It does not listen: its server must not be trusted with another turn, and ends when this was its last.
    GiveUp,
}

/// Says how far to go with a turn that was first told to abort `since` ago, in all `aborts` times, and may take `bound`.
pub fn escalate(since: Duration, aborts: u32, bound: Duration) -> Escalation {
    if since >= bound {
        Escalation::GiveUp
    } else if aborts < 2 && since >= bound / 2 {
        Escalation::AbortAgain
    } else {
        Escalation::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const DEADLINES: Deadlines = Deadlines {
        turn: s(10_000),
        silence: s(600),
        answer: s(60),
        tool: s(3600),
        retry_age: s(300),
        retry_wait: s(50),
        retries: 8,
        unknown_finishes: 3,
        repeats: 20,
    };

    fn retry(attempt: i64, age: u64, wait: u64) -> Option<RetrySigns> {
        Some(RetrySigns { attempt, age: s(age), wait: Some(s(wait)) })
    }

    #[test]
    fn each_class_has_its_deadline_and_its_action() {
        use Waiting as W;
        let base = Signs { lasted: s(1000), ..Signs::default() };
        let abort = Action::Abort;
        let cases = [
            // The provider thinks, and thinks too long.
            (Signs { silent: s(599), ..base }, W::Provider, Action::Wait(s(1))),
            (Signs { silent: s(600), ..base }, W::Provider, abort(Cause::Stalled)),
            // A tool may be silent for longer.
            (Signs { silent: s(3000), tool: Some(s(3000)), ..base }, W::Tool, Action::Wait(s(600))),
            (Signs { silent: s(3600), tool: Some(s(3600)), ..base }, W::Tool, abort(Cause::LongTool)),
            // A retry is waited for, but not for ever, not too often and not too far.
            (Signs { silent: s(900), retry: retry(3, 100, 8), ..base }, W::ProviderRetrying, Action::Wait(s(200))),
            (Signs { retry: retry(9, 100, 8), ..base }, W::ProviderRetrying, abort(Cause::RetriesExhausted)),
            (Signs { retry: retry(2, 300, 8), ..base }, W::ProviderRetrying, abort(Cause::RetriesExhausted)),
            (Signs { retry: retry(1, 0, 3600), ..base }, W::ProviderRetrying, abort(Cause::RetryTooFar)),
            // A person is waited for while everything else is silent, tools too.
            (
                Signs { silent: s(700), unanswered: Some(s(10)), tool: Some(s(4000)), ..base },
                W::Person,
                Action::Wait(s(50)),
            ),
            (Signs { unanswered: Some(s(60)), ..base }, W::Person, abort(Cause::Unanswered)),
            (Signs { silent: s(8000), person_asked: true, ..base }, W::Person, Action::Wait(s(9000))),
            // What nobody tells of is read, until it does not change any more.
            (Signs { silent: s(599), stream_lost: true, ..base }, W::LostStream, Action::Read),
            (Signs { silent: s(600), stream_lost: true, ..base }, W::LostStream, abort(Cause::Stalled)),
            // Circles are broken off at once, whatever else is seen.
            (Signs { unknown_finishes: 3, retry: retry(1, 1, 1), ..base }, W::Loop, abort(Cause::UnknownFinishes)),
            (Signs { repeats: 20, tool: Some(s(1)), ..base }, W::Loop, abort(Cause::Repeats)),
            (Signs { unknown_finishes: 2, repeats: 19, ..base }, W::Provider, Action::Wait(s(600))),
            // A dead server has nothing that could be aborted.
            (Signs { server_gone: true, repeats: 99, lasted: s(20_000), ..base }, W::DeadServer, Action::LetGo),
            // The whole turn has a bound that nothing lengthens.
            (Signs { lasted: s(10_000), tool: Some(s(1)), ..base }, W::Tool, abort(Cause::TimedOut)),
            (Signs { lasted: s(9_990), tool: Some(s(1)), ..base }, W::Tool, Action::Wait(s(10))),
        ];
        for (signs, waiting, action) in cases {
            assert_eq!(classify(&signs, &DEADLINES), waiting, "{signs:?}");
            assert_eq!(act(&signs, &DEADLINES), action, "{signs:?}");
        }
    }

    #[test]
    fn an_abort_is_repeated_once_and_then_given_up() {
        let cases = [
            (0, 1, Escalation::Wait),
            (4, 1, Escalation::Wait),
            (5, 1, Escalation::AbortAgain),
            (6, 2, Escalation::Wait),
            (10, 2, Escalation::GiveUp),
            (10, 1, Escalation::GiveUp),
        ];
        for (since, aborts, expected) in cases {
            assert_eq!(escalate(s(since), aborts, s(10)), expected, "{since} s, {aborts} aborts");
        }
    }
}
