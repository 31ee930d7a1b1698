//! Keeps the forecasts of open change sets current: for the sessions of this host, whenever a branch has moved, or a change set has come, gone or
//! been decided about in part.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Rounds, Trouble};
use crate::{
    actions::{ActionError, Applier, Outlook},
    store::StoreError,
};

/// What the forecaster needs.
pub struct Forecaster {
    /// Who merges.
    pub applier: Applier,
    /// Between looks.
    pub every: Duration,
    /// Between looks at a project's remote.
    pub fetch_every: Duration,
}

/// What is known of a project.
struct Known {
    fetched_at: Instant,
    /// By branch: what its forecasts were made from.
    made_from: HashMap<String, u64>,
}

impl Forecaster {
    /// Forecasts until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut trouble = Trouble::new("forecasting conflicts");
        let mut known = HashMap::new();
        let mut rounds = Rounds::every(self.every, &stop);
        while rounds.next().await {
            let Some(round) = rounds.unless_stopped(self.round(&mut known)).await else { return };
            trouble.note(round);
        }
    }

    async fn round(&self, known: &mut HashMap<String, Known>) -> Result<(), StoreError> {
        let projects = self.applier.store.projects_to_forecast(&self.applier.host_id).await?;
        let there: HashSet<&String> = projects.iter().collect();
        known.retain(|project, _| there.contains(project));
        let mut problem = None;
        for project in &projects {
            match self.project(project, known).await {
                Ok(()) => {}
                Err(ActionError::Store(error)) if error.is_unreachable() => return Err(error),
                // Another one is not to wait for it.
                Err(error) => problem = Some(StoreError::Unexpected(format!("{project}: {error}"))),
            }
        }
        problem.map_or(Ok(()), Err)
    }

    async fn project(&self, project: &str, known: &mut HashMap<String, Known>) -> Result<(), ActionError> {
        let now = Instant::now();
        let fetch = known.get(project).is_none_or(|known| known.fetched_at + self.fetch_every <= now);
        // A remote that cannot be reached is not asked at each look either.
        let known =
            known.entry(project.to_owned()).or_insert_with(|| Known { fetched_at: now, made_from: HashMap::new() });
        if fetch {
            known.fetched_at = now;
        }
        let outlooks = self.applier.outlooks(project, fetch).await?;
        for outlook in &outlooks {
            let from = fingerprint(outlook);
            if known.made_from.get(&outlook.branch) != Some(&from) {
                self.applier.forecast(outlook).await?;
                known.made_from.insert(outlook.branch.clone(), from);
            }
        }
        known.made_from.retain(|branch, _| outlooks.iter().any(|outlook| outlook.branch == *branch));
        Ok(())
    }
}

fn fingerprint(outlook: &Outlook) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&outlook.tip, &outlook.sets).hash(&mut hasher);
    hasher.finish()
}
