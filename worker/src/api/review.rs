//! Deciding about changes: comments, applying, rejecting, going back, checks; and the end of sessions.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Api,
    changes::{ChangeSetDetail, detail, set},
    extract::{Answer, At, Body, ChangeSet, Id, Session, Task, Who, created, to_its_end},
    problem::Problem,
    sessions::{self, SessionDetail},
};
use crate::{
    actions::{self, Applied, ApplyRequest, Target},
    model::ids::{AnyId, TaskId},
    store::{
        reads_turns::{ChangeSetRow, ChangesOf},
        reviews::CommentRow,
    },
};

/// A change set, and the task that actions know it by.
async fn decided(api: &Api, id: Id<ChangeSet>) -> Result<(ChangeSetRow, AnyId), Problem> {
    let set = set(api, id).await?;
    let newest = match set.task_id {
        Some(task) => api.store.change_set(ChangesOf::Task(task)).await?.map(|newest| (newest.id, task)),
        None => None,
    };
    match newest {
        Some((newest, task)) if newest == set.id => Ok((set, AnyId::Task(TaskId(task)))),
        _ => Err(Problem::new(StatusCode::CONFLICT, "superseded", "its task was run again, or is gone")
            .hint("look at the session's newest change set")),
    }
}

/// The files that are meant, as actions take them: none are all. A program that has chosen none does not mean all.
fn meant(only: Option<Vec<String>>) -> Result<Vec<String>, Problem> {
    match only {
        Some(only) if only.is_empty() => {
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", "\"only\" names no file")
                .hint("name at least one file or folder, or leave \"only\" out to mean all that wait"))
        }
        only => Ok(only.unwrap_or_default()),
    }
}

/// Something to say.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CommentRequest {
    /// The file.
    path: String,
    /// The line, as the file is now; left out: the whole file.
    line: Option<i32>,
    /// What to say.
    body: String,
}

/// Say something about a file of a change set, or a line of it.
#[utoipa::path(post, path = "/api/change-sets/{id}/comments", tag = "changes", request_body = CommentRequest,
    params(("id" = i64, Path, description = "The change set")), responses((status = 201, description = "Noted", body = CommentRow)))]
pub(super) async fn comment(
    State(api): State<Api>,
    At(id): At<Id<ChangeSet>>,
    Who(who): Who,
    Body(asked): Body<CommentRequest>,
) -> Result<Response, Problem> {
    let (set, of) = decided(&api, id).await?;
    let made = actions::comment(&api.store, of, &asked.path, asked.line, &asked.body, &who).await?;
    Ok(created(format!("/api/change-sets/{}/comments", set.id), made))
}

/// Remember that you have looked at a change set: what comes after it can be shown by itself then.
#[utoipa::path(post, path = "/api/change-sets/{id}/looked", tag = "changes", params(("id" = i64, Path, description = "The change set")),
    responses((status = 200, description = "The change set", body = ChangeSetRow)))]
pub(super) async fn looked(State(api): State<Api>, At(id): At<Id<ChangeSet>>, Who(who): Who) -> Answer<ChangeSetRow> {
    let set = set(&api, id).await?;
    actions::looked_at(&api.store, &set, &who).await?;
    Ok(Json(set))
}

/// What to apply, and where to.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplyChangesRequest {
    /// Only these files, or those in these folders; left out: all that wait. An empty list is refused.
    only: Option<Vec<String>>,
    /// The hash (`patch_sha256`, or its beginning) that you have seen; left out: the one of this change set.
    expect: Option<String>,
    /// To this branch, new or not; left out: the one that the session started from.
    branch: Option<String>,
    /// To the remote, rather than to the repository.
    #[serde(default)]
    push: bool,
    /// The commit's message; left out: as the settings have it.
    message: Option<String>,
    /// Refuse changes whose checks have not all passed; left out: as the project says.
    require_checks: Option<bool>,
}

/// Put a change set, or files of it, on a branch: all of that or nothing, and only once. Conflicts are listed (409).
#[utoipa::path(post, path = "/api/change-sets/{id}/apply", tag = "changes", request_body = ApplyChangesRequest,
    params(("id" = i64, Path, description = "The change set")), responses((status = 200, description = "It is there", body = Applied)))]
pub(super) async fn apply(
    State(api): State<Api>,
    At(id): At<Id<ChangeSet>>,
    Who(who): Who,
    Body(asked): Body<ApplyChangesRequest>,
) -> Answer<Applied> {
    let (set, of) = decided(&api, id).await?;
    let request = ApplyRequest {
        only: meant(asked.only)?,
        expect: asked.expect.or(Some(set.patch_sha256)),
        target: asked.branch.map_or(Target::Base, Target::Branch),
        push: asked.push,
        message: asked.message,
        require_checks: asked.require_checks,
        who,
    };
    let applied = to_its_end(async move { api.applier.apply(of, &request, &|_| {}).await }).await?;
    Ok(Json(applied))
}

/// What to refuse.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RejectChangesRequest {
    /// Only these files, or those in these folders; left out: all that wait. An empty list is refused.
    only: Option<Vec<String>>,
    /// The hash (`patch_sha256`, or its beginning) that you have seen; left out: the one of this change set.
    expect: Option<String>,
}

/// What was refused.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Rejected {
    /// The change set, as it is now.
    change_set: ChangeSetRow,
    /// The files.
    paths: Vec<String>,
}

/// Refuse changes, all or some files; the work stays in the session's worktree.
#[utoipa::path(post, path = "/api/change-sets/{id}/reject", tag = "changes", request_body = RejectChangesRequest,
    params(("id" = i64, Path, description = "The change set")), responses((status = 200, description = "Refused", body = Rejected)))]
pub(super) async fn reject(
    State(api): State<Api>,
    At(id): At<Id<ChangeSet>>,
    Who(who): Who,
    Body(asked): Body<RejectChangesRequest>,
) -> Answer<Rejected> {
    let (set, of) = decided(&api, id).await?;
    let only = meant(asked.only)?;
    // A newer one that comes meanwhile is one that nobody has seen.
    let expect = asked.expect.unwrap_or(set.patch_sha256);
    let (change_set, paths) = actions::reject_changes(&api.store, of, &only, Some(&expect), &who).await?;
    Ok(Json(Rejected { change_set, paths }))
}

/// Have a change set checked again, by the checks that its project has now.
#[utoipa::path(post, path = "/api/change-sets/{id}/checks", tag = "changes", params(("id" = i64, Path, description = "The change set")),
    responses((status = 202, description = "They will be run", body = ChangeSetDetail)))]
pub(super) async fn run_checks(
    State(api): State<Api>,
    At(id): At<Id<ChangeSet>>,
) -> Result<(StatusCode, Json<ChangeSetDetail>), Problem> {
    let (_, of) = decided(&api, id).await?;
    actions::run_checks(&api.store, of).await?;
    Ok((StatusCode::ACCEPTED, Json(detail(&api, id).await?)))
}

/// Where to go back to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RollbackRequest {
    /// The task after which the session was as it is to be.
    #[schema(value_type = i64)]
    task: Id<Task>,
}

/// Take a session's worktree back to what it was after a task.
#[utoipa::path(post, path = "/api/sessions/{id}/rollback", tag = "sessions", request_body = RollbackRequest,
    params(("id" = String, Path, description = "The session: s7, or 7")),
    responses((status = 200, description = "The change set that it has now", body = ChangeSetRow)))]
pub(super) async fn rollback(
    State(api): State<Api>,
    At(id): At<Id<Session>>,
    Who(who): Who,
    Body(asked): Body<RollbackRequest>,
) -> Answer<ChangeSetRow> {
    let to = AnyId::Task(TaskId(asked.task.0));
    let set = to_its_end(async move { api.applier.roll_back(id.0, to, &who).await }).await?;
    Ok(Json(set))
}

/// Close a session: it takes no more tasks, and its worktree goes.
#[utoipa::path(post, path = "/api/sessions/{id}/close", tag = "sessions", params(("id" = String, Path, description = "The session: s7, or 7")),
    responses((status = 200, description = "The session as it is now", body = SessionDetail)))]
pub(super) async fn close(State(api): State<Api>, At(id): At<Id<Session>>) -> Answer<SessionDetail> {
    actions::close_session(&api.store, id.0).await?;
    Ok(Json(sessions::detail(&api, id.0).await?))
}

/// Open a closed session again.
#[utoipa::path(post, path = "/api/sessions/{id}/reopen", tag = "sessions", params(("id" = String, Path, description = "The session: s7, or 7")),
    responses((status = 200, description = "The session as it is now", body = SessionDetail)))]
pub(super) async fn reopen(State(api): State<Api>, At(id): At<Id<Session>>) -> Answer<SessionDetail> {
    actions::reopen_session(&api.store, id.0).await?;
    Ok(Json(sessions::detail(&api, id.0).await?))
}
