//! Whether a turn goes on in the same conversation: after the agent's limit of steps, and after its server was lost.

use std::{fmt::Display, time::SystemTime};

use super::outcome::Ending;

/// What the agent is told when it was cut off at its limit of steps.
pub const RESUME_TEXT: &str = "You were cut off at your limit of steps before you were done. Go on from where you stopped and \
                               finish the task. Do not begin again, and do not repeat what is done.";

/// Losses of its server in a row after which a conversation is taken for the cause, and not resumed any more.
const LOSSES: i64 = 3;

/// Digits of the time in an id.
const STAMP: usize = 12;

/// A message of a turn: the one that it began with, or a prompt to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnMessage {
    /// The message that the turn began with.
    pub first: String,
    /// How often it was told to go on; 0: this is the first message.
    pub resumes: u32,
    id: String,
}

/// An id for a message that is sent now; `unique` is hexadecimal.
///
/// It begins with the time as opencode's own ids do, in units of 1/4096 ms, its last 48 bits: opencode 1.15 keeps messages in the order of
/// their ids, and asks the model again and again until an answer comes behind what it answers.
pub fn message_id(unique: impl Display, now: SystemTime) -> String {
    format!("msg_{}{unique}", stamp(now))
}

fn stamp(now: SystemTime) -> String {
    let ms = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    format!("{:012x}", (ms << 12) & 0xffff_ffff_ffff)
}

impl TurnMessage {
    /// The first message of a turn.
    pub fn first(id: String) -> Self {
        Self { first: id.clone(), resumes: 0, id }
    }

    /// Reads an id that was stored. One of a prompt to go on tells of the first message, too: `msg_<time><unique>r<resumes>x<first's time>`.
    pub fn parse(id: &str) -> Self {
        // Ids of ours are hexadecimal behind their prefix: there is no other `r` in them.
        let resume = || {
            let (own, rest) = id.strip_prefix("msg_")?.split_once('r')?;
            let (number, first) = rest.split_once('x')?;
            let unique = own.get(STAMP..)?;
            let resumes = number.parse().ok().filter(|resumes| *resumes > 0)?;
            (first.len() == STAMP).then(|| (format!("msg_{first}{unique}"), resumes))
        };
        match resume() {
            Some((first, resumes)) => Self { first, resumes, id: id.to_owned() },
            None => Self::first(id.to_owned()),
        }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The prompt to go on with, if the turn ended so that it can, and the budget allows it.
    pub fn next(&self, ending: &Ending, budget: u32, now: SystemTime) -> Option<Self> {
        if !matches!(ending, Ending::StepLimit { .. }) || self.resumes >= budget {
            return None;
        }
        let (resumes, own) = (self.resumes + 1, self.first.strip_prefix("msg_").unwrap_or(&self.first));
        let (first, unique) = own.split_at_checked(STAMP)?;
        let id = format!("msg_{}{unique}r{resumes}x{first}", stamp(now));
        Some(Self { first: self.first.clone(), resumes, id })
    }
}

/// Whether a conversation is resumed after it has lost its server so many times in a row. Its storage survives that; but
/// what kills a server each time is probably in it.
pub fn is_resumable(losses_in_a_row: i64) -> bool {
    losses_in_a_row < LOSSES
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
    }

    #[test]
    fn only_a_step_limit_is_resumed_and_only_within_the_budget() {
        let first = TurnMessage::first(message_id("0a1b", at(1)));
        let cases = [
            (0, Ending::StepLimit { answered: true }, 1, Some("msg_0000000020000a1br1x000000001000")),
            (1, Ending::StepLimit { answered: true }, 1, None),
            (1, Ending::StepLimit { answered: false }, 2, Some("msg_0000000020000a1br2x000000001000")),
            (0, Ending::StepLimit { answered: false }, 0, None),
            (0, Ending::AskRejected, 5, None),
            (0, Ending::Completed, 5, None),
            (0, Ending::ServerLost, 5, None),
        ];
        for (resumes, ending, budget, expected) in cases {
            let next = TurnMessage { resumes, ..first.clone() }.next(&ending, budget, at(2));
            assert_eq!(next.as_ref().map(TurnMessage::id), expected, "{ending:?} {budget}");
        }
    }

    #[test]
    fn an_id_tells_which_turn_and_which_resume_it_is_of() {
        let mut message = TurnMessage::first(message_id("0a1b", at(1_795_967_759_949)));
        // As opencode's own of that millisecond begin.
        assert_eq!(message.id(), "msg_22805364d0000a1b");
        for n in 1..13 {
            let later = at(1_795_967_759_949 + n);
            let next = message.next(&Ending::StepLimit { answered: true }, 20, later).expect("within the budget");
            assert!(next.id() > message.id(), "in the order in which they are sent");
            assert_eq!(TurnMessage::parse(next.id()), next);
            assert_eq!(next.first, "msg_22805364d0000a1b");
            message = next;
        }
        for odd in ["msg_0a1br", "msg_0a1br0", "r1", "msg_mh_x", "msg_0a1br1", "msg_22805364d0000a1br1x12"] {
            assert_eq!(TurnMessage::parse(odd), TurnMessage::first(odd.to_owned()));
        }
    }

    #[test]
    fn a_conversation_that_loses_its_server_again_and_again_is_not_resumed() {
        assert!(is_resumable(0) && is_resumable(2) && !is_resumable(3));
    }
}
