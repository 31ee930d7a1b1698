//! Places in what a task says: what has come, and what comes next.

use std::{fmt, str::FromStr};

/// An attempt has begun; its events follow.
const BEGUN: i64 = 0;
/// An attempt is over.
const ENDED: i64 = i64::MAX - 1;
/// The task has come to rest after it.
const AT_REST: i64 = i64::MAX;

/// A place in what a task says: everything up to here has come. Later places are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The attempt; 0: before the first.
    pub(super) attempt: i64,
    rank: i64,
}

impl Place {
    pub(super) fn begun(attempt: i64) -> Self {
        Self { attempt, rank: BEGUN }
    }

    pub(super) fn event(attempt: i64, seq: i32) -> Self {
        Self { attempt, rank: i64::from(seq) }
    }

    pub(super) fn ended(attempt: i64) -> Self {
        Self { attempt, rank: ENDED }
    }

    pub(super) fn at_rest(self) -> Self {
        Self { rank: AT_REST, ..self }
    }

    pub(super) fn is_at_rest(self) -> bool {
        self.rank == AT_REST
    }

    /// The last event of its attempt that has come; none: all have.
    pub(super) fn seq(self) -> Option<i32> {
        (self.rank < ENDED).then(|| i32::try_from(self.rank).unwrap_or(i32::MAX))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rank {
            ENDED => write!(f, "{}.ended", self.attempt),
            AT_REST => write!(f, "{}.rest", self.attempt),
            rank => write!(f, "{}.{rank}", self.attempt),
        }
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (attempt, rank) = text.split_once('.').ok_or(())?;
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<i64>().ok()).flatten();
        let rank = match rank {
            "ended" => ENDED,
            "rest" => AT_REST,
            seq => number(seq).filter(|seq| *seq <= i64::from(i32::MAX)).ok_or(())?,
        };
        Ok(Self { attempt: number(attempt).ok_or(())?, rank })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_in_the_order_in_which_things_come() {
        let in_order = [
            Place::default(),
            Place::begun(7),
            Place::event(7, 1),
            Place::event(7, 90),
            Place::ended(7),
            Place::ended(7).at_rest(),
            Place::begun(8),
        ];
        assert!(in_order.is_sorted());
        for place in in_order {
            assert_eq!(place.to_string().parse(), Ok(place), "{place}");
        }
        assert_eq!(Place::event(7, 90).seq(), Some(90));
        assert_eq!((Place::begun(7).seq(), Place::ended(7).seq()), (Some(0), None));
    }

    #[test]
    fn what_is_no_place_is_not_taken_for_one() {
        for wrong in ["", "7", ".", "7.", ".1", "7.-1", "-7.1", "7.1.1", "7.x", "7.99999999999", "+7.1"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
