//! Deciding about changes: applies and their journal, rejections. Each step is one short transaction that looks and writes under the change
//! set's lock, so that nothing is taken twice.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Result, Store, StoreError, reads_turns::ChangeSetRow, seconds};
use crate::model::apply::Taken;

/// An apply, as the journal has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.applies, which schema.sql comments on")]
pub struct ApplyRow {
    pub id: i64,
    pub change_set_id: i64,
    pub session_id: Option<i64>,
    pub project_id: i64,
    pub host_id: String,
    pub who: String,
    pub remote: bool,
    pub branch: String,
    pub old_commit: Option<String>,
    pub new_commit: String,
    pub rebases: bool,
    pub files: Vec<i64>,
    pub state: String,
    pub problem: Option<String>,
    pub created_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub tree_id: Option<String>,
}

pub(super) fn apply(row: &Row) -> ApplyRow {
    ApplyRow {
        id: row.get("id"),
        change_set_id: row.get("change_set_id"),
        session_id: row.get("session_id"),
        project_id: row.get("project_id"),
        host_id: row.get("host_id"),
        who: row.get("who"),
        remote: row.get("remote"),
        branch: row.get("branch"),
        old_commit: row.get("old_commit"),
        new_commit: row.get("new_commit"),
        rebases: row.get("rebases"),
        files: row.get("files"),
        state: row.get("state"),
        problem: row.get("problem"),
        created_at: row.get("created_at"),
        ended_at: row.get("ended_at"),
        tree_id: row.get("tree_id"),
    }
}

/// An apply that is about to move a branch.
#[derive(Clone, Debug)]
pub struct NewApply<'a> {
    /// What is applied.
    pub change_set_id: i64,
    /// The hash that was approved.
    pub patch_sha256: &'a str,
    /// Its session.
    pub session_id: Option<i64>,
    /// The project.
    pub project_id: i64,
    /// This host.
    pub host_id: &'a str,
    /// Who asked for it.
    pub who: &'a str,
    /// To the remote, rather than to the repository.
    pub remote: bool,
    /// The branch.
    pub branch: &'a str,
    /// Where it must be.
    pub old_commit: Option<&'a str>,
    /// Where it is to be.
    pub new_commit: &'a str,
    /// The tree that was merged.
    pub tree_id: &'a str,
    /// Whether the session is re-based afterwards.
    pub rebases: bool,
    /// The pending changes that are taken.
    pub files: &'a [i64],
}

/// Whether an apply may move its branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It may; its key.
    Yes(i64),
    /// It may not, and why.
    No(String),
}

impl Store {
    /// The change set with this key, unless its attempt has not won.
    pub async fn change_set_by_id(&self, id: i64) -> Result<Option<ChangeSetRow>> {
        let sql = "SELECT c.id, c.session_id, c.task_id, c.attempt_id, c.project, c.agent, c.base_commit, c.commit_id, c.tree_id, \
                   encode(c.patch_sha256, 'hex') AS patch_sha256, c.files, c.additions, c.deletions, c.notes, c.state, c.created_at \
                   FROM millhand.change_sets c WHERE c.id = $1 AND c.state <> 'draft'";
        Ok(self.client().await?.query_opt(sql, &[&id]).await?.as_ref().map(super::reads_turns::change_set))
    }

    /// Writes the journal before a branch moves, if all that is to be taken is still there to be taken.
    pub async fn begin_apply(&self, new: &NewApply<'_>) -> Result<Begun> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let locked = transaction
            .query_opt(
                "SELECT state, encode(patch_sha256, 'hex') FROM millhand.change_sets WHERE id = $1 FOR UPDATE",
                &[&new.change_set_id],
            )
            .await?;
        let Some(locked) = locked else { return Ok(Begun::No("the change set is gone".to_owned())) };
        let (state, hash): (String, String) = (locked.get(0), locked.get(1));
        if state != "open" {
            return Ok(Begun::No(format!("the change set is {state} by now")));
        }
        if hash != new.patch_sha256 {
            return Ok(Begun::No("the change set is not the one that was approved".to_owned()));
        }
        let there: i64 = transaction
            .query_one(
                "SELECT count(*) FROM millhand.pending_changes WHERE change_set_id = $1 AND state = 'pending' AND id = ANY ($2)",
                &[&new.change_set_id, &new.files],
            )
            .await?
            .get(0);
        if usize::try_from(there) != Ok(new.files.len()) {
            return Ok(Begun::No("somebody else has decided about some of the files".to_owned()));
        }
        let inserted = transaction
            .query_one(
                "INSERT INTO millhand.applies (change_set_id, session_id, project_id, host_id, who, remote, branch, old_commit, \
                 new_commit, rebases, files, tree_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING id",
                &[
                    &new.change_set_id,
                    &new.session_id,
                    &new.project_id,
                    &new.host_id,
                    &new.who,
                    &new.remote,
                    &new.branch,
                    &new.old_commit,
                    &new.new_commit,
                    &new.rebases,
                    &new.files,
                    &new.tree_id,
                ],
            )
            .await;
        let id = match inserted.map_err(StoreError::from) {
            Ok(row) => row.get(0),
            Err(StoreError::Refused { constraint: Some(name), .. }) if name == "applies_one_begun" => {
                drop(transaction);
                let sql = "SELECT host_id FROM millhand.applies WHERE change_set_id = $1 AND state = 'begun'";
                let host = client.query_opt(sql, &[&new.change_set_id]).await?.map(|row| row.get::<_, String>(0));
                let name = self.name_of_host(&host.unwrap_or_default()).await?;
                return Ok(Begun::No(format!("it is being applied on another host, {name}, or was when that stopped")));
            }
            Err(error) => return Err(error),
        };
        transaction.commit().await?;
        Ok(Begun::Yes(id))
    }

    /// The branch has moved: what was taken is applied. Doing it again changes nothing.
    pub async fn land_apply(&self, id: i64) -> Result<()> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        // The change set before its files, as whoever decides about them or supersedes them.
        let lock = "SELECT FROM millhand.change_sets c JOIN millhand.applies a ON a.change_set_id = c.id WHERE a.id = $1 FOR UPDATE OF c";
        transaction.execute(lock, &[&id]).await?;
        if let Some(row) = transaction.query_opt(include_str!("sql/land_apply.sql"), &[&id]).await? {
            let change_set: i64 = row.get(0);
            transaction.execute("SELECT millhand.settle_change_set($1)", &[&change_set]).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Nothing was changed.
    pub async fn undo_apply(&self, id: i64, problem: &str) -> Result<()> {
        let sql = "UPDATE millhand.applies SET state = 'undone', problem = $2, ended_at = clock_timestamp() WHERE id = $1 AND state = 'begun'";
        self.client().await?.execute(sql, &[&id, &problem]).await?;
        Ok(())
    }

    /// The session is re-based on the newest of its applies, or stays where it is for good reason.
    pub async fn settle_applies(&self, session_id: Option<i64>, up_to: i64, problem: Option<&str>) -> Result<()> {
        let sql = "UPDATE millhand.applies SET state = 'done', problem = $3, ended_at = clock_timestamp() \
                   WHERE (id = $2 OR session_id = $1 AND id < $2) AND state = 'landed'";
        self.client().await?.execute(sql, &[&session_id, &up_to, &problem]).await?;
        Ok(())
    }

    /// What applies of a session have taken so far: each one's commit, and what was merged to make it; newest first.
    pub async fn taken(&self, session_id: i64, at_most: i64) -> Result<Vec<(String, Taken)>> {
        let sql = "SELECT a.new_commit, c.base_commit, a.tree_id FROM millhand.applies a \
                   JOIN millhand.change_sets c ON c.id = a.change_set_id \
                   WHERE a.session_id = $1 AND a.state IN ('landed', 'done') AND a.tree_id IS NOT NULL ORDER BY a.id DESC LIMIT $2";
        let rows = self.client().await?.query(sql, &[&session_id, &at_most]).await?;
        let taken = |row: &Row| (row.get(0), Taken { base_commit: row.get(1), tree_id: row.get(2) });
        Ok(rows.iter().map(taken).collect())
    }

    /// Files that there is nothing left to do for: the target has them already.
    pub async fn mark_applied(&self, change_set_id: i64, files: &[i64], who: &str, branch: &str) -> Result<()> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let lock = "SELECT FROM millhand.change_sets WHERE id = $1 FOR UPDATE";
        transaction.execute(lock, &[&change_set_id]).await?;
        transaction
            .execute(
                "UPDATE millhand.pending_changes SET state = 'applied', decided_by = $3, decided_at = now() \
                 WHERE change_set_id = $1 AND id = ANY ($2) AND state = 'pending'",
                &[&change_set_id, &files, &who],
            )
            .await?;
        let audit = "INSERT INTO millhand.audit_log (action, task_id, project, details) \
                     SELECT 'apply', task_id, project, jsonb_build_object('change_set_id', id, 'by', $2::text, 'branch', $3::text, \
                     'files', $4::int, 'had_it', true) FROM millhand.change_sets WHERE id = $1";
        let count = i32::try_from(files.len()).unwrap_or(i32::MAX);
        transaction.execute(audit, &[&change_set_id, &who, &branch, &count]).await?;
        transaction.execute("SELECT millhand.settle_change_set($1)", &[&change_set_id]).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Applies of a project that are not finished and for this host to finish, oldest first: its own, and those to a remote whose host has had
    /// no worker for `away`.
    pub async fn unfinished_applies(&self, host_id: &str, project_id: i64, away: Duration) -> Result<Vec<ApplyRow>> {
        let client = self.client().await?;
        let rows = client.query(include_str!("sql/apply_rows.sql"), &[&host_id, &project_id, &seconds(away)]).await?;
        Ok(rows.iter().map(apply).collect())
    }

    /// Names of the projects that have such applies.
    pub async fn projects_with_unfinished_applies(&self, host_id: &str, away: Duration) -> Result<Vec<String>> {
        let client = self.client().await?;
        let rows = client.query(include_str!("sql/projects_to_settle.sql"), &[&host_id, &seconds(away)]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Measures a session against another commit from now on; false if it is at home on another host by now.
    pub async fn move_base(&self, session_id: i64, worktree_id: i64, host_id: &str, commit: &str) -> Result<bool> {
        let sql = "WITH moved AS (UPDATE millhand.sessions SET base_commit = $3 WHERE id = $1 AND home_host = $4 RETURNING id) \
                   UPDATE millhand.worktrees SET base_commit = $3 FROM moved WHERE worktrees.id = $2";
        Ok(self.client().await?.execute(sql, &[&session_id, &worktree_id, &commit, &host_id]).await? == 1)
    }

    /// Whether a lease is still held.
    pub async fn holds_lease(&self, token: Uuid) -> Result<bool> {
        let sql = "SELECT FROM millhand.leases WHERE token = $1";
        Ok(self.client().await?.query_opt(sql, &[&token]).await?.is_some())
    }

    /// The same as [`move_base`](Self::move_base) for the session whose lease this is, before its turn; false if the lease is not held any more.
    pub async fn move_base_on_lease(&self, token: Uuid, host_id: &str, commit: &str) -> Result<bool> {
        let sql = "WITH lease AS (SELECT session_id FROM millhand.leases WHERE token = $1 FOR SHARE), \
                   moved AS (UPDATE millhand.sessions s SET base_commit = $3 FROM lease \
                       WHERE s.id = lease.session_id AND s.base_commit IS DISTINCT FROM $3), \
                   noted AS (UPDATE millhand.worktrees w SET base_commit = $3 FROM lease \
                       WHERE w.session_id = lease.session_id AND w.host_id = $2 AND w.base_commit <> $3) \
                   SELECT count(*) FROM lease";
        Ok(self.client().await?.query_one(sql, &[&token, &host_id, &commit]).await?.get::<_, i64>(0) == 1)
    }

    /// Rejects pending files of a change set; none given: all. How many.
    pub async fn reject_changes(&self, change_set_id: i64, paths: Option<&[String]>, who: &str) -> Result<i64> {
        let sql = "SELECT millhand.reject_changes($1, $2, $3)";
        Ok(self.client().await?.query_one(sql, &[&change_set_id, &paths, &who]).await?.get(0))
    }
}
