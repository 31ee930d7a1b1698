//! What went wrong, as a program and a person read it: `application/problem+json` (RFC 9457).

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{actions::ActionError, git::GitError, store::StoreError, worktrees::WorktreeError};

/// Its type in `Content-Type`.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";
/// When to ask again for a database that is away.
const AWAY: Duration = Duration::from_secs(2);

/// What went wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// Which kind of problem it is, for programs: `urn:millhand:` and a word, such as `not_found`, `refused`, `conflicts`.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    kind: Box<str>,
    /// The kind in words.
    #[schema(value_type = String)]
    title: Box<str>,
    /// The HTTP status.
    status: u16,
    /// What is wrong here.
    #[schema(value_type = String)]
    detail: Box<str>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    hint: Option<Box<str>>,
    /// Where changes conflict with the branch.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<Conflict>)]
    conflicts: Box<[Conflict]>,
    /// The scope that a token would need.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'static str>,
    /// When to try again; said in `Retry-After`.
    #[serde(skip)]
    retry_after: Option<Duration>,
}

/// A conflict of changes with a branch.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Conflict {
    /// The branch.
    branch: String,
    /// The file.
    path: String,
    /// What is in the way.
    message: String,
}

impl Problem {
    /// A problem. `kind` is one word, with `_` between its parts.
    pub(crate) fn new(status: StatusCode, kind: &str, detail: impl Into<String>) -> Self {
        let mut title = kind.replace('_', " ");
        if let Some(first) = title.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        Self {
            kind: format!("urn:millhand:{kind}").into(),
            title: title.into(),
            status: status.as_u16(),
            detail: detail.into().into(),
            hint: None,
            conflicts: Box::default(),
            scope: None,
            retry_after: None,
        }
    }

    /// What was sent cannot be read.
    pub(crate) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// There is no such thing.
    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// It comes too often; how long to wait.
    pub(crate) fn too_many(detail: &str, wait: Duration) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail);
        Self { retry_after: Some(wait), ..problem }
    }

    /// With the scope that a token would need.
    pub(crate) fn scope(mut self, scope: &'static str) -> Self {
        self.scope = Some(scope);
        self
    }

    /// With what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into().into());
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Body::from(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(wait) = self.retry_after {
            // Rounded up: who comes a part of a second too early is refused again.
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)));
        }
        response
    }
}

impl From<ActionError> for Problem {
    fn from(error: ActionError) -> Self {
        match error {
            ActionError::NotFound { what, hint } => Self::not_found(what).hint(hint),
            ActionError::Refused { what, hint } => {
                let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", what);
                Self { hint: hint.map(Into::into), ..problem }
            }
            ActionError::Conflicts { ref branch, ref conflicts, .. } => {
                let conflict = |found: &crate::git::Conflict| Conflict {
                    branch: branch.clone(),
                    path: found.path.clone(),
                    message: found.message.clone(),
                };
                let conflicts = conflicts.iter().map(conflict).collect();
                let hint = "nothing was changed; apply the other files, or send it back to the agent";
                Self { conflicts, ..Self::new(StatusCode::CONFLICT, "conflicts", error.to_string()).hint(hint) }
            }
            ActionError::Git(error) => error.into(),
            ActionError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unreachable(why) => {
                tracing::debug!(why, "the database cannot be reached");
                let problem = Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "database_unreachable",
                    "the database cannot be reached",
                );
                Self { retry_after: Some(AWAY), ..problem.hint("see what is wrong on its host: millhand doctor") }
            }
            error @ StoreError::Refused { .. } => ActionError::from(error).into(),
            StoreError::Schema(message) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "schema", message),
            error @ StoreError::Unexpected(_) => internal(&error),
        }
    }
}

impl From<GitError> for Problem {
    fn from(error: GitError) -> Self {
        match error {
            GitError::BadSource { .. } | GitError::NoSuchBranch { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "repository", error.to_string())
            }
            error => Self { kind: "urn:millhand:git".into(), title: "Git".into(), ..internal(&error) },
        }
    }
}

impl From<WorktreeError> for Problem {
    fn from(error: WorktreeError) -> Self {
        ActionError::from(error).into()
    }
}

/// Something that nobody asked wrongly for.
fn internal(error: &dyn std::error::Error) -> Problem {
    tracing::warn!(error = %error, "a request failed");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string())
}
