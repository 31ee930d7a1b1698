//! Putting tasks into the queue, and acting on those in it.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Api,
    extract::{Answer, At, Body, Chat, Id, OnceKey, Session, Task, created},
    problem::Problem,
};
use crate::{
    actions::{self, Acted, InboxFilter, Queued, RetryWith, Target, TaskRequest},
    store::reads::TaskRow,
};

/// Most tasks that are acted on at once.
const BULK: i64 = 10_000;

/// A task that opens a session.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTaskRequest {
    /// The project.
    project: String,
    /// What to ask the agent.
    prompt: String,
    /// Agent, with a mode of its own behind a slash (opencode, opencode/plan); left out: the project's.
    agent: Option<String>,
    /// Model (provider/model); left out: the project's, else the agent's.
    model: Option<String>,
    /// Variant of the model, such as its reasoning effort.
    variant: Option<String>,
    /// Lower runs first.
    #[serde(default)]
    priority: i32,
}

/// A task that continues a session.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SendRequest {
    /// What to ask the agent.
    prompt: String,
    /// Chat of the session (its id); left out: the first.
    #[schema(value_type = Option<i64>)]
    chat: Option<Id<Chat>>,
    /// A new chat, whose agent knows nothing of the others.
    #[serde(default)]
    new_chat: bool,
    /// Agent, with a mode of its own behind a slash; left out: the project's.
    agent: Option<String>,
    /// Model (provider/model); left out: the project's, else the agent's.
    model: Option<String>,
    /// Variant of the model.
    variant: Option<String>,
    /// Lower runs first.
    #[serde(default)]
    priority: i32,
}

fn queued(queued: Queued, prompt: &str, is_there: bool) -> Result<Response, Problem> {
    let Queued { task, is_new } = queued;
    if is_new {
        return Ok(created(format!("/api/tasks/{}", task.id), task));
    }
    // Nobody learns by a key what somebody else has asked.
    if !is_there || task.prompt != prompt {
        let detail = format!("the key was used for t{}, which is another task, or has another prompt by now", task.id);
        return Err(Problem::new(StatusCode::CONFLICT, "idempotency_key_used", detail).hint("use another key"));
    }
    Ok(Json(task).into_response())
}

/// Queue a task in a new session. The same `Idempotency-Key` again gives the same task, with 200.
#[utoipa::path(post, path = "/api/tasks", tag = "tasks", request_body = NewTaskRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "Queues it once, however often it is sent")),
    responses((status = 201, description = "Queued", body = TaskRow), (status = 200, description = "It was queued before", body = TaskRow)))]
pub(super) async fn create(
    State(api): State<Api>,
    OnceKey(idempotency_key): OnceKey,
    Body(asked): Body<NewTaskRequest>,
) -> Result<Response, Problem> {
    let NewTaskRequest { project, prompt, agent, model, variant, priority } = asked;
    let request = TaskRequest { prompt, agent, model, variant, priority, idempotency_key, ..TaskRequest::default() };
    let done = actions::enqueue(&api.store, &project, &request).await?;
    let is_there = done.task.project == project;
    queued(done, &request.prompt, is_there)
}

/// Queue a task in a session. The same `Idempotency-Key` again gives the same task, with 200.
#[utoipa::path(post, path = "/api/sessions/{id}/tasks", tag = "sessions", request_body = SendRequest,
    params(("id" = String, Path, description = "The session: s7, or 7"),
        ("Idempotency-Key" = Option<String>, Header, description = "Queues it once, however often it is sent")),
    responses((status = 201, description = "Queued", body = TaskRow), (status = 200, description = "It was queued before", body = TaskRow)))]
pub(super) async fn send(
    State(api): State<Api>,
    At(id): At<Id<Session>>,
    OnceKey(idempotency_key): OnceKey,
    Body(asked): Body<SendRequest>,
) -> Result<Response, Problem> {
    let SendRequest { prompt, chat, new_chat, agent, model, variant, priority } = asked;
    let chat = match (chat, new_chat) {
        (None, false) => actions::Chat::First,
        (None, true) => actions::Chat::New,
        (Some(chat), false) => actions::Chat::Existing(chat.0),
        (Some(_), true) => return Err(Problem::bad("chat and new_chat exclude one another")),
    };
    let request = TaskRequest { prompt, agent, model, variant, priority, idempotency_key, ..TaskRequest::default() };
    let done = actions::send(&api.store, id.0, chat, &request).await?;
    let is_there = done.task.session_id == id.0;
    queued(done, &request.prompt, is_there)
}

/// What to send besides.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SendBackRequest {
    /// Something to ask besides.
    prompt: Option<String>,
    /// Agent, with a mode of its own behind a slash; left out: the project's.
    agent: Option<String>,
    /// Model (provider/model); left out: the project's, else the agent's.
    model: Option<String>,
}

/// Which conflict to send, and what besides.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SendConflictsRequest {
    /// The branch that is merged; left out: the one that the session started from.
    branch: Option<String>,
    /// Something to ask besides.
    prompt: Option<String>,
    /// Agent, with a mode of its own behind a slash; left out: the project's.
    agent: Option<String>,
    /// Model (provider/model); left out: the project's, else the agent's.
    model: Option<String>,
}

/// Queue what was said of a session's changes as its next prompt.
#[utoipa::path(post, path = "/api/sessions/{id}/review", tag = "sessions", request_body = SendBackRequest,
    params(("id" = String, Path, description = "The session: s7, or 7")), responses((status = 201, description = "Queued", body = TaskRow)))]
pub(super) async fn send_review(
    State(api): State<Api>,
    At(id): At<Id<Session>>,
    Body(asked): Body<SendBackRequest>,
) -> Result<Response, Problem> {
    actions::session(&api.store, id.0).await?;
    let review = actions::prompt_of_review(&api.store, id.0, asked.prompt.as_deref()).await?;
    let request = TaskRequest {
        prompt: review.prompt.clone(),
        agent: asked.agent,
        model: asked.model,
        // Queued once, however often this is tried: the comments are marked as sent after that.
        idempotency_key: Some(review.key.clone()),
        ..TaskRequest::default()
    };
    let task = actions::send(&api.store, id.0, actions::Chat::First, &request).await?.task;
    actions::review_was_sent(&api.store, &review, task.id).await?;
    Ok(created(format!("/api/tasks/{}", task.id), task))
}

/// Queue a session's conflict with a branch as its next prompt, with the branch merged into its worktree.
#[utoipa::path(post, path = "/api/sessions/{id}/conflicts", tag = "sessions", request_body = SendConflictsRequest,
    params(("id" = String, Path, description = "The session: s7, or 7")), responses((status = 201, description = "Queued", body = TaskRow)))]
pub(super) async fn send_conflicts(
    State(api): State<Api>,
    At(id): At<Id<Session>>,
    Body(asked): Body<SendConflictsRequest>,
) -> Result<Response, Problem> {
    let SendConflictsRequest { branch, prompt, agent, model } = asked;
    let target = branch.map_or(Target::Base, Target::Branch);
    let conflict = api.applier.prompt_of_conflicts(id.0, target, prompt.as_deref()).await?;
    let request = TaskRequest {
        prompt: conflict.prompt,
        agent,
        model,
        idempotency_key: Some(conflict.key),
        merge_commit: Some(conflict.merge_commit),
        merge_branch: conflict.merge_branch,
        ..TaskRequest::default()
    };
    let task = actions::send(&api.store, id.0, actions::Chat::First, &request).await?.task;
    Ok(created(format!("/api/tasks/{}", task.id), task))
}

/// The task, or why nothing was done to it.
fn acted(acted: Acted, verb: &str) -> Result<TaskRow, Problem> {
    let Acted { changed, task } = acted;
    if changed {
        return Ok(task);
    }
    let state = match task.state.as_str() {
        "failed" if task.dismissed_at.is_some() => "dismissed",
        "running" if task.cancel_requested_at.is_some() => "being cancelled already",
        state => state,
    };
    let detail = format!("there is nothing to {verb}: t{} is {state}", task.id);
    Err(Problem::new(StatusCode::CONFLICT, "nothing_to_do", detail))
}

/// Cancel a task: at once if it does not run, else its worker stops the turn.
#[utoipa::path(post, path = "/api/tasks/{id}/cancel", tag = "tasks", params(("id" = String, Path, description = "The task: t42, or 42")),
    responses((status = 200, description = "The task as it is now", body = TaskRow)))]
pub(super) async fn cancel(State(api): State<Api>, At(id): At<Id<Task>>) -> Answer<TaskRow> {
    Ok(Json(acted(actions::cancel(&api.store, id.0).await?, "cancel")?))
}

/// Take a failed or blocked task out of the inbox, and let what is behind it run.
#[utoipa::path(post, path = "/api/tasks/{id}/dismiss", tag = "tasks", params(("id" = String, Path, description = "The task: t42, or 42")),
    responses((status = 200, description = "The task as it is now", body = TaskRow)))]
pub(super) async fn dismiss(State(api): State<Api>, At(id): At<Id<Task>>) -> Answer<TaskRow> {
    Ok(Json(acted(actions::dismiss(&api.store, id.0).await?, "dismiss")?))
}

/// How a task is run again.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryRequest {
    /// Another prompt.
    prompt: Option<String>,
    /// Another model.
    model: Option<String>,
    /// Another agent, with its mode.
    agent: Option<String>,
}

/// Run a failed, blocked or cancelled task again, with another prompt, model or agent if given.
#[utoipa::path(post, path = "/api/tasks/{id}/retry", tag = "tasks", request_body = RetryRequest,
    params(("id" = String, Path, description = "The task: t42, or 42")),
    responses((status = 200, description = "The task as it is now", body = TaskRow)))]
pub(super) async fn retry(
    State(api): State<Api>,
    At(id): At<Id<Task>>,
    Body(asked): Body<RetryRequest>,
) -> Answer<TaskRow> {
    let RetryRequest { prompt, model, agent } = asked;
    let with = RetryWith { prompt, model, agent };
    Ok(Json(acted(actions::retry(&api.store, id.0, &with).await?, "retry")?))
}

/// Which tasks.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BulkRequest {
    /// These.
    #[serde(default)]
    #[schema(value_type = Vec<i64>)]
    tasks: Vec<Id<Task>>,
    /// All in the inbox that came to rest.
    #[serde(default)]
    all: bool,
    /// With `all`: only of this project.
    project: Option<String>,
    /// With `all`: only with this reason.
    class: Option<String>,
    /// For a retry: another model.
    model: Option<String>,
    /// For a retry: another agent.
    agent: Option<String>,
}

/// What became of many.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BulkDone {
    /// One line for each task.
    items: Vec<BulkLine>,
}

/// What became of one of many.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BulkLine {
    /// The task.
    task_id: i64,
    /// Why nothing was done to it; null: it was done.
    problem: Option<Problem>,
}

async fn each(
    api: &Api,
    asked: &BulkRequest,
    // None: they are dismissed.
    retry: Option<RetryWith>,
) -> Answer<BulkDone> {
    let tasks = match (asked.all, asked.tasks.is_empty()) {
        (true, true) => {
            let filter = InboxFilter { project: asked.project.clone(), class: asked.class.clone(), after: None };
            let rows = actions::inbox(&api.store, &filter, BULK).await?;
            let at_rest = rows.iter().filter(|row| row.ask_id.is_none() && row.state != "pending");
            at_rest.map(|row| row.task_id).collect()
        }
        (false, false) => asked.tasks.iter().map(|id| id.0).collect::<Vec<_>>(),
        _ => return Err(Problem::bad("name tasks, or all")),
    };
    let mut items = Vec::with_capacity(tasks.len());
    for task_id in tasks {
        let (done, verb) = match &retry {
            Some(with) => (actions::retry(&api.store, task_id, with).await, "retry"),
            None => (actions::dismiss(&api.store, task_id).await, "dismiss"),
        };
        let done = match done {
            // What concerns all of them concerns the next, too.
            Err(error) if error.is_unreachable() => return Err(error.into()),
            done => done.map_err(Problem::from).and_then(|done| acted(done, verb)),
        };
        items.push(BulkLine { task_id, problem: done.err() });
    }
    Ok(Json(BulkDone { items }))
}

/// Run many tasks again.
#[utoipa::path(post, path = "/api/tasks/retry", tag = "tasks", request_body = BulkRequest,
    responses((status = 200, description = "What became of each", body = BulkDone)))]
pub(super) async fn retry_many(State(api): State<Api>, Body(asked): Body<BulkRequest>) -> Answer<BulkDone> {
    let with = RetryWith { prompt: None, model: asked.model.clone(), agent: asked.agent.clone() };
    each(&api, &asked, Some(with)).await
}

/// Take many tasks out of the inbox.
#[utoipa::path(post, path = "/api/tasks/dismiss", tag = "tasks", request_body = BulkRequest,
    responses((status = 200, description = "What became of each", body = BulkDone)))]
pub(super) async fn dismiss_many(State(api): State<Api>, Body(asked): Body<BulkRequest>) -> Answer<BulkDone> {
    each(&api, &asked, None).await
}
