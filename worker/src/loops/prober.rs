//! Looks at what agents this host can run, and tells the database.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Rounds, Trouble};
use crate::{agent::Backend, store::Store};

/// What the prober needs.
pub struct Prober {
    /// Where to tell.
    pub store: Store,
    /// This host.
    pub host_id: String,
    /// Name of the agent.
    pub agent: String,
    /// The agent.
    pub backend: Arc<dyn Backend>,
    /// Between looks.
    pub every: Duration,
}

impl Prober {
    /// Looks until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut trouble = Trouble::new("recording agents");
        let mut rounds = Rounds::every(self.every, &stop);
        while rounds.next().await {
            let Some(probe) = rounds.unless_stopped(self.backend.probe()).await else { return };
            trouble.note(self.store.record_agent(&self.host_id, &self.agent, "opencode", &probe_row(&probe)).await);
        }
    }
}

fn probe_row(probe: &crate::agent::Probe) -> crate::store::queue::AgentRow<'_> {
    crate::store::queue::AgentRow {
        installed: probe.version.is_some() && probe.problem.is_none(),
        version: probe.version.as_deref(),
        problem: probe.problem.as_deref(),
        models: &probe.models,
    }
}
