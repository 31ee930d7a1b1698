//! Checks of what turns changed: asked for with the change set, run once, their result written under the token of who runs them.

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Result, Store, without_nul};
use crate::model::check::{MOST_TRIES, Recorded};

/// A check that a project has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.checks, which schema.sql comments on")]
pub struct CheckRow {
    pub id: i64,
    pub project: String,
    pub name: String,
    pub command: String,
    pub limit_seconds: Option<i32>,
    pub created_at: DateTime<Utc>,
}

/// What a check said of a change set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.check_runs, which schema.sql comments on")]
pub struct CheckRunRow {
    pub id: i64,
    pub change_set_id: i64,
    pub name: String,
    pub command: String,
    pub state: String,
    pub host_id: Option<String>,
    pub tries: i32,
    pub exit_code: Option<i32>,
    pub problem: Option<String>,
    pub output: Option<String>,
    pub duration_ms: Option<i64>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// The task that sent it back to the agent.
    pub sent_as: Option<i64>,
}

fn check_run(row: &Row) -> CheckRunRow {
    CheckRunRow {
        id: row.get("id"),
        change_set_id: row.get("change_set_id"),
        name: row.get("name"),
        command: row.get("command"),
        state: row.get("state"),
        host_id: row.get("host_id"),
        tries: row.get("tries"),
        exit_code: row.get("exit_code"),
        problem: row.get("problem"),
        output: row.get("output"),
        duration_ms: row.get("duration_ms"),
        created_at: row.get("created_at"),
        started_at: row.get("started_at"),
        ended_at: row.get("ended_at"),
        sent_as: row.get("sent_as"),
    }
}

/// A change set with checks that this host is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unchecked {
    /// The change set.
    pub change_set_id: i64,
    /// Its session.
    pub session_id: i64,
    /// Key of the project.
    pub project_id: i64,
    /// What the turn left.
    pub tree_id: String,
    /// What it is measured against.
    pub base_commit: String,
    /// The branch that this is on.
    pub base_branch: Option<String>,
    /// Variables of the worker's environment that its project's commands may see.
    pub env_pass: Vec<String>,
}

/// A check that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BegunCheck {
    /// Key of the run.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// The command.
    pub command: String,
    /// How long it may take; none: as the host says.
    pub limit_seconds: Option<i32>,
}

/// A change set whose failed checks go back to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feedback {
    /// The change set.
    pub change_set_id: i64,
    /// How many times in a row that makes.
    pub round: i32,
    /// How many the project allows.
    pub at_most: i32,
}

impl Store {
    /// Adds a check, or changes the one of this name.
    pub async fn add_check(
        &self,
        project: &str,
        name: &str,
        command: &str,
        limit_seconds: Option<i32>,
        who: &str,
    ) -> Result<CheckRow> {
        let sql = "WITH noted AS (INSERT INTO millhand.audit_log (action, project, details) \
                       VALUES ('add_check', $1, jsonb_build_object('name', $2::text, 'command', $3::text, 'by', $5::text))) \
                   INSERT INTO millhand.checks (project, name, command, limit_seconds) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (project, name) DO UPDATE SET command = excluded.command, limit_seconds = excluded.limit_seconds \
                   RETURNING *";
        let row = self.client().await?.query_one(sql, &[&project, &name, &command, &limit_seconds, &who]).await?;
        Ok(check(&row))
    }

    /// Removes a check; what it said of change sets stays. False if there is none of this name.
    pub async fn remove_check(&self, project: &str, name: &str, who: &str) -> Result<bool> {
        let sql = "WITH gone AS (DELETE FROM millhand.checks WHERE project = $1 AND name = $2 RETURNING name) \
                   INSERT INTO millhand.audit_log (action, project, details) \
                   SELECT 'remove_check', $1, jsonb_build_object('name', name, 'by', $3::text) FROM gone";
        Ok(self.client().await?.execute(sql, &[&project, &name, &who]).await? > 0)
    }

    /// The checks of a project, or of all, in order.
    pub async fn checks(&self, project: Option<&str>) -> Result<Vec<CheckRow>> {
        let sql = "SELECT * FROM millhand.checks WHERE $1::text IS NULL OR project = $1 ORDER BY project, id";
        Ok(self.client().await?.query(sql, &[&project]).await?.iter().map(check).collect())
    }

    /// What the checks said of a change set, in order.
    pub async fn check_runs(&self, change_set_id: i64) -> Result<Vec<CheckRunRow>> {
        let sql = "SELECT r.*, CASE WHEN r.state IN ('failed', 'timed_out') THEN f.task_id END AS sent_as \
                   FROM millhand.check_runs r LEFT JOIN millhand.check_feedback f ON f.change_set_id = r.change_set_id \
                   WHERE r.change_set_id = $1 ORDER BY r.id";
        Ok(self.client().await?.query(sql, &[&change_set_id]).await?.iter().map(check_run).collect())
    }

    /// Has an open change set checked again, by the checks that its project has now. How many; none: it is not open any more.
    pub async fn ask_for_checks(&self, change_set_id: i64) -> Result<Option<u64>> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let sql = "SELECT s.project FROM millhand.change_sets c JOIN millhand.sessions s ON s.id = c.session_id \
                   WHERE c.id = $1 AND c.state = 'open' FOR UPDATE OF c";
        let Some(row) = transaction.query_opt(sql, &[&change_set_id]).await? else { return Ok(None) };
        let project: String = row.get(0);
        let sql = "INSERT INTO millhand.check_runs AS r (change_set_id, name, command, limit_seconds) \
                   SELECT $1, name, command, limit_seconds FROM millhand.checks WHERE project = $2 ORDER BY id \
                   ON CONFLICT (change_set_id, name) DO UPDATE SET command = excluded.command, \
                   limit_seconds = excluded.limit_seconds, state = 'pending', token = NULL, host_id = NULL, tries = 0, \
                   exit_code = NULL, problem = NULL, output = NULL, duration_ms = NULL, created_at = now(), started_at = NULL, \
                   ended_at = NULL WHERE r.state NOT IN ('pending', 'running')";
        let asked = transaction.execute(sql, &[&change_set_id, &project]).await?;
        transaction.commit().await?;
        Ok(Some(asked))
    }

    /// Gives back what an earlier worker of this host had begun, or this one has lost sight of: `held` are the tokens of what it runs.
    /// What was begun too often has failed.
    pub async fn release_checks(&self, host_id: &str, held: &[Uuid]) -> Result<u64> {
        let sql = "UPDATE millhand.check_runs SET token = NULL, \
                   state = CASE WHEN tries < $3 THEN 'pending' ELSE 'error' END, \
                   ended_at = CASE WHEN tries < $3 THEN NULL ELSE clock_timestamp() END, \
                   problem = CASE WHEN tries >= $3 THEN 'its worker died while it ran, ' || tries || ' times' END \
                   WHERE state = 'running' AND host_id = $1 AND token <> ALL ($2)";
        Ok(self.client().await?.execute(sql, &[&host_id, &held, &MOST_TRIES]).await?)
    }

    /// Settles checks that nobody needs any more: their change set was superseded or decided, or its session is gone.
    pub async fn skip_checks(&self) -> Result<u64> {
        let sql = "UPDATE millhand.check_runs r SET state = 'skipped', ended_at = clock_timestamp() FROM millhand.change_sets c \
                   WHERE r.state = 'pending' AND c.id = r.change_set_id AND (c.state <> 'open' OR c.session_id IS NULL)";
        Ok(self.client().await?.execute(sql, &[]).await?)
    }

    /// Change sets of sessions of this host that have checks to run, oldest first, without these. A session that has come here from another
    /// host brings what was begun there.
    pub async fn unchecked(&self, host_id: &str, without: &[i64], at_most: i64) -> Result<Vec<Unchecked>> {
        let sql = "SELECT c.id, s.id AS session_id, p.id AS project_id, c.tree_id, c.base_commit, s.base_branch, p.env_pass \
                   FROM (SELECT DISTINCT change_set_id FROM millhand.check_runs \
                         WHERE state = 'pending' OR (state = 'running' AND host_id <> $1)) r \
                   JOIN millhand.change_sets c ON c.id = r.change_set_id AND c.state = 'open' AND c.id <> ALL ($2) \
                   JOIN millhand.sessions s ON s.id = c.session_id AND s.home_host = $1 \
                   JOIN millhand.projects p ON p.name = s.project ORDER BY c.id LIMIT $3";
        let rows = self.client().await?.query(sql, &[&host_id, &without, &at_most]).await?;
        Ok(rows
            .iter()
            .map(|row| Unchecked {
                change_set_id: row.get("id"),
                session_id: row.get("session_id"),
                project_id: row.get("project_id"),
                tree_id: row.get("tree_id"),
                base_commit: row.get("base_commit"),
                base_branch: row.get("base_branch"),
                env_pass: row.get("env_pass"),
            })
            .collect())
    }

    /// Begins the next check of a change set, under this token. None: there is none to begin here.
    pub async fn begin_check(&self, change_set_id: i64, host_id: &str, token: Uuid) -> Result<Option<BegunCheck>> {
        let sql = "UPDATE millhand.check_runs SET state = 'running', host_id = $2, token = $3, tries = tries + 1, \
                   started_at = clock_timestamp() \
                   WHERE id = (SELECT r.id FROM millhand.check_runs r \
                       JOIN millhand.change_sets c ON c.id = r.change_set_id AND c.state = 'open' \
                       JOIN millhand.sessions s ON s.id = c.session_id AND s.home_host = $2 \
                       WHERE r.change_set_id = $1 AND (r.state = 'pending' OR (r.state = 'running' AND r.host_id <> $2)) \
                       ORDER BY r.id LIMIT 1 FOR UPDATE OF r SKIP LOCKED) \
                   RETURNING id, name, command, limit_seconds";
        let row = self.client().await?.query_opt(sql, &[&change_set_id, &host_id, &token]).await?;
        Ok(row.map(|row| BegunCheck {
            id: row.get("id"),
            name: row.get("name"),
            command: row.get("command"),
            limit_seconds: row.get("limit_seconds"),
        }))
    }

    /// Records what a check said, once. False: somebody else has it.
    pub async fn finish_check(&self, id: i64, token: Uuid, recorded: &Recorded) -> Result<bool> {
        let sql = "UPDATE millhand.check_runs SET state = $3, exit_code = $4, problem = $5, output = $6, duration_ms = $7, \
                   ended_at = clock_timestamp() WHERE id = $1 AND token = $2 AND state = 'running'";
        let Recorded { state, exit_code, problem, output, took } = recorded;
        let took = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
        let output = without_nul(output);
        let problem = problem.as_deref().map(without_nul);
        let changed = self
            .client()
            .await?
            .execute(sql, &[&id, &token, state, exit_code, &problem.as_deref(), &output.as_ref(), &took])
            .await?;
        Ok(changed > 0)
    }

    /// Puts a check back that was stopped before its end.
    pub async fn hand_back_check(&self, id: i64, token: Uuid) -> Result<()> {
        let sql = "UPDATE millhand.check_runs SET state = 'pending', token = NULL, tries = tries - 1 \
                   WHERE id = $1 AND token = $2 AND state = 'running'";
        self.client().await?.execute(sql, &[&id, &token]).await?;
        Ok(())
    }

    /// Change sets of this host whose checks are over, failed, and go back to the agent.
    pub async fn due_feedback(&self, host_id: &str, at_most: i64) -> Result<Vec<Feedback>> {
        let rows = self.client().await?.query(include_str!("sql/due_feedback.sql"), &[&host_id, &at_most]).await?;
        Ok(rows
            .iter()
            .map(|row| Feedback {
                change_set_id: row.get("change_set_id"),
                round: row.get("round"),
                at_most: row.get("at_most"),
            })
            .collect())
    }

    /// Queues the prompt that sends failed checks back, once per change set, unless something else has come of it. The task.
    pub async fn send_feedback(&self, feedback: &Feedback, prompt: &str) -> Result<Option<i64>> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let sql = "SELECT FROM millhand.change_sets WHERE id = $1 AND state = 'open' FOR UPDATE";
        if transaction.query_opt(sql, &[&feedback.change_set_id]).await?.is_none() {
            return Ok(None);
        }
        let sql = "INSERT INTO millhand.check_feedback (change_set_id, round) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        if transaction.execute(sql, &[&feedback.change_set_id, &feedback.round]).await? == 0 {
            return Ok(None);
        }
        let key = format!("checks-c{}", feedback.change_set_id);
        let sql = "INSERT INTO millhand.tasks (session_id, chat_id, prompt, agent, model, variant, priority, parent_task_id, \
                       idempotency_key) \
                   SELECT t.session_id, t.chat_id, $2, t.agent, t.model, t.variant, t.priority, t.id, $3 \
                   FROM millhand.change_sets c JOIN millhand.tasks t ON t.id = c.task_id WHERE c.id = $1 RETURNING id";
        let prompt = without_nul(prompt);
        let row = transaction.query_opt(sql, &[&feedback.change_set_id, &prompt.as_ref(), &key]).await?;
        let Some(task) = row.map(|row| row.get::<_, i64>(0)) else { return Ok(None) };
        let sql = "UPDATE millhand.check_feedback SET task_id = $2 WHERE change_set_id = $1";
        transaction.execute(sql, &[&feedback.change_set_id, &task]).await?;
        transaction.commit().await?;
        Ok(Some(task))
    }
}

fn check(row: &Row) -> CheckRow {
    CheckRow {
        id: row.get("id"),
        project: row.get("project"),
        name: row.get("name"),
        command: row.get("command"),
        limit_seconds: row.get("limit_seconds"),
        created_at: row.get("created_at"),
    }
}
