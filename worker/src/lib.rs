//! Millhand: a worker for coding agents.
//!
//! A row in `millhand.tasks` becomes a turn of an agent in a git worktree of its own, and what the
//! agent changed becomes `pending_changes` for a person to review. ARCHITECTURE.md in the repository's
//! root is the map.
//!
//! Modules point one way, and a test holds them to it:
//! `cli → service → {loops, api} → {turn, actions} → worktrees → {agent, git, store} → postgres → {supervise, tools, model, config}`.

pub mod actions;
pub mod agent;
pub mod api;
pub mod bench;
pub mod cli;
pub mod config;
pub mod git;
pub mod loops;
pub mod model;
pub mod postgres;
pub mod scripted;
pub mod service;
pub mod store;
pub mod supervise;
pub mod tools;
pub mod turn;
pub mod worktrees;
