//! Rows of worktrees: what is known of them, and each step of their way to the trash or the pool and back.
//!
//! A step that lets a worktree go locks its session first, which no claim and no insert of a task passes, and looks in a statement of
//! its own then: what has begun meanwhile wins.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::{Row, Transaction};
use uuid::Uuid;

use super::{Result, Store, StoreError, seconds};
use crate::model::worktree::{Facts, Reason, Session, State};

/// How long a step waits for somebody who holds a session before it is put off.
const LOCK_WITHIN: &str = "SET LOCAL lock_timeout = '2s'";

/// A worktree.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.worktrees, which schema.sql comments on")]
pub struct WorktreeRow {
    pub id: i64,
    pub session_id: Option<i64>,
    pub last_session_id: Option<i64>,
    pub project: String,
    pub project_id: Option<i64>,
    pub host_id: String,
    pub path: String,
    pub branch: String,
    pub base_commit: String,
    pub state: String,
    pub created_at: DateTime<Utc>,
    pub last_used_at: DateTime<Utc>,
    pub let_go_at: Option<DateTime<Utc>>,
    pub reap_asked_at: Option<DateTime<Utc>>,
    pub kept: bool,
    pub reason: Option<String>,
    pub problem: Option<String>,
    pub tried_at: Option<DateTime<Utc>>,
    pub checkpoint: Option<String>,
    pub unrecorded: bool,
    pub slot: Option<String>,
    pub trashed_at: Option<DateTime<Utc>>,
    pub bytes: Option<i64>,
    pub measured_at: Option<DateTime<Utc>>,
    /// Branch that the session starts from.
    #[serde(skip)]
    pub base_branch: Option<String>,
    /// What decides.
    #[serde(skip)]
    pub facts: Facts,
    /// Since it was last used, or moved to the trash.
    #[serde(skip)]
    pub idle: Duration,
    /// Since it was last tried in vain.
    #[serde(skip)]
    pub tried: Option<Duration>,
}

fn worktree(row: &Row) -> Result<WorktreeRow> {
    let span = |name| row.get::<_, Option<f64>>(name).and_then(|s| Duration::try_from_secs_f64(s).ok());
    let state: String = row.get("state");
    let session_id: Option<i64> = row.get("session_id");
    let session_state: Option<String> = row.get("session_state");
    let reap_asked_at: Option<DateTime<Utc>> = row.get("reap_asked_at");
    let kept = row.get("kept");
    let facts = Facts {
        state: State::parse(&state).ok_or_else(|| StoreError::Unexpected(format!("worktree state {state}")))?,
        session: match (session_id, session_state.as_deref()) {
            (None, _) => Session::Deleted,
            (Some(_), Some("closed")) => Session::Closed,
            (Some(_), _) => Session::Open,
        },
        leased: row.get("leased"),
        has_open_tasks: row.get("has_open_tasks"),
        let_go: span("let_go_seconds"),
        trashed: span("trashed_seconds"),
        asked: reap_asked_at.is_some(),
        kept,
        makes_room: false,
    };
    Ok(WorktreeRow {
        id: row.get("id"),
        session_id,
        last_session_id: row.get("last_session_id"),
        project: row.get("project"),
        project_id: row.get("project_id"),
        host_id: row.get("host_id"),
        path: row.get("path"),
        branch: row.get("branch"),
        base_commit: row.get("base_commit"),
        state,
        created_at: row.get("created_at"),
        last_used_at: row.get("last_used_at"),
        let_go_at: row.get("let_go_at"),
        reap_asked_at,
        kept,
        reason: row.get("reason"),
        problem: row.get("problem"),
        tried_at: row.get("tried_at"),
        checkpoint: row.get("checkpoint"),
        unrecorded: row.get("unrecorded"),
        slot: row.get("slot"),
        trashed_at: row.get("trashed_at"),
        bytes: row.get("bytes"),
        measured_at: row.get("measured_at"),
        base_branch: row.get("base_branch"),
        facts,
        idle: span("idle_seconds").unwrap_or_default(),
        tried: span("tried_seconds"),
    })
}

/// What is known of the worktree that a turn is about to use.
#[derive(Clone, Debug)]
pub struct BegunWorktree {
    /// The row.
    pub id: i64,
    /// Its state.
    pub state: State,
    /// Its folder in the trash.
    pub slot: Option<String>,
    /// What to rebuild it from.
    pub checkpoint: Option<String>,
    /// The row was made now: the session has no worktree on this host yet.
    pub is_new: bool,
    /// The session has begun, here or elsewhere: what it starts from is settled.
    pub has_base: bool,
}

/// Which worktrees.
#[derive(Clone, Debug, Default)]
pub struct WorktreeFilter {
    /// Only these.
    pub ids: Option<Vec<i64>>,
    /// Only of this host.
    pub host_id: Option<String>,
    /// Only of this project, by the name that it had.
    pub project: Option<String>,
    /// Only of this project, by its key.
    pub project_id: Option<i64>,
    /// Those that are gone too.
    pub gone: bool,
    /// Behind this one.
    pub after: i64,
}

impl Store {
    /// Worktrees, oldest first.
    pub async fn worktrees(&self, filter: &WorktreeFilter, at_most: i64) -> Result<Vec<WorktreeRow>> {
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/worktree_rows.sql")).await?;
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
            [&filter.ids, &filter.host_id, &filter.project, &filter.project_id, &filter.gone, &at_most, &filter.after];
        client.query(&statement, &params).await?.iter().map(worktree).collect()
    }

    /// One worktree.
    pub async fn worktree(&self, id: i64) -> Result<Option<WorktreeRow>> {
        let filter = WorktreeFilter { ids: Some(vec![id]), gone: true, ..WorktreeFilter::default() };
        Ok(self.worktrees(&filter, 1).await?.pop())
    }

    /// The newest worktree that a session has or had, on this host if it has one here.
    pub async fn worktree_of_session(&self, session_id: i64, host_id: &str) -> Result<Option<WorktreeRow>> {
        let row = self
            .client()
            .await?
            .query_opt(
                "SELECT id FROM millhand.worktrees WHERE last_session_id = $1 ORDER BY host_id = $2 DESC, id DESC LIMIT 1",
                &[&session_id, &host_id],
            )
            .await?;
        match row {
            Some(row) => self.worktree(row.get(0)).await,
            None => Ok(None),
        }
    }

    /// Whether a turn of a session was lost, and will be taken up again: its agent may still be writing.
    pub async fn has_lost_turn(&self, session_id: i64) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM millhand.tasks WHERE session_id = $1 AND state = 'pending' AND message_id IS NOT NULL \
                   AND error_class = 'infrastructure_lost')";
        Ok(self.client().await?.query_one(sql, &[&session_id]).await?.get(0))
    }

    /// Worktrees of a host that may have to go.
    pub async fn worktrees_due(
        &self,
        host_id: &str,
        grace: Duration,
        trash_kept: Duration,
        between_tries: Duration,
        at_most: i64,
    ) -> Result<Vec<WorktreeRow>> {
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/worktrees_due.sql")).await?;
        let rows = client
            .query(&statement, &[&host_id, &seconds(grace), &seconds(trash_kept), &seconds(between_tries), &at_most])
            .await?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let ids = rows.iter().map(|row| row.get(0)).collect();
        self.worktrees(&WorktreeFilter { ids: Some(ids), gone: true, ..WorktreeFilter::default() }, at_most).await
    }

    /// Looks at, or makes, the row of the worktree that a turn is about to use. Fenced; none if the lease is not held any more.
    pub async fn begin_worktree(
        &self,
        token: Uuid,
        host_id: &str,
        path: &str,
        branch: &str,
        base_commit: &str,
    ) -> Result<Option<BegunWorktree>> {
        // Waits for the disk, and with it the claim: what a turn does from here on, with a command of the project's own, it does once.
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/begin_worktree.sql")).await?;
        let row = client.query_opt(&statement, &[&token, &host_id, &path, &branch, &base_commit]).await?;
        let Some(row) = row else { return Ok(None) };
        let state: String = row.get("state");
        Ok(Some(BegunWorktree {
            id: row.get("id"),
            state: State::parse(&state).ok_or_else(|| StoreError::Unexpected(format!("worktree state {state}")))?,
            slot: row.get("slot"),
            checkpoint: row.get("checkpoint"),
            is_new: row.get("is_new"),
            has_base: row.get("has_base"),
        }))
    }

    /// Takes a worktree out of use, unless somebody uses or may use it. `slot` is where it will go.
    pub async fn begin_reaping(&self, id: i64, reason: Reason, slot: &str) -> Result<bool> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        if !may_go(&transaction, id, reason).await? {
            return Ok(false);
        }
        let taken = transaction
            .execute(
                "UPDATE millhand.worktrees SET state = 'reaping', reason = $2, slot = $3, problem = NULL, tried_at = NULL \
                 WHERE id = $1 AND state IN ('ready', 'in_use') AND (NOT kept OR $2 = 'asked')",
                &[&id, &reason.as_str(), &slot],
            )
            .await?;
        transaction.commit().await?;
        Ok(taken == 1)
    }

    /// The last look before it is moved: records its checkpoint, unless a claim or a person has come in between.
    pub async fn confirm_reaping(&self, id: i64, reason: Reason, checkpoint: &str, unrecorded: bool) -> Result<bool> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        if !may_go(&transaction, id, reason).await? {
            return Ok(false);
        }
        let confirmed = transaction
            .execute(
                "UPDATE millhand.worktrees SET checkpoint = $2, unrecorded = $3 WHERE id = $1 AND state = 'reaping'",
                &[&id, &checkpoint, &unrecorded],
            )
            .await?;
        transaction.commit().await?;
        Ok(confirmed == 1)
    }

    /// Takes back what [`Store::begin_reaping`] began; with a problem, it is tried again later.
    pub async fn abandon_reaping(&self, id: i64, problem: Option<&str>) -> Result<()> {
        self.client()
            .await?
            .execute(
                "UPDATE millhand.worktrees SET state = 'ready', reason = NULL, slot = NULL, problem = $2, \
                 tried_at = CASE WHEN $2::text IS NOT NULL THEN now() END, reap_asked_at = NULL \
                 WHERE id = $1 AND state = 'reaping'",
                &[&id, &problem],
            )
            .await?;
        Ok(())
    }

    /// Notes why something could not be done with a worktree; it is tried again later.
    pub async fn note_worktree_problem(&self, id: i64, problem: &str) -> Result<()> {
        let sql = "UPDATE millhand.worktrees SET problem = $2, tried_at = now(), reap_asked_at = NULL WHERE id = $1";
        self.client().await?.execute(sql, &[&id, &problem]).await?;
        Ok(())
    }

    /// It is due and has to stay: others are looked at first for a while.
    pub async fn put_off_worktree(&self, id: i64) -> Result<()> {
        let sql = "UPDATE millhand.worktrees SET tried_at = now() WHERE id = $1";
        self.client().await?.execute(sql, &[&id]).await?;
        Ok(())
    }

    /// It lies in the trash now.
    pub async fn mark_trashed(&self, id: i64) -> Result<()> {
        let sql = "UPDATE millhand.worktrees SET state = 'trashed', trashed_at = now(), reap_asked_at = NULL, problem = NULL, \
                   tried_at = NULL WHERE id = $1 AND state = 'reaping'";
        self.client().await?.execute(sql, &[&id]).await?;
        Ok(())
    }

    /// It lies in its place, and not in the trash.
    pub async fn mark_in_place(&self, id: i64) -> Result<()> {
        let sql = "UPDATE millhand.worktrees SET state = 'ready', slot = NULL, trashed_at = NULL WHERE id = $1 AND state = 'trashed'";
        self.client().await?.execute(sql, &[&id]).await?;
        Ok(())
    }

    /// It is not on disk any more.
    pub async fn mark_worktree_gone(&self, id: i64) -> Result<()> {
        let sql = "UPDATE millhand.worktrees SET state = 'gone', slot = NULL, reap_asked_at = NULL, problem = NULL, bytes = NULL \
                   WHERE id = $1 AND state IN ('reaping', 'trashed', 'pooled')";
        self.client().await?.execute(sql, &[&id]).await?;
        Ok(())
    }

    /// It was reset and lies in the pool: its session has none any more, and a row of its own stands for it.
    pub async fn mark_pooled(&self, id: i64, path: &str) -> Result<()> {
        self.client().await?.execute(include_str!("sql/mark_pooled.sql"), &[&id, &path]).await?;
        Ok(())
    }

    /// Its remains are in this slot of the trash, and only its checkpoint can be restored.
    pub async fn mark_spoilt(&self, id: i64, slot: &str) -> Result<()> {
        let sql = "UPDATE millhand.worktrees SET state = 'trashed', slot = $2, trashed_at = now(), reap_asked_at = NULL                    WHERE id = $1 AND state = 'reaping'";
        self.client().await?.execute(sql, &[&id, &slot]).await?;
        Ok(())
    }

    /// The pooled worktrees of a project on a host: row and slot.
    pub async fn pooled_worktrees(&self, host_id: &str, project_id: i64) -> Result<Vec<(i64, String)>> {
        let sql = "SELECT id, slot FROM millhand.worktrees WHERE host_id = $1 AND project_id = $2 AND state = 'pooled'                    AND slot IS NOT NULL ORDER BY id";
        let rows = self.client().await?.query(sql, &[&host_id, &project_id]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Takes a pooled worktree out of the pool; false if somebody else did.
    pub async fn take_pooled(&self, id: i64) -> Result<bool> {
        let sql = "UPDATE millhand.worktrees SET state = 'reaping' WHERE id = $1 AND state = 'pooled'";
        Ok(self.client().await?.execute(sql, &[&id]).await? == 1)
    }

    /// Forgets a pooled worktree, which nobody's work is in.
    pub async fn forget_pooled(&self, id: i64) -> Result<()> {
        let sql = "DELETE FROM millhand.worktrees WHERE id = $1 AND state = 'reaping' AND last_session_id IS NULL";
        self.client().await?.execute(sql, &[&id]).await?;
        Ok(())
    }

    /// Worktrees whose disk space is not known, or was measured before they were last used.
    pub async fn unmeasured_worktrees(&self, host_id: &str, at_most: i64) -> Result<Vec<WorktreeRow>> {
        let sql = "SELECT id FROM millhand.worktrees w WHERE host_id = $1 AND state IN ('ready', 'in_use', 'pooled', 'trashed') \
                   AND (measured_at IS NULL OR measured_at < last_used_at) \
                   AND NOT EXISTS (SELECT 1 FROM millhand.leases l WHERE l.session_id = w.session_id) \
                   ORDER BY measured_at NULLS FIRST, id LIMIT $2";
        let rows = self.client().await?.query(sql, &[&host_id, &at_most]).await?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let ids = rows.iter().map(|row| row.get(0)).collect();
        self.worktrees(&WorktreeFilter { ids: Some(ids), ..WorktreeFilter::default() }, at_most).await
    }

    /// Records what a worktree takes on disk.
    pub async fn record_bytes(&self, id: i64, bytes: i64) -> Result<()> {
        let sql = "UPDATE millhand.worktrees SET bytes = $2, measured_at = now() WHERE id = $1";
        self.client().await?.execute(sql, &[&id, &bytes]).await?;
        Ok(())
    }

    /// Projects that take more than so many bytes on a host.
    pub async fn projects_above(&self, host_id: &str, bytes: i64) -> Result<Vec<i64>> {
        let sql = "SELECT project_id FROM millhand.worktrees WHERE host_id = $1 AND state <> 'gone' AND project_id IS NOT NULL \
                   GROUP BY project_id HAVING sum(bytes)::bigint > $2";
        Ok(self.client().await?.query(sql, &[&host_id, &bytes]).await?.iter().map(|row| row.get(0)).collect())
    }

    /// Asks the reaper of a host for these worktrees, and wakes it.
    pub async fn ask_to_reap(&self, ids: &[i64]) -> Result<()> {
        let client = self.client().await?;
        client.execute("UPDATE millhand.worktrees SET reap_asked_at = now() WHERE id = ANY ($1)", &[&ids]).await?;
        client.batch_execute("NOTIFY worktrees_changed").await?;
        Ok(())
    }

    /// It is in its place again. A session whose row was deleted is opened anew, under its old number, if its project is still
    /// there; if not, the worktree is marked to be kept. Returns the session, if there is one.
    pub async fn mark_restored(&self, id: i64) -> Result<Option<i64>> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let sql = "SELECT session_id, last_session_id FROM millhand.worktrees WHERE id = $1 FOR UPDATE";
        let row = transaction.query_one(sql, &[&id]).await?;
        let mut session: Option<i64> = row.get(0);
        match session {
            Some(session) => {
                transaction.execute("SELECT millhand.reopen_session($1)", &[&session]).await?;
            }
            None => {
                let reopened = transaction
                    .query_opt(include_str!("sql/revive_session.sql"), &[&id])
                    .await?
                    .map(|row| row.get::<_, i64>(0));
                session = reopened;
            }
        }
        transaction.execute(include_str!("sql/mark_restored.sql"), &[&id, &session]).await?;
        transaction.commit().await?;
        Ok(session)
    }

    /// Closes a session; false if it was closed.
    pub async fn close_session(&self, session_id: i64) -> Result<bool> {
        Ok(self.client().await?.query_one("SELECT millhand.close_session($1)", &[&session_id]).await?.get(0))
    }

    /// Opens a session again; false if it was open.
    pub async fn reopen_session(&self, session_id: i64) -> Result<bool> {
        Ok(self.client().await?.query_one("SELECT millhand.reopen_session($1)", &[&session_id]).await?.get(0))
    }
}

/// Whether nobody uses a worktree, nor can begin to until the transaction ends.
async fn may_go(transaction: &Transaction<'_>, id: i64, reason: Reason) -> Result<bool> {
    transaction.batch_execute(LOCK_WITHIN).await?;
    let row = transaction.query_opt("SELECT session_id FROM millhand.worktrees WHERE id = $1", &[&id]).await?;
    let Some(row) = row else { return Ok(false) };
    let Some(session) = row.get::<_, Option<i64>>(0) else { return Ok(true) };
    let lock = "SELECT state FROM millhand.sessions WHERE id = $1 FOR UPDATE";
    let locked = match transaction.query_opt(lock, &[&session]).await.map_err(StoreError::from) {
        // lock_not_available: somebody is at work in the session.
        Err(error) if error.code() == Some("55P03") => return Ok(false),
        other => other?,
    };
    // Deleted in between: the next round finds it so.
    let Some(locked) = locked else { return Ok(false) };
    if !reason.is_of_open_session() && locked.get::<_, &str>(0) != "closed" {
        return Ok(false);
    }
    let busy = transaction
        .query_one(
            "SELECT EXISTS (SELECT 1 FROM millhand.leases WHERE session_id = $1) OR EXISTS (SELECT 1 FROM millhand.tasks \
             WHERE session_id = $1 AND state IN ('pending', 'waiting', 'running', 'blocked'))",
            &[&session],
        )
        .await?;
    Ok(!busy.get::<_, bool>(0))
}
