//! Whether it lives, and whether it can be of use.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Api, extract::Answer, problem::Problem};

/// It lives.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// "ok".
    status: &'static str,
}

/// Say that this process answers.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, description = "It does", body = Health)))]
pub(super) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Say whether the database answers and has the schema that this program knows.
#[utoipa::path(get, path = "/readyz", tag = "health", responses((status = 200, description = "It does", body = Health)))]
pub(super) async fn readyz(State(api): State<Api>) -> Answer<Health> {
    let schema = api.store.schema_state().await?;
    schema.require_current().map_err(Problem::from)?;
    Ok(Json(Health { status: "ok" }))
}
