//! Pure types and decisions: ids, events, outcomes, retries.
//!
//! Nothing here does input or output, knows tokio or looks at a clock: `now` is an argument.

pub mod access;
pub mod address;
pub mod adoption;
pub mod apply;
pub mod ask;
pub mod budget;
pub mod change;
pub mod check;
pub mod clock;
pub mod command;
pub mod counters;
pub mod digest;
pub mod event;
pub mod forecast;
pub mod ids;
pub mod lane;
pub mod line;
pub mod outcome;
pub mod redact;
pub mod resume;
pub mod retry;
pub mod review;
pub mod server;
pub mod source;
pub mod stall;
pub mod usage;
pub mod webhook;
pub mod worktree;
