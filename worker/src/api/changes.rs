//! Change sets to look at: their files one by one, so that a large one opens as quickly as a small one.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use futures::stream;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    extract::{Answer, Asked, At, ChangeSet, File, Id, Session, Task},
    page::{List, Page},
    problem::Problem,
    tasks::words,
};
use crate::{
    actions,
    store::{
        changes::ApplyRow,
        checks::CheckRunRow,
        forecasts::ForecastRow,
        pages::ChangeSetFilter,
        reads_turns::{ChangeSetRow, PendingChangeRow},
        reviews::CommentRow,
    },
};

const STATES: [&str; 4] = ["open", "superseded", "applied", "rejected"];

/// Which change sets.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ChangeSetsQuery {
    /// Only of this project.
    project: Option<String>,
    /// Only of this session (s7, or 7).
    #[param(value_type = Option<String>)]
    session: Option<Id<Session>>,
    /// Only of this task (t42, or 42).
    #[param(value_type = Option<String>)]
    task: Option<Id<Task>>,
    /// Only in this state: open, superseded, applied, rejected.
    state: Option<String>,
    /// At most so many; 500 is the most.
    #[param(default = 50, minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The page behind the one that gave this as `next`.
    cursor: Option<String>,
}

/// List change sets, newest first.
#[utoipa::path(get, path = "/api/change-sets", tag = "changes", params(ChangeSetsQuery),
    responses((status = 200, description = "Change sets", body = List<ChangeSetRow>)))]
pub(super) async fn list(State(api): State<Api>, Asked(asked): Asked<ChangeSetsQuery>) -> Answer<List<ChangeSetRow>> {
    let page = Page::<i64>::new(asked.limit, asked.cursor.as_deref())?;
    let filter = ChangeSetFilter {
        project: asked.project,
        session_id: asked.session.map(|id| id.0),
        task_id: asked.task.map(|id| id.0),
        state: words(asked.state.as_deref(), &STATES, "state of a change set")?.pop(),
        before: page.after,
    };
    let rows = api.store.change_sets(&filter, page.rows()).await?;
    Ok(Json(page.of(rows, |set| set.id)))
}

/// The change set of this id.
pub(super) async fn set(api: &Api, id: Id<ChangeSet>) -> Result<ChangeSetRow, Problem> {
    let found = api.store.change_set_by_id(id.0).await?;
    found
        .ok_or_else(|| Problem::not_found(format!("there is no change set {}", id.0)).hint("see: GET /api/change-sets"))
}

/// A change set with what was said of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChangeSetDetail {
    #[serde(flatten)]
    set: ChangeSetRow,
    /// Files that wait for a decision.
    pending_files: i64,
    /// Files that are on a branch.
    applied_files: i64,
    /// Files that were refused.
    rejected_files: i64,
    /// Files that run on the machine of whoever takes them.
    executing_files: i64,
    /// What was said about it.
    comments: Vec<CommentRow>,
    /// What the project's checks said of it.
    check_runs: Vec<CheckRunRow>,
    /// What would come of applying it; null: nobody has looked yet, or it is decided.
    forecast: Option<ForecastRow>,
}

/// Show a change set, without its files.
#[utoipa::path(get, path = "/api/change-sets/{id}", tag = "changes", params(("id" = i64, Path, description = "The change set")),
    responses((status = 200, description = "The change set", body = ChangeSetDetail)))]
pub(super) async fn show(State(api): State<Api>, At(id): At<Id<ChangeSet>>) -> Answer<ChangeSetDetail> {
    Ok(Json(detail(&api, id).await?))
}

pub(super) async fn detail(api: &Api, id: Id<ChangeSet>) -> Result<ChangeSetDetail, Problem> {
    let set = set(api, id).await?;
    let counts = api.store.decided_files(set.id).await?;
    Ok(ChangeSetDetail {
        pending_files: counts.pending,
        applied_files: counts.applied,
        rejected_files: counts.rejected,
        executing_files: counts.executing,
        comments: api.store.comments(set.id).await?,
        check_runs: api.store.check_runs(set.id).await?,
        forecast: api.store.forecasts(None, Some(set.id)).await?.pop(),
        set,
    })
}

/// Which files.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FilesQuery {
    /// At most so many; 500 is the most.
    #[param(default = 50, minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The page behind the one that gave this as `next`.
    cursor: Option<String>,
}

/// List the files of a change set, in the order of its patch, without their patches.
#[utoipa::path(get, path = "/api/change-sets/{id}/files", tag = "changes",
    params(("id" = i64, Path, description = "The change set"), FilesQuery),
    responses((status = 200, description = "Its files", body = List<PendingChangeRow>)))]
pub(super) async fn files(
    State(api): State<Api>,
    At(id): At<Id<ChangeSet>>,
    Asked(asked): Asked<FilesQuery>,
) -> Answer<List<PendingChangeRow>> {
    let page = Page::<i64>::new(asked.limit, asked.cursor.as_deref())?;
    let set = set(&api, id).await?;
    let rows = api.store.changed_files_behind(set.id, page.after.unwrap_or(0), page.rows()).await?;
    Ok(Json(page.of(rows, |file| file.id)))
}

/// A file of a change set with its patch.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FileDetail {
    #[serde(flatten)]
    file: PendingChangeRow,
    /// Its patch, as `git apply` takes it; what is no UTF-8 in it is replaced.
    patch: String,
    /// The patch in base64, if it is not UTF-8 throughout.
    patch_base64: Option<String>,
}

/// Show a file of a change set with its patch.
#[utoipa::path(get, path = "/api/change-sets/{id}/files/{file}", tag = "changes",
    params(("id" = i64, Path, description = "The change set"), ("file" = i64, Path, description = "The id of the file's pending change")),
    responses((status = 200, description = "The file", body = FileDetail)))]
pub(super) async fn file(State(api): State<Api>, At((id, file)): At<(Id<ChangeSet>, Id<File>)>) -> Answer<FileDetail> {
    let set = set(&api, id).await?;
    let found = api.store.patch_of(set.id, file.0).await?;
    let no = || Problem::not_found(format!("change set {} has no file {}", set.id, file.0));
    let (file, bytes) = found.ok_or_else(no)?;
    let (patch, patch_base64) = match String::from_utf8(bytes) {
        Ok(patch) => (patch, None),
        Err(error) => {
            let patch = String::from_utf8_lossy(error.as_bytes()).into_owned();
            (patch, Some(BASE64.encode(error.as_bytes())))
        }
    };
    Ok(Json(FileDetail { file, patch, patch_base64 }))
}

/// Read the whole patch of a change set, as `git apply` takes it.
#[utoipa::path(get, path = "/api/change-sets/{id}/patch", tag = "changes", params(("id" = i64, Path, description = "The change set")),
    responses((status = 200, description = "The patch", body = String, content_type = "text/x-diff")))]
pub(super) async fn patch(State(api): State<Api>, At(id): At<Id<ChangeSet>>) -> Result<Response, Problem> {
    let set = set(&api, id).await?;
    let patches = stream::try_unfold(0, move |after| {
        let (api, set) = (api.clone(), set.clone());
        async move {
            let next = actions::next_patches(&api.store, &set, after).await.map_err(std::io::Error::other)?;
            let Some((last, _)) = next.last() else { return Ok(None) };
            let last = *last;
            let whole: Vec<u8> = next.into_iter().flat_map(|(_, patch)| patch).collect();
            Ok::<_, std::io::Error>(Some((Bytes::from(whole), last)))
        }
    });
    let mut response = Body::from_stream(patches).into_response();
    // Never to be taken for a page, whatever is in it.
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/x-diff"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// What was said about a change set, in order.
#[utoipa::path(get, path = "/api/change-sets/{id}/comments", tag = "changes", params(("id" = i64, Path, description = "The change set")),
    responses((status = 200, description = "Comments", body = List<CommentRow>)))]
pub(super) async fn comments(State(api): State<Api>, At(id): At<Id<ChangeSet>>) -> Answer<List<CommentRow>> {
    let set = set(&api, id).await?;
    Ok(Json(List::whole(api.store.comments(set.id).await?)))
}

/// What the project's checks said of a change set.
#[utoipa::path(get, path = "/api/change-sets/{id}/checks", tag = "changes", params(("id" = i64, Path, description = "The change set")),
    responses((status = 200, description = "Runs of checks", body = List<CheckRunRow>)))]
pub(super) async fn checks(State(api): State<Api>, At(id): At<Id<ChangeSet>>) -> Answer<List<CheckRunRow>> {
    let set = set(&api, id).await?;
    Ok(Json(List::whole(api.store.check_runs(set.id).await?)))
}

/// What was tried to put a change set on a branch, in order.
#[utoipa::path(get, path = "/api/change-sets/{id}/applies", tag = "changes", params(("id" = i64, Path, description = "The change set")),
    responses((status = 200, description = "Applies", body = List<ApplyRow>)))]
pub(super) async fn applies(State(api): State<Api>, At(id): At<Id<ChangeSet>>) -> Answer<List<ApplyRow>> {
    let set = set(&api, id).await?;
    Ok(Json(List::whole(api.store.applies_of(set.id).await?)))
}

/// Which forecasts.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ForecastsQuery {
    /// Only of this project.
    project: Option<String>,
}

/// List what would come of applying what waits, in an order that applies without a conflict.
#[utoipa::path(get, path = "/api/forecasts", tag = "changes", params(ForecastsQuery),
    responses((status = 200, description = "Forecasts", body = List<ForecastRow>)))]
pub(super) async fn forecasts(
    State(api): State<Api>,
    Asked(asked): Asked<ForecastsQuery>,
) -> Answer<List<ForecastRow>> {
    if let Some(project) = &asked.project {
        actions::project_named(&api.store, project).await?;
    }
    Ok(Json(List::whole(api.store.forecasts(asked.project.as_deref(), None).await?)))
}

/// Between which.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct InterdiffQuery {
    /// The older change set [default: the one of its session that you looked at last].
    from: Option<i64>,
}

/// What a change set has beyond another.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InterdiffDetail {
    /// The older one.
    from: ChangeSetRow,
    /// The newer one.
    to: ChangeSetRow,
    /// They are measured against different commits, and what came with the newer one cannot be told apart.
    mixed: bool,
    /// The files.
    files: Vec<InterdiffFile>,
}

/// A file that differs between two change sets.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InterdiffFile {
    /// Its path.
    path: String,
    /// added, deleted, modified, renamed, ...
    kind: &'static str,
    /// Lines that came.
    additions: i32,
    /// Lines that went.
    deletions: i32,
    /// Its patch; what is no UTF-8 in it is replaced.
    patch: String,
}

/// What a change set has beyond an older one of its project.
#[utoipa::path(get, path = "/api/change-sets/{id}/interdiff", tag = "changes",
    params(("id" = i64, Path, description = "The change set"), InterdiffQuery),
    responses((status = 200, description = "What differs", body = InterdiffDetail)))]
pub(super) async fn interdiff(
    State(api): State<Api>,
    At(id): At<Id<ChangeSet>>,
    Asked(asked): Asked<InterdiffQuery>,
    who: super::extract::Who,
) -> Answer<InterdiffDetail> {
    let to = set(&api, id).await?;
    let from = match (asked.from, to.session_id) {
        (Some(from), _) => Some(from),
        (None, Some(session)) => api.store.last_look(session, &who.0).await?,
        (None, None) => None,
    };
    let Some(from) = from else {
        return Err(
            Problem::not_found("you have not looked at a change set of this session yet").hint("name one: ?from=ID")
        );
    };
    let found = api.store.change_set_by_id(from).await?;
    let from = found.ok_or_else(|| Problem::not_found(format!("there is no change set {from}")))?;
    if from.project != to.project {
        return Err(Problem::bad("they are of different projects"));
    }
    let found = api.applier.interdiff(&from, &to).await?;
    let file = |file: &crate::model::change::FileChange| InterdiffFile {
        path: String::from_utf8_lossy(&file.path).into_owned(),
        kind: file.kind.as_str(),
        additions: file.additions,
        deletions: file.deletions,
        patch: String::from_utf8_lossy(&file.patch).into_owned(),
    };
    let files = found.files.iter().map(file).collect();
    Ok(Json(InterdiffDetail { from: found.from, to: found.to, mixed: found.mixed, files }))
}
