//! What all hosts do at this moment.

use std::time::Duration;

use serde::Serialize;

use super::Result;
use crate::store::{
    Store,
    fleet::{RunningTurn, ServerRow, Waiting},
    reads::LiveWorker,
};

/// All of it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Activity {
    /// Workers heard of lately.
    pub workers: Vec<LiveWorker>,
    /// Turns that run, longest first.
    pub turns: Vec<RunningTurn>,
    /// What waits, and what today has cost.
    #[serde(flatten)]
    pub waiting: Waiting,
}

/// The servers of agents that run. `window` is how long a lease lives.
pub async fn servers(store: &Store, window: Duration) -> Result<Vec<ServerRow>> {
    Ok(store.servers(window).await?)
}

/// What happens at this moment. `window` is how long a lease lives.
pub async fn activity(store: &Store, at_most: i64, window: Duration) -> Result<Activity> {
    Ok(Activity {
        workers: store.live_workers(window).await?,
        turns: store.running_turns(at_most).await?,
        waiting: store.waiting().await?,
    })
}
