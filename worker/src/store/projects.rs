//! What people read of projects.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::Row;

use super::{Result, Store};

/// A project.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.projects, which schema.sql comments on")]
pub struct ProjectRow {
    pub id: i64,
    pub name: String,
    pub source: String,
    pub host_id: Option<String>,
    pub base_branch: Option<String>,
    pub default_agent: String,
    pub default_model: Option<String>,
    pub trusted: bool,
    pub ask_policy: String,
    pub on_failure: String,
    pub resend: String,
    pub max_attempts: i32,
    pub env_pass: Vec<String>,
    pub setup_command: Option<String>,
    pub setup_kept: bool,
    pub copied_files: Vec<String>,
    pub check_resends: i32,
    pub checks_required: bool,
    pub created_at: DateTime<Utc>,
}

/// A project, and how much is open in it.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ProjectLook {
    /// The project.
    #[serde(flatten)]
    pub project: ProjectRow,
    /// What is open in it.
    #[serde(flatten)]
    pub open: OpenWork,
}

/// How much is open in a project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct OpenWork {
    /// Tasks that are pending, waiting or blocked.
    pub open_tasks: i64,
    /// Tasks that run.
    pub running_tasks: i64,
    /// Changes that nobody has decided on, in files.
    pub pending_changes: i64,
}

fn project(row: &Row) -> ProjectRow {
    ProjectRow {
        id: row.get("id"),
        name: row.get("name"),
        source: row.get("source"),
        host_id: row.get("host_id"),
        base_branch: row.get("base_branch"),
        default_agent: row.get("default_agent"),
        default_model: row.get("default_model"),
        trusted: row.get("trusted"),
        ask_policy: row.get("ask_policy"),
        on_failure: row.get("on_failure"),
        resend: row.get("resend"),
        max_attempts: row.get("max_attempts"),
        env_pass: row.get("env_pass"),
        setup_command: row.get("setup_command"),
        setup_kept: row.get("setup_kept"),
        copied_files: row.get("copied_files"),
        check_resends: row.get("check_resends"),
        checks_required: row.get("checks_required"),
        created_at: row.get("created_at"),
    }
}

impl Store {
    /// All projects, or the one of this name.
    pub async fn projects(&self, name: Option<&str>) -> Result<Vec<ProjectRow>> {
        let rows = self.client().await?.query(include_str!("sql/project_rows.sql"), &[&name]).await?;
        Ok(rows.iter().map(project).collect())
    }

    /// How much is open in each project, or in the one of this name; where nothing is, the project is left out.
    pub async fn open_work(&self, name: Option<&str>) -> Result<HashMap<String, OpenWork>> {
        let rows = self.client().await?.query(include_str!("sql/open_work.sql"), &[&name]).await?;
        let work = |row: &Row| OpenWork {
            open_tasks: row.get("open_tasks"),
            running_tasks: row.get("running_tasks"),
            pending_changes: row.get("pending_changes"),
        };
        Ok(rows.iter().map(|row| (row.get("project"), work(row))).collect())
    }
}
