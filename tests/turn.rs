//! Whole turns: from a row in `tasks` to a change ready for review, through the real opencode.

mod adoption;
mod capacity;
mod endings;
mod log;
mod many;
mod recovery;
mod rehome;
mod resume;
mod sandbox;
mod stopped;
mod whole;
