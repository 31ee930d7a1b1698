//! Sessions, their chats, their agents' own conversations, their checkpoints.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    extract::{Answer, Asked, At, Chat, Id, Session},
    page::{List, Page},
    problem::Problem,
    tasks::words,
};
use crate::{
    actions,
    store::{
        pages::{AgentSessionRow, ChatRow},
        reads::{SessionFilter, SessionRow},
        reads_turns::{ChangeSetRow, ChangesOf},
        reviews::{CheckpointRow, CommentRow},
    },
};

/// Which sessions.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SessionsQuery {
    /// Only of this project.
    project: Option<String>,
    /// Only in this state: open or closed.
    state: Option<String>,
    /// At most so many; 500 is the most.
    #[param(default = 50, minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The page behind the one that gave this as `next`.
    cursor: Option<String>,
}

/// List sessions, newest first.
#[utoipa::path(get, path = "/api/sessions", tag = "sessions", params(SessionsQuery),
    responses((status = 200, description = "Sessions", body = List<SessionRow>)))]
pub(super) async fn list(State(api): State<Api>, Asked(asked): Asked<SessionsQuery>) -> Answer<List<SessionRow>> {
    let page = Page::<i64>::new(asked.limit, asked.cursor.as_deref())?;
    let state = words(asked.state.as_deref(), &["open", "closed"], "state of a session")?.pop();
    let filter = SessionFilter { project: asked.project, state, before: page.after };
    let rows = actions::list_sessions(&api.store, &filter, page.rows()).await?;
    Ok(Json(page.of(rows, |session| session.id)))
}

/// A session with its newest result.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SessionDetail {
    #[serde(flatten)]
    session: SessionRow,
    /// Its newest result; null: there is none yet.
    change_set: Option<ChangeSetRow>,
}

/// Show a session with its newest result. Its tasks: `/api/tasks?session=`.
#[utoipa::path(get, path = "/api/sessions/{id}", tag = "sessions", params(("id" = String, Path, description = "The session: s7, or 7")),
    responses((status = 200, description = "The session", body = SessionDetail)))]
pub(super) async fn show(State(api): State<Api>, At(id): At<Id<Session>>) -> Answer<SessionDetail> {
    Ok(Json(detail(&api, id.0).await?))
}

pub(super) async fn detail(api: &Api, id: i64) -> Result<SessionDetail, Problem> {
    let session = actions::session(&api.store, id).await?;
    Ok(SessionDetail { session, change_set: api.store.change_set(ChangesOf::Session(id)).await? })
}

/// List the chats of a session, oldest first.
#[utoipa::path(get, path = "/api/sessions/{id}/chats", tag = "sessions", params(("id" = String, Path, description = "The session: s7, or 7")),
    responses((status = 200, description = "Its chats", body = List<ChatRow>)))]
pub(super) async fn chats(State(api): State<Api>, At(id): At<Id<Session>>) -> Answer<List<ChatRow>> {
    actions::session(&api.store, id.0).await?;
    Ok(Json(List::whole(api.store.chats(id.0).await?)))
}

/// Show a chat.
#[utoipa::path(get, path = "/api/chats/{id}", tag = "sessions", params(("id" = String, Path, description = "The chat: c9, or 9")),
    responses((status = 200, description = "The chat", body = ChatRow)))]
pub(super) async fn chat(State(api): State<Api>, At(id): At<Id<Chat>>) -> Answer<ChatRow> {
    let found = api.store.chat_row(id.0).await?;
    found.map(Json).ok_or_else(|| Problem::not_found(format!("there is no chat c{}", id.0)))
}

/// List the agents' own conversations of a session.
#[utoipa::path(get, path = "/api/sessions/{id}/agent-sessions", tag = "sessions", params(("id" = String, Path, description = "The session: s7, or 7")),
    responses((status = 200, description = "Agents' conversations", body = List<AgentSessionRow>)))]
pub(super) async fn agent_sessions(State(api): State<Api>, At(id): At<Id<Session>>) -> Answer<List<AgentSessionRow>> {
    actions::session(&api.store, id.0).await?;
    Ok(Json(List::whole(api.store.agent_sessions(id.0).await?)))
}

/// List what a session was like after each of its tasks, oldest first.
#[utoipa::path(get, path = "/api/sessions/{id}/checkpoints", tag = "sessions", params(("id" = String, Path, description = "The session: s7, or 7")),
    responses((status = 200, description = "Its checkpoints", body = List<CheckpointRow>)))]
pub(super) async fn checkpoints(State(api): State<Api>, At(id): At<Id<Session>>) -> Answer<List<CheckpointRow>> {
    Ok(Json(List::whole(actions::checkpoints(&api.store, id.0).await?)))
}

/// List what was said of a session's changes and is in no prompt yet.
#[utoipa::path(get, path = "/api/sessions/{id}/comments", tag = "sessions", params(("id" = String, Path, description = "The session: s7, or 7")),
    responses((status = 200, description = "Comments that were not sent", body = List<CommentRow>)))]
pub(super) async fn comments(State(api): State<Api>, At(id): At<Id<Session>>) -> Answer<List<CommentRow>> {
    actions::session(&api.store, id.0).await?;
    Ok(Json(List::whole(api.store.unsent_comments(id.0).await?)))
}
