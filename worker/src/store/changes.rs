//! Deciding about changes: applies and their journal, rejections. Each step is one short transaction that looks and writes under the change
//! set's lock, so that nothing is taken twice.

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::Row;

use super::{Result, Store, StoreError, reads_turns::ChangeSetRow};

/// An apply, as the journal has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
}

fn apply(row: &Row) -> ApplyRow {
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
                 new_commit, rebases, files) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING id",
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
                ],
            )
            .await;
        let id = match inserted.map_err(StoreError::from) {
            Ok(row) => row.get(0),
            Err(StoreError::Refused { constraint: Some(name), .. }) if name == "applies_one_begun" => {
                return Ok(Begun::No("it is being applied on another host".to_owned()));
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
    pub async fn settle_applies(&self, session_id: i64, up_to: i64, problem: Option<&str>) -> Result<()> {
        let sql = "UPDATE millhand.applies SET state = 'done', problem = $3, ended_at = clock_timestamp() \
                   WHERE session_id = $1 AND id <= $2 AND state = 'landed'";
        self.client().await?.execute(sql, &[&session_id, &up_to, &problem]).await?;
        Ok(())
    }

    /// Files that there is nothing left to do for: the target has them already.
    pub async fn mark_applied(&self, change_set_id: i64, files: &[i64], who: &str) -> Result<()> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        transaction
            .execute(
                "UPDATE millhand.pending_changes SET state = 'applied', decided_by = $3, decided_at = now() \
                 WHERE change_set_id = $1 AND id = ANY ($2) AND state = 'pending'",
                &[&change_set_id, &files, &who],
            )
            .await?;
        transaction.execute("SELECT millhand.settle_change_set($1)", &[&change_set_id]).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Applies of a project on this host that are not finished, oldest first.
    pub async fn unfinished_applies(&self, host_id: &str, project_id: i64) -> Result<Vec<ApplyRow>> {
        let client = self.client().await?;
        let rows = client.query(include_str!("sql/apply_rows.sql"), &[&host_id, &project_id]).await?;
        Ok(rows.iter().map(apply).collect())
    }

    /// Names of the projects that have unfinished applies on this host.
    pub async fn projects_with_unfinished_applies(&self, host_id: &str) -> Result<Vec<String>> {
        let sql = "SELECT DISTINCT p.name FROM millhand.applies a JOIN millhand.projects p ON p.id = a.project_id \
                   WHERE a.host_id = $1 AND a.state IN ('begun', 'landed') ORDER BY p.name";
        let rows = self.client().await?.query(sql, &[&host_id]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Measures a session against another commit from now on.
    pub async fn move_base(&self, session_id: i64, worktree_id: i64, commit: &str) -> Result<()> {
        let sql = "WITH moved AS (UPDATE millhand.sessions SET base_commit = $3 WHERE id = $1) \
                   UPDATE millhand.worktrees SET base_commit = $3 WHERE id = $2";
        self.client().await?.execute(sql, &[&session_id, &worktree_id, &commit]).await?;
        Ok(())
    }

    /// Rejects pending files of a change set; none given: all. How many.
    pub async fn reject_changes(&self, change_set_id: i64, paths: Option<&[String]>, who: &str) -> Result<i64> {
        let sql = "SELECT millhand.reject_changes($1, $2, $3)";
        Ok(self.client().await?.query_one(sql, &[&change_set_id, &paths, &who]).await?.get(0))
    }
}
