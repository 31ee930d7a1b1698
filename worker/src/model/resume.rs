//! Whether a turn goes on in the same conversation: after the agent's limit of steps, and after its server was lost.

use super::outcome::Ending;

/// What the agent is told when it was cut off at its limit of steps.
pub const RESUME_TEXT: &str = "You were cut off at your limit of steps before you were done. Go on from where you stopped and \
                               finish the task. Do not begin again, and do not repeat what is done.";

/// Losses of its server in a row after which a conversation is taken for the cause, and not resumed any more.
const LOSSES: i64 = 3;

/// A message of a turn: the one that it began with, or a prompt to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnMessage {
    /// The message that the turn began with.
    pub first: String,
    /// How often it was told to go on; 0: this is the first message.
    pub resumes: u32,
}

impl TurnMessage {
    /// The first message of a turn.
    pub fn first(id: String) -> Self {
        Self { first: id, resumes: 0 }
    }

    /// Reads an id that [`TurnMessage::id`] made.
    pub fn parse(id: &str) -> Self {
        match id.rsplit_once('r').and_then(|(first, number)| Some((first, number.parse().ok()?))) {
            // Ids of ours are hexadecimal behind their prefix: there is no other `r` in them.
            Some((first, resumes)) if first.starts_with("msg_") && resumes > 0 => {
                Self { first: first.to_owned(), resumes }
            }
            _ => Self::first(id.to_owned()),
        }
    }

    /// Its id.
    pub fn id(&self) -> String {
        if self.resumes == 0 { self.first.clone() } else { format!("{}r{}", self.first, self.resumes) }
    }

    /// The prompt to go on with, if the turn ended so that it can, and the budget allows it.
    pub fn next(&self, ending: &Ending, budget: u32) -> Option<Self> {
        (matches!(ending, Ending::StepLimit { .. }) && self.resumes < budget)
            .then(|| Self { first: self.first.clone(), resumes: self.resumes + 1 })
    }
}

/// Whether a conversation is resumed after it has lost its server so many times in a row. Its storage survives that; but
/// what kills a server each time is probably in it.
pub fn is_resumable(losses_in_a_row: i64) -> bool {
    losses_in_a_row < LOSSES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_step_limit_is_resumed_and_only_within_the_budget() {
        let first = TurnMessage::first("msg_0a1b".to_owned());
        let cases = [
            (0, Ending::StepLimit { answered: true }, 1, Some("msg_0a1br1")),
            (1, Ending::StepLimit { answered: true }, 1, None),
            (1, Ending::StepLimit { answered: false }, 2, Some("msg_0a1br2")),
            (0, Ending::StepLimit { answered: false }, 0, None),
            (0, Ending::AskRejected, 5, None),
            (0, Ending::Completed, 5, None),
            (0, Ending::ServerLost, 5, None),
        ];
        for (resumes, ending, budget, expected) in cases {
            let message = TurnMessage { resumes, ..first.clone() };
            assert_eq!(message.next(&ending, budget).map(|next| next.id()).as_deref(), expected, "{ending:?} {budget}");
        }
    }

    #[test]
    fn an_id_tells_which_turn_and_which_resume_it_is_of() {
        for (first, resumes) in [("msg_0a1b", 0), ("msg_0a1b", 1), ("msg_0a1b", 12)] {
            let message = TurnMessage { first: first.to_owned(), resumes };
            assert_eq!(TurnMessage::parse(&message.id()), message);
        }
        for odd in ["msg_0a1br", "msg_0a1br0", "r1", "msg_mh_x"] {
            assert_eq!(TurnMessage::parse(odd).id(), odd);
        }
    }

    #[test]
    fn a_conversation_that_loses_its_server_again_and_again_is_not_resumed() {
        assert!(is_resumable(0) && is_resumable(2) && !is_resumable(3));
    }
}
