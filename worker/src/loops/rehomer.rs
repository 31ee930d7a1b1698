//! Takes over sessions whose host has had no worker for a while, where that can be done.

use std::collections::HashMap;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Rounds, Trouble};
use crate::{
    store::{StoreError, rehome::AwaySession},
    worktrees::{WorktreeError, Worktrees},
};

/// Sessions that are moved in a round: each may need a fetch.
const AT_ONCE: i64 = 10;

/// What the rehomer needs.
pub struct Rehomer {
    /// The worktrees of this host.
    pub worktrees: Worktrees,
    /// Agents that this host can run.
    pub agents: Vec<String>,
}

impl Rehomer {
    /// Takes over until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let away = self.worktrees.timings.rehome;
        if away.is_zero() {
            return;
        }
        let mut trouble = Trouble::new("looking for sessions whose host is gone");
        // Sessions that could not be moved, and when that was.
        let mut refused = HashMap::new();
        let mut rounds = Rounds::every((away / 10).max(std::time::Duration::from_millis(200)), &stop);
        while rounds.next().await {
            let Some(round) = rounds.unless_stopped(self.round(&mut refused)).await else { return };
            trouble.note(round);
        }
    }

    async fn round(&self, refused: &mut HashMap<i64, Instant>) -> Result<(), StoreError> {
        let Worktrees { store, host_id, timings, .. } = &self.worktrees;
        refused.retain(|_, since| since.elapsed() < timings.rehome.max(timings.reap_retry));
        loop {
            let without: Vec<i64> = refused.keys().copied().collect();
            let away = store.away_sessions(host_id, timings.rehome, &self.agents, &without, AT_ONCE).await?;
            let is_last = i64::try_from(away.len()).is_ok_and(|found| found < AT_ONCE);
            self.take_over(away, refused).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    async fn take_over(&self, away: Vec<AwaySession>, refused: &mut HashMap<i64, Instant>) -> Result<(), StoreError> {
        for session in away {
            let (id, from) = (session.session_id, &session.home_host);
            match self.worktrees.rehome(&session).await {
                Ok(true) => {
                    tracing::warn!(session = id, project = session.project, from, "took over: its host is gone");
                }
                Ok(false) => {
                    refused.insert(id, Instant::now());
                    tracing::warn!(
                        session = id,
                        from,
                        "its host is gone, and it is not taken over: it was claimed, closed, applied or taken back meanwhile, or this host still \
                         has its worktree of an earlier stay"
                    );
                }
                Err(WorktreeError::Store(error)) => return Err(error),
                Err(error) => {
                    refused.insert(id, Instant::now());
                    let problem = error.to_string();
                    tracing::warn!(session = id, from, problem, "its host is gone, and it cannot be taken over");
                }
            }
        }
        Ok(())
    }
}
