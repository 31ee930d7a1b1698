//! Pages: all that each page of the dashboard asks the API for, each request by itself, from sending it to having read its answer.

use anyhow::{Context, Result};
use tokio::time::Instant;

use super::{Bench, Figure, Samples, place::Place, served::Served};
use crate::store::Store;

const GROUP: &str = "pages";
const AIM: &str = "under 50 ms";

/// What is asked for. `{task}`, `{session}` and `{set}` are the newest with open changes. A test of the dashboard holds its sources against this list.
pub(super) const REQUESTS: [&str; 46] = [
    // All pages; the fleet.
    "/api/me",
    "/api/activity",
    "/api/tasks?limit=8&state=completed,failed,blocked,cancelled",
    "/api/overview",
    "/api/workers",
    // The inbox.
    "/api/inbox?limit=50",
    "/api/inbox?limit=50&project=bench-7",
    "/api/inbox?limit=50&class=agent_failed",
    "/api/asks?limit=50",
    // The queue.
    "/api/tasks?limit=50",
    "/api/tasks?limit=500",
    "/api/tasks?limit=50&project=bench-7",
    "/api/tasks?limit=50&state=pending",
    "/api/tasks?limit=50&state=running",
    "/api/tasks?limit=50&state=failed",
    "/api/tasks?limit=50&state=cancelled",
    "/api/tasks?limit=50&state=failed&project=bench-7",
    // Sessions.
    "/api/sessions?limit=50",
    "/api/sessions?limit=50&project=bench-7",
    "/api/sessions?limit=50&state=open",
    "/api/sessions?limit=50&state=closed",
    "/api/forecasts",
    // A session.
    "/api/sessions/{session}",
    "/api/tasks?session={session}&limit=500",
    "/api/tasks/{task}",
    "/api/tasks/{task}/events?attempt=1&limit=500",
    "/api/sessions/{session}/checkpoints",
    "/api/sessions/{session}/agent-sessions",
    "/api/change-sets/{set}",
    "/api/change-sets/{set}/files?limit=500",
    // Costs.
    "/api/costs?by=day&since=30d&limit=400",
    "/api/costs?by=project&since=30d&limit=50",
    "/api/costs?by=model&since=30d&limit=50",
    "/api/costs?by=agent&since=30d&limit=50",
    "/api/costs?by=day&limit=400",
    "/api/costs?by=project&limit=50",
    "/api/budgets",
    "/api/prices",
    // Projects, worktrees, agents, webhooks.
    "/api/projects",
    "/api/projects/bench-7/checks",
    "/api/worktrees?limit=500",
    "/api/worktrees?limit=500&project=bench-7",
    "/api/agents",
    "/api/servers",
    "/api/webhooks",
    "/api/deliveries?limit=50",
];

/// Asks for all of it, so often.
pub(super) async fn run(bench: &Bench<'_>, store: &Store, rounds: usize, report: &mut dyn FnMut(Figure)) -> Result<()> {
    let place = Place::new(bench.settings)?;
    let asked = async {
        let served = Served::start(bench, store, &place).await?;
        let asked = bench.unless_stopped(ask(&served, rounds, report)).await;
        served.stop().await?;
        asked
    };
    let asked = asked.await;
    place.remove().await?;
    asked
}

async fn ask(served: &Served, rounds: usize, report: &mut dyn FnMut(Figure)) -> Result<()> {
    let open = served.get("/api/change-sets?state=open&limit=1").await?;
    let id = |name: &str| open["items"][0][name].as_i64().with_context(|| format!("{name} of an open change set"));
    let (set, task, session) = (id("id")?, id("task_id")?, id("session_id")?);
    for request in REQUESTS {
        let path = request
            .replace("{set}", &set.to_string())
            .replace("{task}", &task.to_string())
            .replace("{session}", &session.to_string());
        let mut samples = Samples::default();
        // The first ones warm the caches.
        for n in 0..rounds + 3 {
            let began = Instant::now();
            served.get(&path).await?;
            if n >= 3 {
                samples.push(began.elapsed());
            }
        }
        report(samples.figure(GROUP, request).aim(AIM));
    }
    Ok(())
}
