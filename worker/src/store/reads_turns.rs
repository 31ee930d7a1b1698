//! What people read of turns: attempts, transcripts, change sets and their files.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;

use super::{Result, Store};

/// An attempt, with what it cost.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.attempts, which schema.sql comments on, and sums")]
pub struct AttemptRow {
    pub id: i64,
    pub task_id: i64,
    pub number: i32,
    pub host_id: String,
    pub agent_requested: String,
    pub agent_resolved: Option<String>,
    pub model_requested: Option<String>,
    pub model_resolved: Option<String>,
    pub agent_session: Option<String>,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub outcome: Option<String>,
    pub error_class: Option<String>,
    pub error_message: Option<String>,
    pub tokens: i64,
    #[serde(with = "rust_decimal::serde::float")]
    pub cost_usd: Decimal,
    pub unknown_steps: i64,
}

/// A line of a transcript.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.turn_events, which schema.sql comments on")]
pub struct TurnEventRow {
    pub attempt_id: i64,
    pub seq: i32,
    pub kind: String,
    pub part: Option<String>,
    pub data: serde_json::Value,
    pub created_at: DateTime<Utc>,
}

impl TurnEventRow {
    /// Where it belongs in what people read: a text that streamed for a while is where it began.
    pub fn place(&self) -> i64 {
        self.data["began"].as_i64().unwrap_or(self.seq.into())
    }
}

/// The result of a turn.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.change_sets, which schema.sql comments on")]
pub struct ChangeSetRow {
    pub id: i64,
    pub session_id: Option<i64>,
    pub task_id: Option<i64>,
    pub attempt_id: Option<i64>,
    pub project: String,
    pub agent: String,
    pub base_commit: String,
    pub commit_id: String,
    pub tree_id: String,
    pub patch_sha256: String,
    pub files: i32,
    pub additions: i32,
    pub deletions: i32,
    pub notes: serde_json::Value,
    pub state: String,
    pub created_at: DateTime<Utc>,
}

/// One file of a change set, without its patch.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.pending_changes, which schema.sql comments on")]
pub struct PendingChangeRow {
    pub id: i64,
    pub change_set_id: i64,
    pub session_id: Option<i64>,
    pub task_id: Option<i64>,
    pub agent: String,
    pub path: String,
    pub old_path: Option<String>,
    pub kind: String,
    pub old_mode: i32,
    pub new_mode: i32,
    pub is_binary: bool,
    pub flags: Vec<String>,
    pub additions: i32,
    pub deletions: i32,
    pub state: String,
    pub created_at: DateTime<Utc>,
}

pub(super) fn change_set(row: &tokio_postgres::Row) -> ChangeSetRow {
    ChangeSetRow {
        id: row.get("id"),
        session_id: row.get("session_id"),
        task_id: row.get("task_id"),
        attempt_id: row.get("attempt_id"),
        project: row.get("project"),
        agent: row.get("agent"),
        base_commit: row.get("base_commit"),
        commit_id: row.get("commit_id"),
        tree_id: row.get("tree_id"),
        patch_sha256: row.get("patch_sha256"),
        files: row.get("files"),
        additions: row.get("additions"),
        deletions: row.get("deletions"),
        notes: row.get("notes"),
        state: row.get("state"),
        created_at: row.get("created_at"),
    }
}

pub(super) fn pending_change(row: &tokio_postgres::Row) -> PendingChangeRow {
    PendingChangeRow {
        id: row.get("id"),
        change_set_id: row.get("change_set_id"),
        session_id: row.get("session_id"),
        task_id: row.get("task_id"),
        agent: row.get("agent"),
        path: row.get("path"),
        old_path: row.get("old_path"),
        kind: row.get("kind"),
        old_mode: row.get("old_mode"),
        new_mode: row.get("new_mode"),
        is_binary: row.get("is_binary"),
        flags: row.get("flags"),
        additions: row.get("additions"),
        deletions: row.get("deletions"),
        state: row.get("state"),
        created_at: row.get("created_at"),
    }
}

pub(super) fn turn_event(row: &tokio_postgres::Row) -> TurnEventRow {
    TurnEventRow {
        attempt_id: row.get("attempt_id"),
        seq: row.get("seq"),
        kind: row.get("kind"),
        part: row.get("part"),
        data: row.get("data"),
        created_at: row.get("created_at"),
    }
}

/// Which result: a task's, or a session's newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangesOf {
    /// The task's.
    Task(i64),
    /// The session's newest.
    Session(i64),
}

impl Store {
    /// The attempts of a task, in order.
    pub async fn attempts(&self, task_id: i64) -> Result<Vec<AttemptRow>> {
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/attempt_rows.sql")).await?;
        let rows = client.query(&statement, &[&task_id]).await?;
        Ok(rows
            .iter()
            .map(|row| AttemptRow {
                id: row.get("id"),
                task_id: row.get("task_id"),
                number: row.get("number"),
                host_id: row.get("host_id"),
                agent_requested: row.get("agent_requested"),
                agent_resolved: row.get("agent_resolved"),
                model_requested: row.get("model_requested"),
                model_resolved: row.get("model_resolved"),
                agent_session: row.get("agent_session"),
                started_at: row.get("started_at"),
                ended_at: row.get("ended_at"),
                outcome: row.get("outcome"),
                error_class: row.get("error_class"),
                error_message: row.get("error_message"),
                tokens: row.get("tokens"),
                cost_usd: row.get("cost_usd"),
                unknown_steps: row.get("unknown_steps"),
            })
            .collect())
    }

    /// The transcript of an attempt behind a place in it, in order.
    pub async fn turn_events(&self, attempt_id: i64, after: i32, at_most: i64) -> Result<Vec<TurnEventRow>> {
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/attempt_events.sql")).await?;
        let rows = client.query(&statement, &[&attempt_id, &after, &at_most]).await?;
        Ok(rows.iter().map(turn_event).collect())
    }

    /// The newest result, if there is one.
    pub async fn change_set(&self, of: ChangesOf) -> Result<Option<ChangeSetRow>> {
        let (task_id, session_id) = match of {
            ChangesOf::Task(id) => (Some(id), None),
            ChangesOf::Session(id) => (None, Some(id)),
        };
        let client = self.client().await?;
        let row = client.query_opt(include_str!("sql/change_set.sql"), &[&task_id, &session_id]).await?;
        Ok(row.as_ref().map(change_set))
    }

    /// The files of a change set, in the order of the patch, without their patches.
    pub async fn changed_files(&self, change_set_id: i64) -> Result<Vec<PendingChangeRow>> {
        let sql = "SELECT id, change_set_id, session_id, task_id, agent, path, old_path, kind, old_mode, new_mode, \
                   is_binary, flags, additions, deletions, state, created_at \
                   FROM millhand.pending_changes WHERE change_set_id = $1 ORDER BY id";
        let rows = self.client().await?.query(sql, &[&change_set_id]).await?;
        Ok(rows.iter().map(pending_change).collect())
    }

    /// The patches of the next files of a change set behind the one with this id (0: the first), with those files' ids; none: there are no more.
    ///
    /// Some at a time, up to a few megabytes or a single larger one: a change set may be larger than memory should hold.
    pub async fn next_patches(&self, change_set_id: i64, after: i64) -> Result<Vec<(i64, Vec<u8>)>> {
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/next_patches.sql")).await?;
        let rows = client.query(&statement, &[&change_set_id, &after]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}
