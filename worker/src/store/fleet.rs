//! What all hosts do at this moment.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::{Result, Store, seconds};
use crate::model::server::Running;

/// A turn that runs.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct RunningTurn {
    /// The task.
    pub task_id: i64,
    /// Its session.
    pub session_id: i64,
    /// Its project.
    pub project: String,
    /// What was asked.
    pub prompt: String,
    /// Which attempt it is.
    pub number: i32,
    /// The model, as far as it is known.
    pub model: Option<String>,
    /// The worker's machine.
    pub hostname: Option<String>,
    /// Since when.
    pub started_at: DateTime<Utc>,
    /// Tokens of the task so far.
    pub tokens: i64,
    /// What is known of its cost so far.
    #[serde(with = "rust_decimal::serde::float")]
    pub cost_usd: Decimal,
    /// Steps whose cost nobody knows.
    pub unknown_steps: i64,
    /// The last event of its transcript: kind, particulars, when.
    pub doing: Option<String>,
    #[expect(missing_docs, reason = "see `doing`")]
    pub doing_data: Option<Value>,
    #[expect(missing_docs, reason = "see `doing`")]
    pub doing_at: Option<DateTime<Utc>>,
    /// It is being cancelled.
    pub is_cancelled: bool,
    /// What it asks a person.
    pub asks: Option<String>,
}

/// A server of an agent, in a worker that was heard of lately.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ServerRow {
    /// The worker.
    pub worker_id: Uuid,
    /// Its host.
    pub host_id: String,
    /// The host's name.
    pub hostname: String,
    /// The agent.
    pub agent: String,
    /// The project that it serves; null: that was removed.
    pub project: Option<String>,
    /// Its process.
    pub pid: i64,
    /// Turns that run on it.
    pub turns: i64,
    /// Worktrees, and so sessions, that it has loaded.
    pub worktrees: i64,
    /// What its process occupies; null: not known.
    pub resident_bytes: Option<i64>,
    /// It takes no new turns, and ends when it is idle.
    pub is_leaving: bool,
    /// Since when the worker has it.
    pub started_at: DateTime<Utc>,
}

/// What waits, and what today has cost.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Waiting {
    /// Heads of their lines, which could run or wait for a time, a host or a budget.
    pub pending: i64,
    /// Behind another.
    pub waiting: i64,
    /// Items of the inbox.
    pub inbox: i64,
    /// What is known of today's cost (UTC).
    #[serde(with = "rust_decimal::serde::float")]
    pub today_usd: Decimal,
    /// Tokens of today (UTC).
    pub today_tokens: i64,
}

impl Store {
    /// Records which servers of agents run in a worker.
    pub async fn tell_servers(&self, worker: Uuid, servers: &[Running]) -> Result<()> {
        let sql = "UPDATE millhand.workers SET servers = $2 WHERE id = $1";
        self.client().await?.execute(sql, &[&worker, &Json(servers)]).await?;
        Ok(())
    }

    /// The servers of agents, of workers heard of within the window.
    pub async fn servers(&self, window: Duration) -> Result<Vec<ServerRow>> {
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/servers.sql")).await?;
        let rows = client.query(&statement, &[&seconds(window)]).await?;
        Ok(rows
            .iter()
            .map(|row| ServerRow {
                worker_id: row.get("worker_id"),
                host_id: row.get("host_id"),
                hostname: row.get("hostname"),
                agent: row.get("agent"),
                project: row.get("project"),
                pid: row.get("pid"),
                turns: row.get("turns"),
                worktrees: row.get("worktrees"),
                resident_bytes: row.get("resident_bytes"),
                is_leaving: row.get("is_leaving"),
                started_at: row.get("started_at"),
            })
            .collect())
    }

    /// The turns that run, longest first.
    pub async fn running_turns(&self, at_most: i64) -> Result<Vec<RunningTurn>> {
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/fleet_turns.sql")).await?;
        let rows = client.query(&statement, &[&at_most]).await?;
        Ok(rows
            .iter()
            .map(|row| RunningTurn {
                task_id: row.get("task_id"),
                session_id: row.get("session_id"),
                project: row.get("project"),
                prompt: row.get("prompt"),
                number: row.get("number"),
                model: row.get("model"),
                hostname: row.get("hostname"),
                started_at: row.get("started_at"),
                tokens: row.get("tokens"),
                cost_usd: row.get("cost_usd"),
                unknown_steps: row.get("unknown_steps"),
                doing: row.get("doing"),
                doing_data: row.get("doing_data"),
                doing_at: row.get("doing_at"),
                is_cancelled: row.get("is_cancelled"),
                asks: row.get("asks"),
            })
            .collect())
    }

    /// What waits, and what today has cost: nothing that is over is counted, so that it stays quick.
    pub async fn waiting(&self) -> Result<Waiting> {
        let sql = "SELECT (SELECT count(*) FROM millhand.tasks WHERE state = 'pending') AS pending, \
                   (SELECT count(*) FROM millhand.tasks WHERE state = 'waiting') AS waiting, \
                   (SELECT count(*) FROM millhand.inbox) AS inbox, s.cost, s.tokens \
                   FROM (SELECT coalesce(sum(cost_usd), 0) AS cost, coalesce(sum(input_tokens + output_tokens + reasoning_tokens \
                   + cache_read_tokens + cache_write_tokens), 0)::bigint AS tokens \
                   FROM millhand.spending WHERE day = (now() AT TIME ZONE 'UTC')::date) s";
        let client = self.client().await?;
        let statement = client.prepare_cached(sql).await?;
        let row = client.query_one(&statement, &[]).await?;
        Ok(Waiting {
            pending: row.get(0),
            waiting: row.get(1),
            inbox: row.get(2),
            today_usd: row.get(3),
            today_tokens: row.get(4),
        })
    }
}
