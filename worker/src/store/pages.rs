//! Lists that are read page by page, newest first: what a session has, its change sets and their files, asks, the audit log.
//!
//! A page begins behind an id, not at a number of rows: what is inserted meanwhile moves nothing.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use tokio_postgres::Row;

use super::{
    Result, Store,
    asks::AskRow,
    changes::{ApplyRow, apply},
    reads_turns::{ChangeSetRow, PendingChangeRow, change_set, pending_change},
};

/// Newer than any.
const NEWEST: i64 = i64::MAX;

/// One agent context in a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.chats, which schema.sql comments on, and its newest task")]
pub struct ChatRow {
    pub id: i64,
    pub session_id: i64,
    pub title: String,
    pub created_at: DateTime<Utc>,
    pub last_task_id: Option<i64>,
}

/// An agent's own conversation.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.agent_sessions, which schema.sql comments on")]
pub struct AgentSessionRow {
    pub id: i64,
    pub chat_id: i64,
    pub agent: String,
    pub host_id: String,
    pub backend: String,
    pub external_id: String,
    pub status: String,
    pub tokens: i64,
    #[serde(with = "rust_decimal::serde::float")]
    pub cost_usd: Decimal,
    pub created_at: DateTime<Utc>,
    pub last_active_at: DateTime<Utc>,
}

/// Who did what.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.audit_log, which schema.sql comments on")]
pub struct AuditRow {
    pub id: i64,
    pub at: DateTime<Utc>,
    pub who: String,
    pub action: String,
    pub task_id: Option<i64>,
    pub project: Option<String>,
    pub details: serde_json::Value,
}

/// Which change sets to list.
#[derive(Clone, Debug, Default)]
pub struct ChangeSetFilter {
    /// Of this project only.
    pub project: Option<String>,
    /// Of this session only.
    pub session_id: Option<i64>,
    /// Of this task only.
    pub task_id: Option<i64>,
    /// In this state only.
    pub state: Option<String>,
    /// Older than this one only.
    pub before: Option<i64>,
}

/// How the files of a change set stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileCounts {
    /// They wait for a decision.
    pub pending: i64,
    /// They are on a branch.
    pub applied: i64,
    /// They were refused.
    pub rejected: i64,
    /// They run on the machine of whoever takes them.
    pub executing: i64,
}

fn chat(row: &Row) -> ChatRow {
    ChatRow {
        id: row.get("id"),
        session_id: row.get("session_id"),
        title: row.get("title"),
        created_at: row.get("created_at"),
        last_task_id: row.get("last_task_id"),
    }
}

const CHATS: &str = "SELECT c.id, c.session_id, c.title, c.created_at, \
    (SELECT max(t.id) FROM millhand.tasks t WHERE t.chat_id = c.id) AS last_task_id FROM millhand.chats c";

impl Store {
    /// The chats of a session, in order.
    pub async fn chats(&self, session_id: i64) -> Result<Vec<ChatRow>> {
        let sql = format!("{CHATS} WHERE c.session_id = $1 ORDER BY c.id");
        Ok(self.client().await?.query(&sql, &[&session_id]).await?.iter().map(chat).collect())
    }

    /// One chat.
    pub async fn chat_row(&self, id: i64) -> Result<Option<ChatRow>> {
        let sql = format!("{CHATS} WHERE c.id = $1");
        Ok(self.client().await?.query_opt(&sql, &[&id]).await?.as_ref().map(chat))
    }

    /// The agents' own conversations for a session's chats.
    pub async fn agent_sessions(&self, session_id: i64) -> Result<Vec<AgentSessionRow>> {
        let sql = "SELECT a.* FROM millhand.agent_sessions a JOIN millhand.chats c ON c.id = a.chat_id \
                   WHERE c.session_id = $1 ORDER BY a.id";
        let rows = self.client().await?.query(sql, &[&session_id]).await?;
        Ok(rows
            .iter()
            .map(|row| AgentSessionRow {
                id: row.get("id"),
                chat_id: row.get("chat_id"),
                agent: row.get("agent"),
                host_id: row.get("host_id"),
                backend: row.get("backend"),
                external_id: row.get("external_id"),
                status: row.get("status"),
                tokens: row.get("tokens"),
                cost_usd: row.get("cost_usd"),
                created_at: row.get("created_at"),
                last_active_at: row.get("last_active_at"),
            })
            .collect())
    }

    /// Change sets, newest first; never drafts.
    pub async fn change_sets(&self, filter: &ChangeSetFilter, at_most: i64) -> Result<Vec<ChangeSetRow>> {
        let ChangeSetFilter { project, session_id, task_id, state, before } = filter;
        let before = before.unwrap_or(NEWEST);
        let client = self.client().await?;
        let rows = client
            .query(include_str!("sql/change_set_rows.sql"), &[project, session_id, task_id, state, &before, &at_most])
            .await?;
        Ok(rows.iter().map(change_set).collect())
    }

    /// Files of a change set behind one of them (0: the first), in the order of the patch, without their patches.
    pub async fn changed_files_behind(
        &self,
        change_set_id: i64,
        after: i64,
        at_most: i64,
    ) -> Result<Vec<PendingChangeRow>> {
        let sql = "SELECT id, change_set_id, session_id, task_id, agent, path, old_path, kind, old_mode, new_mode, \
                   is_binary, flags, additions, deletions, state, created_at \
                   FROM millhand.pending_changes WHERE change_set_id = $1 AND id > $2 ORDER BY id LIMIT $3";
        let rows = self.client().await?.query(sql, &[&change_set_id, &after, &at_most]).await?;
        Ok(rows.iter().map(pending_change).collect())
    }

    /// How the files of a change set stand.
    pub async fn decided_files(&self, change_set_id: i64) -> Result<FileCounts> {
        let sql = "SELECT count(*) FILTER (WHERE state = 'pending'), count(*) FILTER (WHERE state = 'applied'), \
                   count(*) FILTER (WHERE state = 'rejected'), count(*) FILTER (WHERE 'executes' = ANY (flags)) \
                   FROM millhand.pending_changes WHERE change_set_id = $1";
        let row = self.client().await?.query_one(sql, &[&change_set_id]).await?;
        Ok(FileCounts { pending: row.get(0), applied: row.get(1), rejected: row.get(2), executing: row.get(3) })
    }

    /// The patch of one file of a change set.
    pub async fn patch_of(&self, change_set_id: i64, file: i64) -> Result<Option<(PendingChangeRow, Vec<u8>)>> {
        let sql = "SELECT * FROM millhand.pending_changes WHERE id = $2 AND change_set_id = $1";
        let row = self.client().await?.query_opt(sql, &[&change_set_id, &file]).await?;
        Ok(row.as_ref().map(|row| (pending_change(row), row.get("patch"))))
    }

    /// What was tried to put a change set on a branch, in order.
    pub async fn applies_of(&self, change_set_id: i64) -> Result<Vec<ApplyRow>> {
        let sql = "SELECT * FROM millhand.applies WHERE change_set_id = $1 ORDER BY id";
        Ok(self.client().await?.query(sql, &[&change_set_id]).await?.iter().map(apply).collect())
    }

    /// Asks, newest first; of a task, in a state.
    pub async fn asks(
        &self,
        task_id: Option<i64>,
        state: Option<&str>,
        before: Option<i64>,
        at_most: i64,
    ) -> Result<Vec<AskRow>> {
        let sql = "SELECT id, task_id, kind, what, summary, state, answer, message, replies, answered_by, asked_at, \
                   deadline_at, answered_at FROM millhand.asks \
                   WHERE id < $3 AND ($1::bigint IS NULL OR task_id = $1) AND ($2::text IS NULL OR state = $2) \
                   ORDER BY id DESC LIMIT $4";
        let client = self.client().await?;
        let rows = client.query(sql, &[&task_id, &state, &before.unwrap_or(NEWEST), &at_most]).await?;
        Ok(rows.iter().map(super::asks::ask).collect())
    }

    /// The audit log, newest first.
    pub async fn audit_log(&self, before: Option<i64>, at_most: i64) -> Result<Vec<AuditRow>> {
        let sql = "SELECT id, at, who, action, task_id, project, details FROM millhand.audit_log WHERE id < $1 \
                   ORDER BY id DESC LIMIT $2";
        let rows = self.client().await?.query(sql, &[&before.unwrap_or(NEWEST), &at_most]).await?;
        Ok(rows
            .iter()
            .map(|row| AuditRow {
                id: row.get(0),
                at: row.get(1),
                who: row.get(2),
                action: row.get(3),
                task_id: row.get(4),
                project: row.get(5),
                details: row.get(6),
            })
            .collect())
    }
}
