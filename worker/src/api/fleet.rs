//! Hosts: workers, agents, worktrees, what runs now; and the audit log.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    extract::{Answer, Asked},
    page::{List, Page},
};
use crate::{
    actions::{self, ActionError, Activity},
    store::{
        fleet::ServerRow,
        pages::AuditRow,
        reads::{AgentRow, LiveWorker},
        worktrees::{WorktreeFilter, WorktreeRow},
    },
};

/// Turns in the picture of what runs.
const TURNS: i64 = 200;
/// Characters of a text in that picture.
const SHOWN: usize = 500;

/// How the whole is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OverviewDetail {
    /// Millhand's version.
    version: &'static str,
    /// The database has the schema that this program knows.
    schema_is_current: bool,
    /// Workers heard of lately.
    workers: Vec<LiveWorker>,
    /// Tasks per state, where there are any.
    tasks: BTreeMap<String, i64>,
    /// How long the oldest task that could run has waited.
    oldest_due_seconds: Option<u64>,
    /// Deliveries to webhooks that were given up.
    dead_deliveries: i64,
    /// Webhooks that their receivers had turned off.
    webhooks_off: i64,
}

/// Show how the whole is.
#[utoipa::path(get, path = "/api/overview", tag = "fleet", responses((status = 200, description = "The whole", body = OverviewDetail)))]
pub(super) async fn overview(State(api): State<Api>) -> Answer<OverviewDetail> {
    let found = actions::overview(&api.store, api.window()).await?;
    Ok(Json(OverviewDetail {
        version: env!("CARGO_PKG_VERSION"),
        schema_is_current: found.schema.require_current().is_ok(),
        workers: found.workers,
        tasks: found.tasks.into_iter().collect(),
        oldest_due_seconds: found.oldest_due.map(|waited| waited.as_secs()),
        dead_deliveries: found.dead_deliveries,
        webhooks_off: found.webhooks_off,
    }))
}

/// Show what all hosts do at this moment: workers, turns that run (the longest 200), what waits, what today has cost.
#[utoipa::path(get, path = "/api/activity", tag = "fleet", responses((status = 200, description = "What runs now", body = Activity)))]
pub(super) async fn activity(State(api): State<Api>) -> Answer<Activity> {
    Ok(Json(picture(&api).await?))
}

/// What runs now, without what only the pages of tasks show whole.
pub(super) async fn picture(api: &Api) -> Result<Activity, ActionError> {
    let mut activity = actions::activity(&api.store, TURNS, api.window()).await?;
    for turn in &mut activity.turns {
        cut(&mut turn.prompt);
        if let Some(data) = &mut turn.doing_data {
            cut_texts(data);
        }
    }
    Ok(activity)
}

fn cut(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(end);
        text.push('…');
    }
}

fn cut_texts(value: &mut Value) {
    match value {
        Value::String(text) => cut(text),
        Value::Array(items) => items.iter_mut().for_each(cut_texts),
        Value::Object(fields) => fields.values_mut().for_each(cut_texts),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// List workers heard of lately.
#[utoipa::path(get, path = "/api/workers", tag = "fleet", responses((status = 200, description = "Workers", body = List<LiveWorker>)))]
pub(super) async fn workers(State(api): State<Api>) -> Answer<List<LiveWorker>> {
    Ok(Json(List::whole(actions::workers(&api.store, api.window()).await?)))
}

/// List the servers of agents that run, with what is on them. One that has ended is not there.
#[utoipa::path(get, path = "/api/servers", tag = "fleet", responses((status = 200, description = "Servers", body = List<ServerRow>)))]
pub(super) async fn servers(State(api): State<Api>) -> Answer<List<ServerRow>> {
    Ok(Json(List::whole(actions::servers(&api.store, api.window()).await?)))
}

/// List the agents of all hosts, with the models that they offer.
#[utoipa::path(get, path = "/api/agents", tag = "fleet", responses((status = 200, description = "Agents", body = List<AgentRow>)))]
pub(super) async fn agents(State(api): State<Api>) -> Answer<List<AgentRow>> {
    Ok(Json(List::whole(actions::models(&api.store).await?)))
}

/// Which worktrees.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WorktreesQuery {
    /// Only of this project.
    project: Option<String>,
    /// Only of this host.
    host: Option<String>,
    /// Those that are gone, too.
    #[serde(default)]
    gone: bool,
    /// At most so many; 500 is the most.
    #[param(default = 50, minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The page behind the one that gave this as `next`.
    cursor: Option<String>,
}

/// List worktrees, oldest first.
#[utoipa::path(get, path = "/api/worktrees", tag = "fleet", params(WorktreesQuery),
    responses((status = 200, description = "Worktrees", body = List<WorktreeRow>)))]
pub(super) async fn worktrees(
    State(api): State<Api>,
    Asked(asked): Asked<WorktreesQuery>,
) -> Answer<List<WorktreeRow>> {
    let page = Page::<i64>::new(asked.limit, asked.cursor.as_deref())?;
    let filter = WorktreeFilter {
        host_id: asked.host,
        project: asked.project,
        gone: asked.gone,
        after: page.after.unwrap_or(0),
        ..WorktreeFilter::default()
    };
    let rows = api.store.worktrees(&filter, page.rows()).await?;
    Ok(Json(page.of(rows, |row| row.id)))
}

/// Which entries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// At most so many; 500 is the most.
    #[param(default = 50, minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The page behind the one that gave this as `next`.
    cursor: Option<String>,
}

/// Read the audit log, newest first.
#[utoipa::path(get, path = "/api/audit", tag = "fleet", params(AuditQuery),
    responses((status = 200, description = "Who did what", body = List<AuditRow>)))]
pub(super) async fn audit(State(api): State<Api>, Asked(asked): Asked<AuditQuery>) -> Answer<List<AuditRow>> {
    let page = Page::<i64>::new(asked.limit, asked.cursor.as_deref())?;
    let rows = api.store.audit_log(page.after, page.rows()).await?;
    Ok(Json(page.of(rows, |row| row.id)))
}
