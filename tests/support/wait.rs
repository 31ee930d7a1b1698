//! Waiting for a condition, with a bound.

use std::time::Duration;

use anyhow::{Context, Result};

/// Between two looks at the condition.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until the condition holds.
pub async fn wait_until(what: &str, within: Duration, mut condition: impl AsyncFnMut() -> bool) -> Result<()> {
    let looks = async {
        while !condition().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(within, looks).await.with_context(|| format!("not within {within:?}: {what}"))
}
