//! What a turn writes while it runs: its session's base, agent sessions, transcript, usage, drafts of changes.
//!
//! Nothing here changes an outcome: these rows are keyed by the attempt, and readers see them once its finish has won.

use std::time::Duration;

use deadpool_postgres::Object;
use tokio_postgres::types::{Json, ToSql};
use uuid::Uuid;

use super::{
    Result, Store, StoreError,
    retention::{is_without_day, make_day_of},
    without_nul,
};
use crate::model::{change::ChangeSet, event::AgentEvent, usage::StepUsage};

/// The agent's conversation of a chat on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSessionRow {
    /// The agent's id for it.
    pub external_id: String,
    /// Configuration that it was made under.
    pub config_hash: String,
}

/// What became of storing what must be known before a prompt is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BeforePrompt {
    /// It is stored: the prompt may be sent.
    Stored,
    /// The task has reached this limit, in words: nothing may be sent.
    OverBudget(String),
    /// The lease is held, and a crash of the database undid what was settled before: nothing may be sent.
    Undone,
    /// The lease is not held any more.
    Fenced,
}

/// A line of the transcript, numbered by its writer.
#[derive(Clone, Debug)]
pub struct EventRow {
    /// Place in the transcript.
    pub seq: i32,
    /// What happened.
    pub event: AgentEvent,
    /// Of a part that is whole now: where it began to stream. Its deltas are dropped, and what came meanwhile stands before its own place.
    pub began: Option<i32>,
}

/// Whose attempt something belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// The attempt.
    pub attempt_id: i64,
    /// The task.
    pub task_id: i64,
    /// The session.
    pub session_id: i64,
    /// Name of the project.
    pub project: &'a str,
    /// The agent that ran.
    pub agent: &'a str,
}

/// Splits an event into the columns of `turn_events`. NUL, which jsonb refuses, becomes U+FFFD.
fn columns(row: &EventRow) -> Result<(&'static str, Option<String>, serde_json::Value)> {
    let event = &row.event;
    let mut data = serde_json::to_value(event).map_err(|error| StoreError::Unexpected(error.to_string()))?;
    if let Some(fields) = data.as_object_mut() {
        fields.remove("kind");
        fields.remove("part");
        if let Some(began) = row.began {
            fields.insert("began".to_owned(), began.into());
        }
    }
    scrub(&mut data);
    Ok((event.kind(), event.part().map(|p| without_nul(p).into_owned()), data))
}

/// Replaces NUL, which jsonb refuses.
pub(super) fn scrub(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) if text.contains('\0') => *text = without_nul(text).into_owned(),
        serde_json::Value::Array(items) => items.iter_mut().for_each(scrub),
        serde_json::Value::Object(fields) => {
            if fields.keys().any(|key| key.contains('\0')) {
                *fields = std::mem::take(fields).into_iter().map(|(k, v)| (without_nul(&k).into_owned(), v)).collect();
            }
            fields.values_mut().for_each(scrub);
        }
        _ => {}
    }
}

impl Store {
    /// Fixes where a session starts and where its worktree is, which is in use from here on; fenced by the lease.
    ///
    /// Returns false if the lease is not held any more. Its commit does not wait for the disk; that of [`Store::before_prompt`] does, for both,
    /// and it writes nothing if a crash of the database has undone this.
    pub async fn settle_session(
        &self,
        token: Uuid,
        base_branch: Option<&str>,
        base_commit: &str,
        host_id: &str,
        worktree: &str,
        branch: &str,
    ) -> Result<bool> {
        let client = self.relaxed().await?;
        let statement = client.prepare_cached(include_str!("sql/settle_session.sql")).await?;
        let row =
            client.query_opt(&statement, &[&token, &base_branch, &base_commit, &host_id, &worktree, &branch]).await?;
        Ok(row.is_some())
    }

    /// The conversation to resume for a chat, if there is one that did not crash.
    pub async fn agent_session(&self, chat_id: i64, agent: &str, host_id: &str) -> Result<Option<AgentSessionRow>> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached(
                "SELECT external_id, config_hash FROM millhand.agent_sessions \
                 WHERE chat_id = $1 AND agent = $2 AND host_id = $3 AND status = 'active'",
            )
            .await?;
        let row = client.query_opt(&statement, &[&chat_id, &agent, &host_id]).await?;
        Ok(row.map(|row| AgentSessionRow { external_id: row.get(0), config_hash: row.get(1) }))
    }

    /// Stores all that must be known before the prompt is sent: the conversation, what was resolved, and the id of the
    /// message. Fenced, by the lease and by what [`Store::settle_session`] wrote. The last look at what may be spent before something is.
    #[expect(clippy::too_many_arguments, reason = "one statement's parameters, named at the only call")]
    pub async fn before_prompt(
        &self,
        token: Uuid,
        agent: &str,
        backend: &str,
        host_id: &str,
        session: &AgentSessionRow,
        agent_resolved: &str,
        model_resolved: &str,
        message_id: &str,
    ) -> Result<BeforePrompt> {
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/before_prompt.sql")).await?;
        let row = client
            .query_opt(
                &statement,
                &[
                    &token,
                    &agent,
                    &backend,
                    &host_id,
                    &session.external_id,
                    &session.config_hash,
                    &agent_resolved,
                    &model_resolved,
                    &message_id,
                ],
            )
            .await?;
        Ok(match row.map(|row| row.get::<_, Option<String>>(1)) {
            Some(None) => BeforePrompt::Stored,
            Some(Some(limit)) => BeforePrompt::OverBudget(limit),
            None => {
                let held = "SELECT EXISTS (SELECT FROM millhand.leases WHERE token = $1)";
                match client.query_one(held, &[&token]).await?.get(0) {
                    true => BeforePrompt::Undone,
                    false => BeforePrompt::Fenced,
                }
            }
        })
    }

    /// How often the task's last attempts, in a row, lost the agent's server.
    pub async fn server_losses(&self, task_id: i64) -> Result<i64> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached(
                "SELECT count(*) FROM millhand.attempts WHERE task_id = $1 AND outcome = 'server_lost' AND number > \
                 coalesce((SELECT max(number) FROM millhand.attempts \
                           WHERE task_id = $1 AND outcome IS NOT NULL AND outcome <> 'server_lost'), 0)",
            )
            .await?;
        Ok(client.query_one(&statement, &[&task_id]).await?.get(0))
    }

    /// Marks a conversation as not to be resumed.
    pub async fn mark_agent_session_crashed(&self, chat_id: i64, agent: &str, host_id: &str) -> Result<()> {
        self.client()
            .await?
            .execute(
                "UPDATE millhand.agent_sessions SET status = 'crashed' WHERE chat_id = $1 AND agent = $2 AND host_id = $3",
                &[&chat_id, &agent, &host_id],
            )
            .await?;
        Ok(())
    }

    /// Appends to a transcript, and drops the deltas of parts that are whole now.
    pub async fn append_events(&self, attempt_id: i64, events: &[EventRow]) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let mut seqs = Vec::with_capacity(events.len());
        let mut kinds = Vec::with_capacity(events.len());
        let mut parts = Vec::with_capacity(events.len());
        let mut data = Vec::with_capacity(events.len());
        let mut whole = Vec::new();
        for row in events {
            let (kind, part, fields) = columns(row)?;
            if matches!(row.event, AgentEvent::Text { .. } | AgentEvent::Reasoning { .. }) {
                whole.extend(part.clone());
            }
            seqs.push(row.seq);
            kinds.push(kind);
            parts.push(part);
            data.push(Json(fields));
        }
        let client = self.relaxed().await?;
        let statement = client.prepare_cached(include_str!("sql/append_events.sql")).await?;
        let values: [&(dyn ToSql + Sync); 6] = [&attempt_id, &seqs, &kinds, &parts, &data, &whole];
        match client.execute(&statement, &values).await {
            Err(error) if is_without_day(&error) => {
                make_day_of(&client, attempt_id).await?;
                client.execute(&statement, &values).await?;
            }
            done => drop(done?),
        }
        Ok(())
    }

    /// Records what the steps of a turn cost. A step that is recorded already is brought up to date, never added twice.
    pub async fn record_usage(&self, owner: Owner<'_>, steps: &[StepUsage]) -> Result<()> {
        if steps.is_empty() {
            return Ok(());
        }
        // Not left to the commit of the finish: a crash of the database in between would undo this, and the finish is tried again.
        record_usage(&self.client().await?, owner, steps).await
    }

    /// Records what steps of a turn that goes on cost. Its commit does not wait for the disk: the end of the turn records all of them again.
    pub async fn record_usage_so_far(&self, owner: Owner<'_>, steps: &[StepUsage]) -> Result<()> {
        if steps.is_empty() {
            return Ok(());
        }
        record_usage(&self.relaxed().await?, owner, steps).await
    }

    /// Writes a change set and its files as drafts, which the finish opens. Writing it again replaces it.
    pub async fn draft_changes(&self, owner: Owner<'_>, changes: &ChangeSet) -> Result<()> {
        // Not left to the commit of the finish either.
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let sum = |of: fn(&crate::model::change::FileChange) -> i32| {
            i32::try_from(changes.files.iter().map(|f| i64::from(of(f))).sum::<i64>()).unwrap_or(i32::MAX)
        };
        let forget = transaction
            .prepare_cached("DELETE FROM millhand.change_sets WHERE attempt_id = $1 AND state = 'draft'")
            .await?;
        transaction.execute(&forget, &[&owner.attempt_id]).await?;
        let insert_set = transaction.prepare_cached(include_str!("sql/draft_change_set.sql")).await?;
        let row = transaction
            .query_one(
                &insert_set,
                &[
                    &owner.session_id,
                    &owner.task_id,
                    &owner.attempt_id,
                    &owner.project,
                    &owner.agent,
                    &changes.base_commit,
                    &changes.commit_id,
                    &changes.tree_id,
                    &changes.patch_sha256.as_slice(),
                    &i32::try_from(changes.files.len()).unwrap_or(i32::MAX),
                    &sum(|f| f.additions),
                    &sum(|f| f.deletions),
                    &Json(changes.notes.iter().map(|n| without_nul(n).into_owned()).collect::<Vec<_>>()),
                ],
            )
            .await?;
        let change_set_id: i64 = row.get(0);
        let insert_file = transaction.prepare_cached(include_str!("sql/draft_pending_change.sql")).await?;
        // Pipelined in slices: each row may carry a large patch.
        for slice in changes.files.chunks(64) {
            let rows: Vec<_> = slice.iter().map(|file| FileRow::new(owner, change_set_id, file)).collect();
            let params: Vec<_> = rows.iter().map(FileRow::params).collect();
            futures::future::try_join_all(params.iter().map(|params| transaction.execute(&insert_file, params)))
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// How long the oldest pending task that is due has waited; for tests and `status`.
    pub async fn oldest_due(&self) -> Result<Option<Duration>> {
        let row = self
            .client()
            .await?
            .query_one(
                "SELECT extract(epoch FROM now() - min(run_at))::float8 FROM millhand.tasks \
                 WHERE state = 'pending' AND run_at <= now()",
                &[],
            )
            .await?;
        Ok(row.get::<_, Option<f64>>(0).and_then(|s| Duration::try_from_secs_f64(s).ok()))
    }
}

async fn record_usage(client: &Object, owner: Owner<'_>, steps: &[StepUsage]) -> Result<()> {
    let statement = client.prepare_cached(include_str!("sql/record_usage.sql")).await?;
    let column = |of: fn(&StepUsage) -> i64| steps.iter().map(of).collect::<Vec<_>>();
    client
        .execute(
            &statement,
            &[
                &owner.attempt_id,
                &owner.task_id,
                &owner.project,
                &owner.agent,
                &steps.iter().map(|s| s.model.as_str()).collect::<Vec<_>>(),
                &steps.iter().map(|s| s.agent_session.as_str()).collect::<Vec<_>>(),
                &steps.iter().map(|s| s.message_id.as_str()).collect::<Vec<_>>(),
                &column(|s| s.input_tokens),
                &column(|s| s.output_tokens),
                &column(|s| s.reasoning_tokens),
                &column(|s| s.cache_read_tokens),
                &column(|s| s.cache_write_tokens),
                &steps.iter().map(|s| s.cost_usd).collect::<Vec<_>>(),
            ],
        )
        .await?;
    Ok(())
}

type Param<'a> = &'a (dyn ToSql + Sync);

/// The parameters of one row of `pending_changes`, owned so that they outlive the pipelined call.
struct FileRow<'a> {
    owner: Owner<'a>,
    change_set_id: i64,
    file: &'a crate::model::change::FileChange,
    path: String,
    path_bytes: Option<&'a [u8]>,
    old_path: Option<String>,
    kind: &'static str,
    patch: &'a [u8],
}

impl<'a> FileRow<'a> {
    fn new(owner: Owner<'a>, change_set_id: i64, file: &'a crate::model::change::FileChange) -> Self {
        Self {
            owner,
            change_set_id,
            file,
            path: String::from_utf8_lossy(&file.path).into_owned(),
            path_bytes: std::str::from_utf8(&file.path).is_err().then_some(file.path.as_slice()),
            old_path: file.old_path.as_ref().map(|p| String::from_utf8_lossy(p).into_owned()),
            kind: file.kind.as_str(),
            patch: &file.patch,
        }
    }

    fn params(&self) -> [Param<'_>; 17] {
        [
            &self.change_set_id,
            &self.owner.session_id,
            &self.owner.task_id,
            &self.owner.agent,
            &self.path,
            &self.path_bytes,
            &self.old_path,
            &self.kind,
            &self.file.old_mode,
            &self.file.new_mode,
            &self.file.old_blob,
            &self.file.new_blob,
            &self.file.is_binary,
            &self.file.flags,
            &self.file.additions,
            &self.file.deletions,
            &self.patch,
        ]
    }
}
