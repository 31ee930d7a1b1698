//! Pure types and decisions: ids, events, outcomes, retries.
//!
//! Nothing here does input or output, knows tokio or looks at a clock: `now` is an argument.

pub mod adoption;
pub mod apply;
pub mod change;
pub mod clock;
pub mod counters;
pub mod digest;
pub mod event;
pub mod ids;
pub mod lane;
pub mod line;
pub mod outcome;
pub mod resume;
pub mod retry;
pub mod review;
pub mod server;
pub mod stall;
pub mod usage;
pub mod worktree;
