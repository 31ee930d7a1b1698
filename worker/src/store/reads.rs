//! What people read: tasks, sessions, projects, workers, the inbox.
//!
//! Rows are named and typed as the tables are, as `--json` and the API hand them on.

use std::{borrow::Cow, time::Duration};

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Result, Store, seconds};

/// A task, with what tells why it waits.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.tasks, which schema.sql comments on")]
pub struct TaskRow {
    pub id: i64,
    pub project: String,
    pub session_id: i64,
    pub chat_id: i64,
    pub prompt: String,
    pub agent: String,
    pub model: Option<String>,
    pub variant: Option<String>,
    pub state: String,
    pub priority: i32,
    pub run_at: DateTime<Utc>,
    pub attempts: i32,
    pub max_attempts: i32,
    pub infra_losses: i32,
    pub last_attempt: i32,
    pub idempotency_key: Option<String>,
    pub parent_task_id: Option<i64>,
    pub cancel_requested_at: Option<DateTime<Utc>>,
    pub dismissed_at: Option<DateTime<Utc>>,
    pub output_summary: Option<String>,
    pub error_class: Option<String>,
    pub error_message: Option<String>,
    pub tokens: i64,
    #[serde(with = "rust_decimal::serde::float")]
    pub cost_usd: Decimal,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub holds_line: bool,
    pub unknown_steps: i64,
    pub merge_commit: Option<String>,
    pub merge_branch: Option<String>,
    /// What its line and its host are.
    #[serde(skip)]
    pub place: TaskPlace,
}

/// Where a task stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskPlace {
    /// The only host that can run it; none: any.
    pub needs_host: Option<String>,
    /// The head of its line, if it waits behind one, and that one's state.
    pub head: Option<(i64, String)>,
    /// The failed task before it that holds the line.
    pub holder_id: Option<i64>,
    /// Until it may be claimed.
    pub due_in: Duration,
}

fn task(row: &Row) -> TaskRow {
    TaskRow {
        id: row.get("id"),
        project: row.get("project"),
        session_id: row.get("session_id"),
        chat_id: row.get("chat_id"),
        prompt: row.get("prompt"),
        agent: row.get("agent"),
        model: row.get("model"),
        variant: row.get("variant"),
        state: row.get("state"),
        priority: row.get("priority"),
        run_at: row.get("run_at"),
        attempts: row.get("attempts"),
        max_attempts: row.get("max_attempts"),
        infra_losses: row.get("infra_losses"),
        last_attempt: row.get("last_attempt"),
        idempotency_key: row.get("idempotency_key"),
        parent_task_id: row.get("parent_task_id"),
        cancel_requested_at: row.get("cancel_requested_at"),
        dismissed_at: row.get("dismissed_at"),
        output_summary: row.get("output_summary"),
        error_class: row.get("error_class"),
        error_message: row.get("error_message"),
        tokens: row.get("tokens"),
        cost_usd: row.get("cost_usd"),
        created_at: row.get("created_at"),
        started_at: row.get("started_at"),
        finished_at: row.get("finished_at"),
        holds_line: row.get("holds_line"),
        unknown_steps: row.get("unknown_steps"),
        merge_commit: row.get("merge_commit"),
        merge_branch: row.get("merge_branch"),
        place: TaskPlace {
            needs_host: row.get("needs_host"),
            head: row.get::<_, Option<i64>>("head_id").zip(row.get("head_state")),
            holder_id: row.get("holder_id"),
            due_in: Duration::try_from_secs_f64(row.get("due_in_seconds")).unwrap_or(Duration::ZERO),
        },
    }
}

/// Which tasks to list.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    /// Of this project only.
    pub project: Option<String>,
    /// Of this session only.
    pub session_id: Option<i64>,
    /// In these states only; empty: in all.
    pub states: Vec<String>,
    /// Older than this one only.
    pub before: Option<i64>,
}

/// Which sessions to list.
#[derive(Clone, Debug, Default)]
pub struct SessionFilter {
    /// Of this project only.
    pub project: Option<String>,
    /// In this state only.
    pub state: Option<String>,
    /// Older than this one only.
    pub before: Option<i64>,
}

/// A session, with the state of its line.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.sessions, which schema.sql comments on, and counts")]
pub struct SessionRow {
    pub id: i64,
    pub project: String,
    pub title: String,
    pub base_branch: Option<String>,
    pub base_commit: Option<String>,
    pub home_host: Option<String>,
    pub state: String,
    pub created_at: DateTime<Utc>,
    pub chats: i64,
    pub tasks: i64,
    pub open_tasks: i64,
    pub last_task_id: Option<i64>,
    #[serde(with = "rust_decimal::serde::float")]
    pub cost_usd: Decimal,
    pub unknown_steps: i64,
    pub pending_changes: i64,
    pub head_state: Option<String>,
    pub holder_id: Option<i64>,
}

fn session(row: &Row) -> SessionRow {
    SessionRow {
        id: row.get("id"),
        project: row.get("project"),
        title: row.get("title"),
        base_branch: row.get("base_branch"),
        base_commit: row.get("base_commit"),
        home_host: row.get("home_host"),
        state: row.get("state"),
        created_at: row.get("created_at"),
        chats: row.get("chats"),
        tasks: row.get("tasks"),
        open_tasks: row.get("open_tasks"),
        last_task_id: row.get("last_task_id"),
        cost_usd: row.get("cost_usd"),
        unknown_steps: row.get("unknown_steps"),
        pending_changes: row.get("pending_changes"),
        head_state: row.get("head_state"),
        holder_id: row.get("holder_id"),
    }
}

/// A worker that was heard of lately.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.workers, which schema.sql comments on, and a count")]
pub struct LiveWorker {
    pub id: Uuid,
    pub host_id: String,
    pub hostname: String,
    pub version: String,
    pub capacity: i32,
    pub draining: bool,
    pub started_at: DateTime<Utc>,
    pub heartbeat_at: DateTime<Utc>,
    pub counters: serde_json::Value,
    pub running: i64,
}

/// What a host can run.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.agents, which schema.sql comments on")]
pub struct AgentRow {
    pub host_id: String,
    pub agent: String,
    pub backend: String,
    pub installed: bool,
    pub version: Option<String>,
    pub problem: Option<String>,
    pub models: serde_json::Value,
    pub probed_at: DateTime<Utc>,
}

/// A task that needs a person.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.inbox, which schema.sql comments on")]
pub struct InboxRow {
    pub task_id: i64,
    pub project: String,
    pub session_id: i64,
    pub title: String,
    pub state: String,
    pub error_class: Option<String>,
    pub error_message: Option<String>,
    pub attempts: i32,
    pub infra_losses: i32,
    pub behind: i64,
    pub prompt: String,
    pub since: Option<DateTime<Utc>>,
    pub ask_id: Option<i64>,
    pub deadline_at: Option<DateTime<Utc>>,
}

/// Which items of the inbox are meant; left out: all.
#[derive(Clone, Debug, Default)]
pub struct InboxFilter {
    /// Of this project.
    pub project: Option<String>,
    /// With this reason.
    pub class: Option<String>,
    /// Behind this item.
    pub after: Option<InboxPlace>,
}

/// Where an item stands in the inbox: since when, its task, its ask (0: none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboxPlace {
    /// Since when it needs a person, if that is known.
    pub since: Option<DateTime<Utc>>,
    /// Its task.
    pub task_id: i64,
    /// Its ask; 0: none.
    pub ask_id: i64,
}

/// A list of a project's rows is read by the index that begins with the project. Postgres, which takes the project's rows to be spread evenly, would look
/// through all newer ones of other projects instead; in a range, unlike in an equality, the order by project asks for that index.
fn newest_of<'a>(sql: &'a str, table: &str, of_project: bool) -> Cow<'a, str> {
    match of_project {
        true => Cow::Owned(
            sql.replace(&format!("ORDER BY {table}id DESC"), &format!("ORDER BY {table}project DESC, {table}id DESC")),
        ),
        false => Cow::Borrowed(sql),
    }
}

impl Store {
    /// Tasks, newest first.
    pub async fn tasks(&self, filter: &TaskFilter, at_most: i64) -> Result<Vec<TaskRow>> {
        let states = (!filter.states.is_empty()).then_some(&filter.states);
        let client = self.client().await?;
        let rows = client
            .query(
                &*newest_of(include_str!("sql/task_rows.sql"), "t.", filter.project.is_some()),
                &[&None::<i64>, &filter.project, &filter.session_id, &states, &at_most, &filter.before],
            )
            .await?;
        Ok(rows.iter().map(task).collect())
    }

    /// One task.
    pub async fn task(&self, task_id: i64) -> Result<Option<TaskRow>> {
        let client = self.client().await?;
        // Prepared: it is asked again and again while a task is followed.
        let statement = client.prepare_cached(include_str!("sql/task_rows.sql")).await?;
        let none: (Option<&str>, Option<i64>, Option<Vec<String>>) = (None, None, None);
        let row = client.query_opt(&statement, &[&task_id, &none.0, &none.1, &none.2, &1_i64, &none.1]).await?;
        Ok(row.as_ref().map(task))
    }

    /// The newest task of a session.
    pub async fn latest_task_of_session(&self, session_id: i64) -> Result<Option<i64>> {
        let sql = "SELECT max(id) FROM millhand.tasks WHERE session_id = $1";
        Ok(self.client().await?.query_one(sql, &[&session_id]).await?.get(0))
    }

    /// The newest task of a chat, and the chat's session.
    pub async fn chat(&self, chat_id: i64) -> Result<Option<(i64, Option<i64>)>> {
        let sql = "SELECT c.session_id, (SELECT max(t.id) FROM millhand.tasks t WHERE t.chat_id = c.id) \
                   FROM millhand.chats c WHERE c.id = $1";
        Ok(self.client().await?.query_opt(sql, &[&chat_id]).await?.map(|row| (row.get(0), row.get(1))))
    }

    /// How many tasks of a line wait behind a task.
    pub async fn waiting_behind(&self, task_id: i64) -> Result<i64> {
        let sql = "SELECT count(*) FROM millhand.tasks t JOIN millhand.tasks b ON b.session_id = t.session_id \
                   WHERE t.id = $1 AND b.state = 'waiting' AND b.id > t.id";
        Ok(self.client().await?.query_one(sql, &[&task_id]).await?.get(0))
    }

    /// How many tasks are in each state, where any are; of those that are over, the ones of the last 24 hours: nobody waits for a count of
    /// all that ever was.
    pub async fn tasks_by_state(&self) -> Result<Vec<(String, i64)>> {
        let sql = include_str!("sql/tasks_by_state.sql");
        let rows = self.client().await?.query(sql, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Sessions, newest first.
    pub async fn sessions(&self, filter: &SessionFilter, at_most: i64) -> Result<Vec<SessionRow>> {
        let client = self.client().await?;
        let SessionFilter { project, state, before } = filter;
        let sql = newest_of(include_str!("sql/session_rows.sql"), "", project.is_some());
        let rows = client.query(&*sql, &[&None::<i64>, project, &at_most, before, state]).await?;
        Ok(rows.iter().map(session).collect())
    }

    /// One session.
    pub async fn session(&self, session_id: i64) -> Result<Option<SessionRow>> {
        let client = self.client().await?;
        let none: (Option<&str>, Option<i64>) = (None, None);
        let sql = include_str!("sql/session_rows.sql");
        let row = client.query_opt(sql, &[&session_id, &none.0, &1_i64, &none.1, &none.0]).await?;
        Ok(row.as_ref().map(session))
    }

    /// Workers heard of within the window.
    pub async fn live_workers(&self, window: Duration) -> Result<Vec<LiveWorker>> {
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/live_workers.sql")).await?;
        let rows = client.query(&statement, &[&seconds(window)]).await?;
        Ok(rows
            .iter()
            .map(|row| LiveWorker {
                id: row.get("id"),
                host_id: row.get("host_id"),
                hostname: row.get("hostname"),
                version: row.get("version"),
                capacity: row.get("capacity"),
                draining: row.get("draining"),
                started_at: row.get("started_at"),
                heartbeat_at: row.get("heartbeat_at"),
                counters: row.get("counters"),
                running: row.get("running"),
            })
            .collect())
    }

    /// What hosts can run.
    pub async fn agents(&self) -> Result<Vec<AgentRow>> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached(
                "SELECT host_id, agent, backend, installed, version, problem, models, probed_at FROM millhand.agents \
                 ORDER BY agent, host_id",
            )
            .await?;
        let rows = client.query(&statement, &[]).await?;
        Ok(rows
            .iter()
            .map(|row| AgentRow {
                host_id: row.get(0),
                agent: row.get(1),
                backend: row.get(2),
                installed: row.get(3),
                version: row.get(4),
                problem: row.get(5),
                models: row.get(6),
                probed_at: row.get(7),
            })
            .collect())
    }

    /// What needs a person, newest first.
    pub async fn inbox(&self, filter: &InboxFilter, at_most: i64) -> Result<Vec<InboxRow>> {
        let sql = "SELECT task_id, project, session_id, title, state, error_class, error_message, attempts, infra_losses, \
                   behind, prompt, since, ask_id, deadline_at FROM millhand.inbox \
                   WHERE ($2::text IS NULL OR project = $2) AND ($3::text IS NULL OR error_class = $3) \
                   AND ($5::bigint IS NULL OR (coalesce(since, '-infinity'), task_id, coalesce(ask_id, 0)) \
                        < (coalesce($4::timestamptz, '-infinity'), $5, $6::bigint)) \
                   ORDER BY since DESC NULLS LAST, task_id DESC, ask_id DESC NULLS LAST LIMIT $1";
        let after = filter.after;
        let (since, task) = (after.and_then(|place| place.since), after.map(|place| place.task_id));
        let ask = after.map_or(0, |place| place.ask_id);
        let rows =
            self.client().await?.query(sql, &[&at_most, &filter.project, &filter.class, &since, &task, &ask]).await?;
        Ok(rows
            .iter()
            .map(|row| InboxRow {
                task_id: row.get(0),
                project: row.get(1),
                session_id: row.get(2),
                title: row.get(3),
                state: row.get(4),
                error_class: row.get(5),
                error_message: row.get(6),
                attempts: row.get(7),
                infra_losses: row.get(8),
                behind: row.get(9),
                prompt: row.get(10),
                since: row.get(11),
                ask_id: row.get(12),
                deadline_at: row.get(13),
            })
            .collect())
    }
}
