//! What administrators do: projects, checks, worktrees.

use axum::{Json, extract::State, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    extract::{Answer, Asked, At, Body, Id, Who, Worktree, created, to_its_end},
    page::List,
    problem::Problem,
};
use crate::{
    actions::{self, ProjectRequest},
    git::SourceKind,
    model::worktree::Decision,
    store::{checks::CheckRow, projects::ProjectRow, setup::SetupChange, worktrees::WorktreeRow},
    worktrees::Restored,
};

/// A repository to register.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AddProjectRequest {
    /// Path on the API's host, or URL.
    source: String,
    /// What to call it; left out: the last part of the path.
    name: Option<String>,
    /// Branch that sessions start from; left out: the one checked out at the time.
    branch: Option<String>,
    #[serde(flatten)]
    options: ProjectOptionsRequest,
}

/// What a project is to be, where it is not the default.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(super) struct ProjectOptionsRequest {
    /// Agent of tasks that name none.
    agent: Option<String>,
    /// Model of tasks that name none; empty: the agent's own default.
    model: Option<String>,
    /// Whether a failed task holds its session's line: hold, or continue.
    on_failure: Option<String>,
    /// Whether a lost turn goes on by itself, or a person is asked first: continue, or ask.
    resend: Option<String>,
    /// What answers when agents ask: reject, allow, or inbox.
    asks: Option<String>,
    /// Load the repository's own agent configuration, which is code.
    trusted: Option<bool>,
    /// Names of variables that its agents may see.
    #[serde(default)]
    env_pass: Vec<String>,
    /// Charged attempts of a new task.
    max_attempts: Option<i32>,
}

impl ProjectOptionsRequest {
    fn request(self, name: String, source: String, host_id: Option<String>, branch: Option<String>) -> ProjectRequest {
        let Self { agent, model, on_failure, resend, asks, trusted, env_pass, max_attempts } = self;
        ProjectRequest {
            name,
            source,
            host_id,
            branch,
            agent,
            model,
            on_failure,
            resend,
            asks,
            trusted,
            env_pass,
            max_attempts,
        }
    }

    fn is_empty(&self) -> bool {
        let Self { agent, model, on_failure, resend, asks, trusted, env_pass, max_attempts } = self;
        [agent, model, on_failure, resend, asks].iter().all(|text| text.is_none())
            && trusted.is_none()
            && env_pass.is_empty()
            && max_attempts.is_none()
    }
}

/// Register a repository, or change the options of one that is registered.
#[utoipa::path(post, path = "/api/projects", tag = "projects", request_body = AddProjectRequest,
    responses((status = 201, description = "The project", body = ProjectRow)))]
pub(super) async fn add_project(
    State(api): State<Api>,
    Body(asked): Body<AddProjectRequest>,
) -> Result<Response, Problem> {
    let git = &api.applier.git;
    let source = git.inspect(&asked.source).await?;
    // A branch that is not there is better said now than by the first task.
    git.tip(&source, asked.branch.as_deref()).await?;
    let name = asked.name.unwrap_or_else(|| actions::valid_name(&source.suggested_name));
    let host = (source.kind == SourceKind::Path).then(|| api.applier.host_id.clone());
    let request = asked.options.request(name, source.location.clone(), host, asked.branch);
    let row = actions::public(actions::add_project(&api.store, &request).await?);
    Ok(created(format!("/api/projects/{}", row.name), row))
}

/// What of a project is to change.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SetProjectRequest {
    /// Branch that sessions start from; empty: the one checked out at the time.
    branch: Option<String>,
    /// What to run in each new worktree; empty: nothing.
    setup_command: Option<String>,
    /// Whether pooled worktrees keep ignored files.
    setup_kept: Option<bool>,
    /// Files to copy into each new worktree from now on.
    #[serde(default)]
    copy: Vec<CopyRequest>,
    /// Paths in the worktree that are not copied any more.
    #[serde(default)]
    no_copy: Vec<String>,
    /// How often in a row failed checks are sent back.
    check_resends: Option<i32>,
    /// Whether changes whose checks have not passed are refused.
    checks_required: Option<bool>,
    #[serde(flatten)]
    options: ProjectOptionsRequest,
}

/// A file to copy.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CopyRequest {
    /// Where in the worktree.
    path: String,
    /// From where on the project's host.
    from: String,
}

/// Change a project's options, how its worktrees are set up, what becomes of failed checks. What is left out stays.
#[utoipa::path(patch, path = "/api/projects/{name}", tag = "projects", request_body = SetProjectRequest,
    params(("name" = String, Path, description = "Its name")), responses((status = 200, description = "The project", body = ProjectRow)))]
pub(super) async fn set_project(
    State(api): State<Api>,
    At(name): At<String>,
    Who(who): Who,
    Body(asked): Body<SetProjectRequest>,
) -> Answer<ProjectRow> {
    let project = actions::project_named(&api.store, &name).await?;
    if asked.branch.is_some() || !asked.options.is_empty() {
        if let Some(branch) = asked.branch.as_deref().filter(|name| !name.is_empty()) {
            let source = api.applier.git.inspect(&project.source).await?;
            api.applier.git.tip(&source, Some(branch)).await?;
        }
        let ProjectRow { name, source, host_id, .. } = project.clone();
        let request = asked.options.request(name, source, host_id, asked.branch);
        actions::add_project(&api.store, &request).await?;
    }
    let copy: Vec<_> = asked.copy.into_iter().map(|file| (file.path, file.from)).collect();
    let change = SetupChange {
        command: asked.setup_command.as_deref().map(str::trim),
        keep: asked.setup_kept,
        copy: &copy,
        no_copy: &asked.no_copy,
        check_resends: asked.check_resends,
        checks_required: asked.checks_required,
    };
    if change != SetupChange::default() {
        actions::change_setup(&api.store, &project.name, &change, &who).await?;
    }
    Ok(Json(actions::public(actions::project_named(&api.store, &name).await?)))
}

/// How to remove.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveQuery {
    /// Although something waits or is not reviewed.
    #[serde(default)]
    force: bool,
}

/// Remove a project with its sessions and tasks; what it cost stays recorded.
#[utoipa::path(delete, path = "/api/projects/{name}", tag = "projects", params(("name" = String, Path, description = "Its name"), RemoveQuery),
    responses((status = 200, description = "The project as it was", body = ProjectRow)))]
pub(super) async fn remove_project(
    State(api): State<Api>,
    At(name): At<String>,
    Asked(asked): Asked<RemoveQuery>,
) -> Answer<ProjectRow> {
    Ok(Json(actions::public(actions::remove_project(&api.store, &name, asked.force).await?)))
}

/// A check to add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckRequest {
    /// The command, as a shell reads it.
    command: String,
    /// How long it may take; left out: as the host says.
    limit_seconds: Option<i32>,
}

/// Add a check to a project, or change the one of this name.
#[utoipa::path(put, path = "/api/projects/{name}/checks/{check}", tag = "projects", request_body = CheckRequest,
    params(("name" = String, Path, description = "The project's name"), ("check" = String, Path, description = "The check's name")),
    responses((status = 200, description = "The check", body = CheckRow)))]
pub(super) async fn add_check(
    State(api): State<Api>,
    At((project, check)): At<(String, String)>,
    Who(who): Who,
    Body(asked): Body<CheckRequest>,
) -> Answer<CheckRow> {
    let CheckRequest { command, limit_seconds } = asked;
    Ok(Json(actions::add_check(&api.store, &project, &check, &command, limit_seconds, &who).await?))
}

/// Remove a check from a project.
#[utoipa::path(delete, path = "/api/projects/{name}/checks/{check}", tag = "projects",
    params(("name" = String, Path, description = "The project's name"), ("check" = String, Path, description = "The check's name")),
    responses((status = 200, description = "The checks that are left", body = List<CheckRow>)))]
pub(super) async fn remove_check(
    State(api): State<Api>,
    At((project, check)): At<(String, String)>,
    Who(who): Who,
) -> Answer<List<CheckRow>> {
    actions::remove_check(&api.store, &project, &check, &who).await?;
    Ok(Json(List::whole(actions::list_checks(&api.store, Some(&project)).await?)))
}

/// Which worktrees to let go of.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReapRequest {
    /// These; left out: those of this host that nobody needs.
    #[serde(default)]
    #[schema(value_type = Vec<i64>)]
    ids: Vec<Id<Worktree>>,
    /// As if the grace of those whose sessions ended was over.
    #[serde(default)]
    no_grace: bool,
    /// Say what would become of them, and do nothing.
    #[serde(default)]
    dry_run: bool,
}

/// A worktree, and what becomes of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReapLine {
    #[serde(flatten)]
    row: WorktreeRow,
    /// It goes.
    goes: bool,
    /// What becomes of it, in words.
    decision: &'static str,
}

/// Have worktrees of the API's host let go of that nobody needs. Its worker does it: their work is kept first, and they go to the trash.
#[utoipa::path(post, path = "/api/worktrees/reap", tag = "fleet", request_body = ReapRequest,
    responses((status = 200, description = "What becomes of each", body = List<ReapLine>)))]
pub(super) async fn reap(State(api): State<Api>, Body(asked): Body<ReapRequest>) -> Answer<List<ReapLine>> {
    let worktrees = &api.applier.worktrees;
    let named = !asked.ids.is_empty();
    let ids: Vec<_> = asked.ids.iter().map(|id| id.0).collect();
    let plan = worktrees.plan(named.then_some(ids), named, asked.no_grace).await?;
    let lines = plan.into_iter().map(|one| ReapLine {
        goes: !matches!(one.decision, Decision::Stay(_)),
        decision: one.decision.in_words(),
        row: one.row,
    });
    let lines: Vec<_> = lines.filter(|line| named || line.goes).collect();
    if !asked.dry_run {
        let going: Vec<_> = lines.iter().filter(|line| line.goes).map(|line| line.row.id).collect();
        api.store.ask_to_reap(&going).await?;
    }
    Ok(Json(List::whole(lines)))
}

/// Bring a worktree of the API's host back to its place, and open its session again.
#[utoipa::path(post, path = "/api/worktrees/{id}/restore", tag = "fleet", params(("id" = String, Path, description = "The worktree: w4, or 4")),
    responses((status = 200, description = "The worktree as it is now", body = Restored)))]
pub(super) async fn restore(State(api): State<Api>, At(id): At<Id<Worktree>>) -> Answer<Restored> {
    let found = api.store.worktree(id.0).await?;
    found
        .ok_or_else(|| Problem::not_found(format!("there is no worktree w{}", id.0)).hint("see: GET /api/worktrees"))?;
    Ok(Json(to_its_end(async move { api.applier.worktrees.restore(id.0).await }).await?))
}
