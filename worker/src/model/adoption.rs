//! What becomes of an agent's server whose worker died: whether the next worker of the home takes it over, with the turns that run on it.

use std::time::Duration;

/// A server is adopted so often within [`ADOPTIONS_WITHIN`], and ended the next time: what brings workers down again and again, a turn
/// perhaps, must not be kept running for ever by that.
pub const MOST_ADOPTIONS: usize = 3;
/// The time that adoptions are counted in.
pub const ADOPTIONS_WITHIN: Duration = Duration::from_secs(600);

/// A server as its shim describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Its shim is of this version.
    pub same_version: bool,
    /// Its family is being ended: the deadline has passed, or it died.
    pub ending: bool,
    /// What was handed over is understood.
    pub understood: bool,
    /// Adoptions within [`ADOPTIONS_WITHIN`].
    pub adoptions: usize,
    /// It would not be one more than fit here, nor the second one of its project.
    pub room: bool,
}

/// What to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Take it over. If it is not well, or was started with another configuration, environment or sandbox than it would be now, it is ended
    /// after that: its turns go on by their ids on the next one.
    Adopt,
    /// Have its shim end it.
    End(Reason),
    /// Say nothing to it: it ends by itself.
    Leave,
}

/// Why a server is ended that could be adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its shim may mean something else than we do.
    Version,
    /// What was handed over is not understood.
    NotUnderstood,
    /// Worker after worker died that had it.
    TooOften,
    /// There is no room for it.
    NoRoom,
}

impl Reason {
    /// For the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Version => "its shim is of another version",
            Self::NotUnderstood => "what was handed over is not understood",
            Self::TooOften => "it was adopted too often",
            Self::NoRoom => "there is no room for it",
        }
    }
}

/// Decides.
pub fn choose(leftover: &Leftover) -> Choice {
    if leftover.ending {
        Choice::Leave
    } else if !leftover.same_version {
        Choice::End(Reason::Version)
    } else if !leftover.understood {
        Choice::End(Reason::NotUnderstood)
    } else if leftover.adoptions >= MOST_ADOPTIONS {
        Choice::End(Reason::TooOften)
    } else if !leftover.room {
        Choice::End(Reason::NoRoom)
    } else {
        Choice::Adopt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_it_should_be_is_adopted_and_what_ends_is_left_alone() {
        let well = Leftover { same_version: true, ending: false, understood: true, adoptions: 0, room: true };
        let table = [
            (well, Choice::Adopt),
            (Leftover { adoptions: 2, ..well }, Choice::Adopt),
            (Leftover { adoptions: 3, ..well }, Choice::End(Reason::TooOften)),
            (Leftover { adoptions: 9, ..well }, Choice::End(Reason::TooOften)),
            (Leftover { same_version: false, ..well }, Choice::End(Reason::Version)),
            (Leftover { understood: false, ..well }, Choice::End(Reason::NotUnderstood)),
            (Leftover { room: false, ..well }, Choice::End(Reason::NoRoom)),
            (Leftover { ending: true, ..well }, Choice::Leave),
            (Leftover { ending: true, same_version: false, adoptions: 9, ..well }, Choice::Leave),
        ];
        for (leftover, expected) in table {
            assert_eq!(choose(&leftover), expected, "{leftover:?}");
        }
        // The whole space: nothing is adopted with anything wrong.
        for bits in 0..64_u8 {
            let bit = |n: u8| bits & (1 << n) != 0;
            let adoptions = if bit(4) { MOST_ADOPTIONS } else { usize::from(bit(5)) };
            let leftover =
                Leftover { same_version: bit(0), ending: bit(1), understood: bit(2), adoptions, room: bit(3) };
            let is_well = bit(0) && !bit(1) && bit(2) && bit(3) && !bit(4);
            assert_eq!(choose(&leftover) == Choice::Adopt, is_well, "{leftover:?}");
        }
    }
}
