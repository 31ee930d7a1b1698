//! What was paid for.

use super::Result;
use crate::store::{
    Store,
    reads::{CostBy, CostRow},
};

/// Tokens and cost, summed.
pub async fn costs(store: &Store, by: CostBy) -> Result<Vec<CostRow>> {
    Ok(store.costs(by).await?)
}
