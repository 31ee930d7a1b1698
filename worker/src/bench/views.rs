//! What people look at, with a year's work behind them and a long queue before them.

use std::{future::Future, time::Duration};

use tokio::time::Instant;

use super::{Bench, Figure, Samples, pages};
use crate::{
    actions::{self, ActionError, InboxFilter},
    store::{
        Store, StoreError,
        costs::{CostBy, CostFilter},
        reads::{SessionFilter, TaskFilter},
    },
};

const GROUP: &str = "views";
const AIM: &str = "under 30 ms";
/// How long a worker may not have been heard of.
const WINDOW: Duration = Duration::from_secs(20);
/// What a list shows, unless it is told otherwise.
const LISTED: i64 = 30;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Finished tasks.
    pub finished: i64,
    /// Pending ones.
    pub pending: i64,
    /// How often each view is looked at.
    pub rounds: usize,
}

impl Size {
    /// What the README's figures are made with.
    pub const FULL: Self = Self { finished: 1_000_000, pending: 100_000, rounds: 40 };
    /// A quick look.
    pub const QUICK: Self = Self { finished: 100_000, pending: 10_000, rounds: 10 };
}

/// Looks at everything, in a database that is made for it, see [`in_scratch`](super::in_scratch): by the command line, then in the dashboard.
pub async fn run(bench: &Bench<'_>, store: &Store, size: Size, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let by_commands = async {
        load(store, size).await?;
        Ok(commands(store, size.rounds, report).await?)
    };
    bench.unless_stopped(by_commands).await?;
    pages::run(bench, store, size.rounds, report).await
}

/// Makes what is looked at.
///
/// # Errors
///
/// Those of the database.
pub async fn load(store: &Store, size: Size) -> Result<(), StoreError> {
    store.load_history(size.finished).await?;
    store.load_sessions("bench-1", size.pending, None).await?;
    store.settle_load().await
}

/// Looks at everything as the command line does, each this often.
///
/// # Errors
///
/// Those of the database.
pub async fn commands(store: &Store, rounds: usize, report: &mut dyn FnMut(Figure)) -> Result<(), StoreError> {
    let mut look = Look { rounds, report };
    let project = Some("bench-7".to_owned());
    let tasks = |filter: TaskFilter| async move { actions::list_tasks(store, &filter, LISTED, WINDOW).await };
    look.at("ls", || tasks(TaskFilter::default())).await?;
    look.at("ls --project", || tasks(TaskFilter { project: project.clone(), ..TaskFilter::default() })).await?;
    for state in ["pending", "running", "completed", "failed", "cancelled"] {
        let its = || TaskFilter { states: vec![state.to_owned()], ..TaskFilter::default() };
        look.at(&format!("ls --state {state}"), || tasks(its())).await?;
    }
    let (sessions, its) =
        (SessionFilter::default(), SessionFilter { project: project.clone(), ..SessionFilter::default() });
    look.at("ls --sessions", || actions::list_sessions(store, &sessions, LISTED)).await?;
    look.at("ls --sessions --project", || actions::list_sessions(store, &its, LISTED)).await?;
    look.at("show t42", || actions::show_task(store, 42, WINDOW)).await?;
    look.at("show s7", || actions::show_session(store, 7, LISTED, WINDOW)).await?;
    let everything = InboxFilter::default();
    look.at("inbox", || actions::inbox(store, &everything, LISTED)).await?;
    look.at("status", || actions::overview(store, WINDOW)).await?;
    look.at("top", || actions::activity(store, LISTED, WINDOW)).await?;
    look.at("project ls", || actions::list_projects(store)).await?;
    look.at("forecast", || async { Ok(store.forecasts(None, None).await?) }).await?;
    look.at("budget", || actions::budgets(store, None)).await?;
    let all = CostFilter::default();
    for (name, by) in [
        ("stats --by project", CostBy::Project),
        ("stats --by agent", CostBy::Agent),
        ("stats --by model", CostBy::Model),
        ("stats --by day", CostBy::Day),
        ("stats --by session", CostBy::Session),
        ("stats --by task", CostBy::Task),
    ] {
        look.at(name, || actions::costs(store, by, &all, LISTED)).await?;
    }
    for view in ["inbox", "cost_by_project", "cost_by_agent", "cost_by_model", "cost_by_day", "budget_state"] {
        look.at(&format!("view {view}"), || async move { Ok(store.read_view(view).await?) }).await?;
    }
    Ok(())
}

struct Look<'a> {
    rounds: usize,
    report: &'a mut dyn FnMut(Figure),
}

impl Look<'_> {
    async fn at<T, F: Future<Output = Result<T, ActionError>>>(
        &mut self,
        name: &str,
        look: impl Fn() -> F,
    ) -> Result<(), StoreError> {
        let mut samples = Samples::default();
        // The first ones warm the caches.
        for n in 0..self.rounds + 3 {
            let began = Instant::now();
            look().await.map_err(|error| match error {
                ActionError::Store(error) => error,
                other => StoreError::Unexpected(format!("{name}: {other}")),
            })?;
            if n >= 3 {
                samples.push(began.elapsed());
            }
        }
        (self.report)(samples.figure(GROUP, name).aim(AIM));
        Ok(())
    }
}
