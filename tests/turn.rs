//! Whole turns: from a row in `tasks` to a change ready for review, through the real opencode.

mod endings;
mod many;
mod recovery;
mod sandbox;
mod whole;
