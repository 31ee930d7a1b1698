//! What reviewers look at and say: comments, the last look, checkpoints.

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::Row;

use super::{Result, Store, without_nul};

/// A comment on a file or line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.review_comments, which schema.sql comments on")]
pub struct CommentRow {
    pub id: i64,
    pub change_set_id: i64,
    pub session_id: Option<i64>,
    pub path: String,
    pub line: Option<i32>,
    pub body: String,
    pub who: String,
    pub created_at: DateTime<Utc>,
    pub task_id: Option<i64>,
}

fn comment(row: &Row) -> CommentRow {
    CommentRow {
        id: row.get("id"),
        change_set_id: row.get("change_set_id"),
        session_id: row.get("session_id"),
        path: row.get("path"),
        line: row.get("line"),
        body: row.get("body"),
        who: row.get("who"),
        created_at: row.get("created_at"),
        task_id: row.get("task_id"),
    }
}

/// A comment to store.
#[derive(Clone, Copy, Debug)]
pub struct NewComment<'a> {
    /// On which change set.
    pub change_set_id: i64,
    /// Its session.
    pub session_id: Option<i64>,
    /// The file.
    pub path: &'a str,
    /// The line, as the file is now.
    pub line: Option<i32>,
    /// What is said.
    pub text: &'a str,
    /// Who says it.
    pub who: &'a str,
}

/// A state of a session that was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.change_sets, which schema.sql comments on")]
pub struct CheckpointRow {
    pub change_set_id: i64,
    pub task_id: Option<i64>,
    pub commit_id: String,
    pub base_commit: String,
    pub files: i32,
    pub additions: i32,
    pub deletions: i32,
    pub state: String,
    pub created_at: DateTime<Utc>,
    /// What was asked.
    pub prompt: Option<String>,
}

impl Store {
    /// Stores a comment.
    pub async fn add_comment(&self, new: &NewComment<'_>) -> Result<CommentRow> {
        let sql = "INSERT INTO millhand.review_comments (change_set_id, session_id, path, line, body, who) \
                   VALUES ($1, $2, $3, $4, $5, $6) RETURNING *";
        let text = without_nul(new.text);
        let row = self
            .client()
            .await?
            .query_one(sql, &[&new.change_set_id, &new.session_id, &new.path, &new.line, &text.as_ref(), &new.who])
            .await?;
        Ok(comment(&row))
    }

    /// The comments on a change set, in order.
    pub async fn comments(&self, change_set_id: i64) -> Result<Vec<CommentRow>> {
        let sql = "SELECT * FROM millhand.review_comments WHERE change_set_id = $1 ORDER BY id";
        Ok(self.client().await?.query(sql, &[&change_set_id]).await?.iter().map(comment).collect())
    }

    /// The comments of a session that are in no prompt yet, in order.
    pub async fn unsent_comments(&self, session_id: i64) -> Result<Vec<CommentRow>> {
        let sql = "SELECT * FROM millhand.review_comments WHERE session_id = $1 AND task_id IS NULL ORDER BY id";
        Ok(self.client().await?.query(sql, &[&session_id]).await?.iter().map(comment).collect())
    }

    /// They are in this task's prompt.
    pub async fn mark_comments_sent(&self, ids: &[i64], task_id: i64) -> Result<()> {
        let sql = "UPDATE millhand.review_comments SET task_id = $2 WHERE id = ANY ($1) AND task_id IS NULL";
        self.client().await?.execute(sql, &[&ids, &task_id]).await?;
        Ok(())
    }

    /// The change set of a session that a person has looked at last.
    pub async fn last_look(&self, session_id: i64, who: &str) -> Result<Option<i64>> {
        let sql = "SELECT change_set_id FROM millhand.review_looks WHERE session_id = $1 AND who = $2";
        Ok(self.client().await?.query_opt(sql, &[&session_id, &who]).await?.map(|row| row.get(0)))
    }

    /// A person has looked at this change set of a session.
    pub async fn look_at(&self, session_id: i64, change_set_id: i64, who: &str) -> Result<()> {
        let sql = "INSERT INTO millhand.review_looks (session_id, who, change_set_id) VALUES ($1, $2, $3) \
                   ON CONFLICT (session_id, who) DO UPDATE SET change_set_id = excluded.change_set_id, at = now()";
        self.client().await?.execute(sql, &[&session_id, &who, &change_set_id]).await?;
        Ok(())
    }

    /// The checkpoints of a session that turns have made, oldest first.
    pub async fn checkpoints(&self, session_id: i64) -> Result<Vec<CheckpointRow>> {
        let sql = "SELECT c.id, c.task_id, c.commit_id, c.base_commit, c.files, c.additions, c.deletions, c.state, c.created_at, \
                   t.prompt FROM millhand.change_sets c LEFT JOIN millhand.tasks t ON t.id = c.task_id \
                   WHERE c.session_id = $1 AND c.state <> 'draft' ORDER BY c.id";
        let rows = self.client().await?.query(sql, &[&session_id]).await?;
        Ok(rows
            .iter()
            .map(|row| CheckpointRow {
                change_set_id: row.get("id"),
                task_id: row.get("task_id"),
                commit_id: row.get("commit_id"),
                base_commit: row.get("base_commit"),
                files: row.get("files"),
                additions: row.get("additions"),
                deletions: row.get("deletions"),
                state: row.get("state"),
                created_at: row.get("created_at"),
                prompt: row.get("prompt"),
            })
            .collect())
    }

    /// A person is about to take a session back to what it was after a task: from now on nobody takes its newest change set for what its
    /// worktree holds. The entry's key; none if the session is at home on another host by now.
    pub async fn begin_rollback(
        &self,
        session_id: i64,
        task_id: i64,
        project: &str,
        who: &str,
        host_id: &str,
    ) -> Result<Option<i64>> {
        let sql = "WITH home AS (SELECT id FROM millhand.sessions WHERE id = $3 AND home_host = $5 FOR SHARE) \
                   INSERT INTO millhand.audit_log (at, action, task_id, project, details) \
                   SELECT clock_timestamp(), 'roll_back', $1, $2, jsonb_build_object('session_id', $3::bigint, 'by', $4::text) \
                   FROM home RETURNING id";
        let entry = self.client().await?.query_opt(sql, &[&task_id, &project, &session_id, &who, &host_id]).await?;
        Ok(entry.map(|row| row.get(0)))
    }

    /// Nothing was taken back.
    pub async fn forget_rollback(&self, entry: i64) -> Result<()> {
        self.client().await?.execute("SELECT millhand.forget_roll_back($1)", &[&entry]).await?;
        Ok(())
    }

    /// The session's files are those of this change set: what nobody has decided of it is open again, and what came after it is not.
    pub async fn end_rollback(&self, session_id: i64, change_set_id: i64) -> Result<()> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let lock = "SELECT 1 FROM millhand.change_sets WHERE session_id = $1 AND (state = 'open' OR id = $2) ORDER BY id FOR UPDATE";
        transaction.query(lock, &[&session_id, &change_set_id]).await?;
        for sql in [
            "UPDATE millhand.pending_changes p SET state = 'superseded' FROM millhand.change_sets c \
             WHERE c.session_id = $1 AND c.id <> $2 AND c.state = 'open' AND p.change_set_id = c.id AND p.state = 'pending'",
            "UPDATE millhand.change_sets SET state = 'superseded' WHERE session_id = $1 AND id <> $2 AND state = 'open'",
            "UPDATE millhand.pending_changes p SET state = 'pending' FROM millhand.change_sets c \
             WHERE c.session_id = $1 AND c.id = $2 AND c.state = 'superseded' AND p.change_set_id = c.id AND p.state = 'superseded'",
            "UPDATE millhand.change_sets SET state = 'open' WHERE session_id = $1 AND id = $2 AND state = 'superseded'",
        ] {
            transaction.execute(sql, &[&session_id, &change_set_id]).await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}
