//! Tests of: opencode. The real `opencode serve`, started through the shim, against the scripted model.

mod config;
mod contract;
mod endings;
mod recovery;
mod rig;
mod together;
mod turns;
