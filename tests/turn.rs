//! Whole turns: from a row in `tasks` to a change ready for review, through the real opencode.

mod adoption;
mod asks;
mod away;
mod capacity;
mod clock;
mod endings;
mod kills;
mod kills_between;
mod log;
mod many;
mod merge;
mod order;
mod recovery;
mod rehome;
mod resume;
mod sandbox;
mod secrets;
mod setup;
mod stopped;
mod whole;
