//! What would come of applying open change sets: what it is found out from, and what was found out.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::Row;

use super::{Result, Store, StoreError};

/// A path that conflicts with the branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ConflictRow {
    /// The path.
    pub path: String,
    /// git's words on it.
    pub message: String,
}

/// Another change set that conflicts with one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OtherRow {
    /// The other one.
    pub change_set_id: i64,
    /// Its session.
    pub session_id: i64,
    /// Where they conflict.
    pub paths: Vec<String>,
}

/// What would come of applying a change set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.forecasts, which schema.sql comments on")]
pub struct ForecastRow {
    pub change_set_id: i64,
    pub session_id: Option<i64>,
    pub task_id: Option<i64>,
    pub project: String,
    pub branch: String,
    pub target_commit: Option<String>,
    pub verdict: String,
    pub conflicts: Vec<ConflictRow>,
    pub others: Vec<OtherRow>,
    pub place: Option<i32>,
    pub problem: Option<String>,
    pub made_at: DateTime<Utc>,
}

/// What was found out of a change set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewForecast {
    /// The change set.
    pub change_set_id: i64,
    /// The branch that would take it.
    pub branch: String,
    /// Where that is; none: it is not there.
    pub target_commit: Option<String>,
    /// clean, conflicts, unknown.
    pub verdict: &'static str,
    /// With the branch.
    pub conflicts: Vec<ConflictRow>,
    /// With other change sets.
    pub others: Vec<OtherRow>,
    /// In the order that works, from 1.
    pub place: Option<i32>,
    /// Why nothing can be said.
    pub problem: Option<String>,
}

/// An open change set, and where it would go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OpenSet {
    /// The change set.
    pub id: i64,
    /// Its session.
    pub session_id: i64,
    /// The branch that would take it.
    pub branch: String,
    /// Host that has the session.
    pub home_host: Option<String>,
    /// Its files.
    pub files: i32,
    /// Those that somebody has decided about.
    pub decided: i64,
}

/// A file of a change set: what it is called, and whether it still waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetFile {
    /// Its path.
    pub path: String,
    /// The one that it had.
    pub old_path: Option<String>,
    /// Nobody has decided about it.
    pub pending: bool,
}

fn list<T: serde::de::DeserializeOwned>(row: &Row, column: &str) -> Result<Vec<T>> {
    serde_json::from_value(row.get::<_, Value>(column))
        .map_err(|error| StoreError::Unexpected(format!("forecasts.{column}: {error}")))
}

fn forecast(row: &Row) -> Result<ForecastRow> {
    Ok(ForecastRow {
        change_set_id: row.get("change_set_id"),
        session_id: row.get("session_id"),
        task_id: row.get("task_id"),
        project: row.get("project"),
        branch: row.get("branch"),
        target_commit: row.get("target_commit"),
        verdict: row.get("verdict"),
        conflicts: list(row, "conflicts")?,
        others: list(row, "others")?,
        place: row.get("place"),
        problem: row.get("problem"),
        made_at: row.get("made_at"),
    })
}

impl Store {
    /// Names of the projects that have open change sets in sessions of this host.
    pub async fn projects_to_forecast(&self, host_id: &str) -> Result<Vec<String>> {
        let sql = "SELECT DISTINCT c.project FROM millhand.change_sets c JOIN millhand.sessions s ON s.id = c.session_id \
                   WHERE c.state = 'open' AND s.home_host = $1 ORDER BY 1";
        Ok(self.client().await?.query(sql, &[&host_id]).await?.iter().map(|row| row.get(0)).collect())
    }

    /// Open change sets of a project, oldest first.
    pub async fn open_sets(&self, project: &str, at_most: i64) -> Result<Vec<OpenSet>> {
        let rows = self.client().await?.query(include_str!("sql/open_sets.sql"), &[&project, &at_most]).await?;
        let set = |row: &Row| OpenSet {
            id: row.get("id"),
            session_id: row.get("session_id"),
            branch: row.get("branch"),
            home_host: row.get("home_host"),
            files: row.get("files"),
            decided: row.get("decided"),
        };
        Ok(rows.iter().map(set).collect())
    }

    /// The files of a change set, in the order of its patch.
    pub async fn set_files(&self, change_set_id: i64) -> Result<Vec<SetFile>> {
        let sql = "SELECT path, old_path, state FROM millhand.pending_changes WHERE change_set_id = $1 ORDER BY id";
        let rows = self.client().await?.query(sql, &[&change_set_id]).await?;
        let file =
            |row: &Row| SetFile { path: row.get(0), old_path: row.get(1), pending: row.get::<_, &str>(2) == "pending" };
        Ok(rows.iter().map(file).collect())
    }

    /// Writes what was found out; what was known of the same change sets before is replaced.
    pub async fn record_forecasts(&self, forecasts: &[NewForecast]) -> Result<()> {
        let sql = "INSERT INTO millhand.forecasts AS f (change_set_id, branch, target_commit, verdict, conflicts, others, place, problem) \
                   SELECT c.id, $2, $3, $4, $5, $6, $7, $8 FROM millhand.change_sets c WHERE c.id = $1 FOR KEY SHARE \
                   ON CONFLICT (change_set_id) DO UPDATE SET branch = excluded.branch, target_commit = excluded.target_commit, \
                   verdict = excluded.verdict, conflicts = excluded.conflicts, others = excluded.others, place = excluded.place, \
                   problem = excluded.problem, made_at = clock_timestamp()";
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let statement = transaction.prepare_cached(sql).await?;
        for new in forecasts {
            let json = |value: serde_json::Result<Value>| {
                value.map_err(|error| StoreError::Unexpected(format!("a forecast: {error}")))
            };
            let (conflicts, others) =
                (json(serde_json::to_value(&new.conflicts))?, json(serde_json::to_value(&new.others))?);
            let NewForecast { change_set_id, branch, target_commit, verdict, place, problem, .. } = new;
            transaction
                .execute(
                    &statement,
                    &[change_set_id, branch, target_commit, verdict, &conflicts, &others, place, problem],
                )
                .await?;
        }
        Ok(transaction.commit().await?)
    }

    /// What is known of open change sets: of a project, or of one change set; in the order in which they can be applied, those without a place last.
    pub async fn forecasts(&self, project: Option<&str>, change_set_id: Option<i64>) -> Result<Vec<ForecastRow>> {
        let sql = "SELECT f.*, c.session_id, c.task_id, c.project \
                   FROM millhand.change_sets c JOIN millhand.forecasts f ON f.change_set_id = c.id \
                   WHERE c.state = 'open' AND c.session_id IS NOT NULL \
                     AND ($1::text IS NULL OR c.project = $1) AND ($2::bigint IS NULL OR c.id = $2) \
                   ORDER BY c.project, f.branch, f.place NULLS LAST, c.id";
        self.client().await?.query(sql, &[&project, &change_set_id]).await?.iter().map(forecast).collect()
    }
}
