//! Budgets: what is spent is recorded once, and held within its limits whatever happens.

mod claim;
mod sums;
mod turns;
