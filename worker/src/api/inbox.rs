//! The inbox, and what agents ask.

use axum::{Json, extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    extract::{Answer, Ask, Asked, At, Body, Id, Task},
    page::{List, Page},
    problem::Problem,
    tasks::words,
};
use crate::{
    actions::{self, InboxFilter, Reply},
    store::{
        asks::AskRow,
        reads::{InboxPlace, InboxRow},
    },
};

/// Which items.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct InboxQuery {
    /// Only of this project.
    project: Option<String>,
    /// Only with this reason: agent_failed, budget, permission, question, ...
    class: Option<String>,
    /// At most so many; 500 is the most.
    #[param(default = 50, minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The page behind the one that gave this as `next`.
    cursor: Option<String>,
}

/// List what needs a person, newest first.
#[utoipa::path(get, path = "/api/inbox", tag = "inbox", params(InboxQuery),
    responses((status = 200, description = "The inbox", body = List<InboxRow>)))]
pub(super) async fn list(State(api): State<Api>, Asked(asked): Asked<InboxQuery>) -> Answer<List<InboxRow>> {
    let page = Page::<(Option<DateTime<Utc>>, i64, i64)>::new(asked.limit, asked.cursor.as_deref())?;
    let after = page.after.map(|(since, task_id, ask_id)| InboxPlace { since, task_id, ask_id });
    let filter = InboxFilter { project: asked.project, class: asked.class, after };
    let rows = actions::inbox(&api.store, &filter, page.rows()).await?;
    Ok(Json(page.of(rows, |row| (row.since, row.task_id, row.ask_id.unwrap_or(0)))))
}

/// Which asks.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AsksQuery {
    /// Only of this task (t42, or 42).
    #[param(value_type = Option<String>)]
    task: Option<Id<Task>>,
    /// Only in this state: open, answered, expired, withdrawn.
    state: Option<String>,
    /// At most so many; 500 is the most.
    #[param(default = 50, minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The page behind the one that gave this as `next`.
    cursor: Option<String>,
}

/// List what agents ask, or asked, newest first.
#[utoipa::path(get, path = "/api/asks", tag = "inbox", params(AsksQuery),
    responses((status = 200, description = "Asks", body = List<AskRow>)))]
pub(super) async fn asks(State(api): State<Api>, Asked(asked): Asked<AsksQuery>) -> Answer<List<AskRow>> {
    let page = Page::<i64>::new(asked.limit, asked.cursor.as_deref())?;
    let states = ["open", "answered", "expired", "withdrawn"];
    let state = words(asked.state.as_deref(), &states, "state of an ask")?.pop();
    let task = asked.task.map(|id| id.0);
    let rows = api.store.asks(task, state.as_deref(), page.after, page.rows()).await?;
    Ok(Json(page.of(rows, |ask| ask.id)))
}

/// Show an ask.
#[utoipa::path(get, path = "/api/asks/{id}", tag = "inbox", params(("id" = String, Path, description = "The ask: a12, or 12")),
    responses((status = 200, description = "The ask", body = AskRow)))]
pub(super) async fn ask(State(api): State<Api>, At(id): At<Id<Ask>>) -> Answer<AskRow> {
    Ok(Json(actions::ask(&api.store, id.0).await?))
}

/// An answer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AnswerRequest {
    /// For a permission: once, always or reject; for questions: reply or reject.
    #[schema(example = "once")]
    answer: String,
    /// With reject: what the agent is to do instead.
    message: Option<String>,
    /// With reply: for each question, the labels that were chosen, or words of your own.
    replies: Option<Vec<Vec<String>>>,
}

/// Answer what an agent asks.
#[utoipa::path(post, path = "/api/asks/{id}/answer", tag = "inbox", request_body = AnswerRequest,
    params(("id" = String, Path, description = "The ask: a12, or 12")),
    responses((status = 200, description = "The ask as it is now", body = AskRow)))]
pub(super) async fn answer(
    State(api): State<Api>,
    At(id): At<Id<Ask>>,
    Body(asked): Body<AnswerRequest>,
) -> Answer<AskRow> {
    let AnswerRequest { answer, message, replies } = asked;
    let reply = match (answer.as_str(), message, replies) {
        ("once", None, None) => Reply::Allow { always: false },
        ("always", None, None) => Reply::Allow { always: true },
        ("reject", message, None) => Reply::Reject { message },
        ("reply", None, Some(replies)) => Reply::Replies(replies),
        ("once" | "always" | "reject" | "reply", ..) => {
            return Err(Problem::bad("a message goes with reject, and replies with reply"));
        }
        (other, ..) => {
            return Err(Problem::bad(format!("\"{other}\" is no answer; there are: once, always, reject, reply")));
        }
    };
    let answered = actions::answer(&api.store, id.0, &reply).await?;
    if answered.changed {
        return Ok(Json(answered.ask));
    }
    let detail = format!("a{} is {}: nobody waits for the answer", answered.ask.id, answered.ask.state);
    Err(Problem::new(StatusCode::CONFLICT, "nothing_to_do", detail))
}
