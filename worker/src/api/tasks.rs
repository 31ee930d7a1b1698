//! Tasks: the queue, one task, what its turns said.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    extract::{Answer, Asked, At, Id, Session, Task},
    page::{List, Page},
    problem::Problem,
};
use crate::{
    actions::{self, Look},
    store::{
        checks::CheckRunRow,
        reads::{SessionRow, TaskFilter},
        reads_turns::{AttemptRow, ChangeSetRow, ChangesOf, TurnEventRow},
    },
};

const STATES: [&str; 7] = ["pending", "waiting", "running", "blocked", "completed", "failed", "cancelled"];

/// Which tasks.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TasksQuery {
    /// Only of this project.
    project: Option<String>,
    /// Only of this session (s7, or 7).
    #[param(value_type = Option<String>)]
    session: Option<Id<Session>>,
    /// Only in these states, with commas between: pending, waiting, running, blocked, completed, failed, cancelled.
    state: Option<String>,
    /// At most so many; 500 is the most.
    #[param(default = 50, minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The page behind the one that gave this as `next`.
    cursor: Option<String>,
}

/// Words of a list with commas between, each of which must be one of these.
pub(super) fn words(given: Option<&str>, known: &[&str], what: &str) -> Result<Vec<String>, Problem> {
    let words = given.unwrap_or_default().split(',').map(str::trim).filter(|word| !word.is_empty());
    let known_word = |word: &str| match known.contains(&word) {
        true => Ok(word.to_owned()),
        false => Err(Problem::bad(format!("\"{word}\" is no {what}; there are: {}", known.join(", ")))),
    };
    words.map(known_word).collect()
}

/// List tasks, newest first.
#[utoipa::path(get, path = "/api/tasks", tag = "tasks", params(TasksQuery), responses((status = 200, description = "Tasks", body = List<Look>)))]
pub(super) async fn list(State(api): State<Api>, Asked(asked): Asked<TasksQuery>) -> Answer<List<Look>> {
    let page = Page::<i64>::new(asked.limit, asked.cursor.as_deref())?;
    let filter = TaskFilter {
        project: asked.project,
        session_id: asked.session.map(|id| id.0),
        states: words(asked.state.as_deref(), &STATES, "state of a task")?,
        before: page.after,
    };
    let rows = actions::list_tasks(&api.store, &filter, page.rows(), api.window()).await?;
    Ok(Json(page.of(rows, |look| look.task.id)))
}

/// A task with all that happened to it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TaskDetail {
    #[serde(flatten)]
    look: Look,
    /// Its session.
    session: SessionRow,
    /// Its attempts, in order.
    attempt_rows: Vec<AttemptRow>,
    /// What it changed; null: nothing yet.
    change_set: Option<ChangeSetRow>,
    /// What the project's checks said of that.
    check_runs: Vec<CheckRunRow>,
    /// How many tasks wait behind it.
    behind: i64,
}

/// Show a task with all that happened to it.
#[utoipa::path(get, path = "/api/tasks/{id}", tag = "tasks", params(("id" = String, Path, description = "The task: t42, or 42")),
    responses((status = 200, description = "The task", body = TaskDetail)))]
pub(super) async fn show(State(api): State<Api>, At(id): At<Id<Task>>) -> Answer<TaskDetail> {
    let store = &api.store;
    let look = actions::task(store, id.0, api.window()).await?;
    let session_id = look.task.session_id;
    let session = store.session(session_id).await?.ok_or_else(|| Problem::not_found("its session is gone"))?;
    let change_set = store.change_set(ChangesOf::Task(id.0)).await?;
    let check_runs = match &change_set {
        Some(set) => store.check_runs(set.id).await?,
        None => Vec::new(),
    };
    let (attempt_rows, behind) = (store.attempts(id.0).await?, store.waiting_behind(id.0).await?);
    Ok(Json(TaskDetail { look, session, attempt_rows, change_set, check_runs, behind }))
}

/// Which part of a transcript.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// Of which attempt, by its number [default: the newest].
    attempt: Option<i32>,
    /// At most so many; 500 is the most.
    #[param(default = 50, minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The page behind the one that gave this as `next`.
    cursor: Option<String>,
}

/// Read what a turn of a task said and did, oldest first.
#[utoipa::path(get, path = "/api/tasks/{id}/events", tag = "tasks",
    params(("id" = String, Path, description = "The task: t42, or 42"), EventsQuery),
    responses((status = 200, description = "Lines of the transcript", body = List<TurnEventRow>)))]
pub(super) async fn events(
    State(api): State<Api>,
    At(id): At<Id<Task>>,
    Asked(asked): Asked<EventsQuery>,
) -> Answer<List<TurnEventRow>> {
    // The cursor names the attempt: while a page is read, a new one may have begun.
    let page = Page::<(i64, i32)>::new(asked.limit, asked.cursor.as_deref())?;
    actions::task(&api.store, id.0, api.window()).await?;
    let attempts = api.store.attempts(id.0).await?;
    let wanted = |attempt: &&AttemptRow| match (page.after, asked.attempt) {
        (Some((id, _)), _) => attempt.id == id,
        (None, Some(number)) => attempt.number == number,
        (None, None) => true,
    };
    let Some(attempt) = attempts.iter().rfind(wanted) else {
        return match (page.after, asked.attempt) {
            (None, None) => Ok(Json(List::whole(Vec::new()))),
            _ => Err(Problem::not_found(format!("task t{} has no such attempt", id.0))),
        };
    };
    let after = page.after.map_or(-1, |(_, seq)| seq);
    let rows = api.store.turn_events(attempt.id, after, page.rows()).await?;
    Ok(Json(page.of(rows, |event| (event.attempt_id, event.seq))))
}
