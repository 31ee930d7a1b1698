//! Projects and their checks.

use axum::{Json, extract::State};

use super::{
    Api,
    extract::{Answer, At},
    page::List,
};
use crate::{
    actions,
    store::{checks::CheckRow, projects::ProjectLook},
};

/// List projects, by name.
#[utoipa::path(get, path = "/api/projects", tag = "projects", responses((status = 200, description = "Projects", body = List<ProjectLook>)))]
pub(super) async fn list(State(api): State<Api>) -> Answer<List<ProjectLook>> {
    let rows = actions::list_projects(&api.store).await?;
    Ok(Json(List::whole(rows)))
}

/// Show a project.
#[utoipa::path(get, path = "/api/projects/{name}", tag = "projects", params(("name" = String, Path, description = "Its name")),
    responses((status = 200, description = "The project", body = ProjectLook)))]
pub(super) async fn show(State(api): State<Api>, At(name): At<String>) -> Answer<ProjectLook> {
    Ok(Json(actions::show_project(&api.store, &name).await?))
}

/// List the checks of a project.
#[utoipa::path(get, path = "/api/projects/{name}/checks", tag = "projects", params(("name" = String, Path, description = "Its name")),
    responses((status = 200, description = "Its checks", body = List<CheckRow>)))]
pub(super) async fn checks(State(api): State<Api>, At(name): At<String>) -> Answer<List<CheckRow>> {
    Ok(Json(List::whole(actions::list_checks(&api.store, Some(&name)).await?)))
}
