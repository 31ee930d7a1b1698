//! Tests of: opencode. The real `opencode serve`, started through the shim, against the scripted model.

mod config;
mod contract;
mod endings;
mod pool;
mod recovery;
mod rig;
mod stalls;
mod together;
mod turns;
