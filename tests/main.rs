//! Integration tests on real parts. One binary, so that it links once; one module per area.

mod access;
mod api;
mod apply;
mod browser;
mod budgets;
mod chaos;
mod checks;
mod cli;
mod git;
mod opencode;
mod parity;
mod postgres;
mod queue;
mod readme;
mod scripted;
mod soak;
mod structure;
mod supervise;
mod support;
mod tools;
mod turn;
mod webhooks;
mod worktrees;
