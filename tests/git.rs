//! Tests of: git. Real git, real repositories; what is held against it is git's own `apply`, `add` and `write-tree`.

mod corpus;
mod hostile;
mod packing;
pub(crate) mod random;
mod remotes;
mod repository;
mod sources;
mod worktrees;
