//! What was paid: sums of `spending`, which the database keeps as steps are recorded, so that they are quick however many steps there are.

use chrono::NaiveDate;
use rust_decimal::Decimal;
use serde::Serialize;
use tokio_postgres::Row;

use super::{Result, Store};

/// What costs are summed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CostBy {
    /// The project.
    Project,
    /// The agent.
    Agent,
    /// The model.
    Model,
    /// The day, UTC.
    Day,
    /// The session: the newest.
    Session,
    /// The task: the newest.
    Task,
}

impl CostBy {
    /// Name of the column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Agent => "agent",
            Self::Model => "model",
            Self::Day => "day",
            Self::Session => "session",
            Self::Task => "task",
        }
    }
}

/// Which costs are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CostFilter {
    /// From this day (UTC) on.
    pub since: Option<NaiveDate>,
    /// Of this project.
    pub project: Option<String>,
}

/// A line of costs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.spending, which schema.sql comments on")]
pub struct CostRow {
    /// The project, agent, model, day, session or task.
    #[serde(skip)]
    pub of: String,
    pub tasks: i64,
    pub steps: i64,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub reasoning_tokens: i64,
    pub cache_read_tokens: i64,
    pub cache_write_tokens: i64,
    #[serde(with = "rust_decimal::serde::float")]
    pub cost_usd: Decimal,
    pub unknown_steps: i64,
}

fn cost(row: &Row) -> CostRow {
    CostRow {
        of: row.get("of"),
        tasks: row.get("tasks"),
        steps: row.get("steps"),
        input_tokens: row.get("input_tokens"),
        output_tokens: row.get("output_tokens"),
        reasoning_tokens: row.get("reasoning_tokens"),
        cache_read_tokens: row.get("cache_read_tokens"),
        cache_write_tokens: row.get("cache_write_tokens"),
        cost_usd: row.get("cost_usd"),
        unknown_steps: row.get("unknown_steps"),
    }
}

/// The sums over the rows of `spending` that are meant.
const SUMS: &str = "coalesce(sum(tasks), 0)::bigint AS tasks, coalesce(sum(steps), 0)::bigint AS steps, \
    coalesce(sum(input_tokens), 0)::bigint AS input_tokens, coalesce(sum(output_tokens), 0)::bigint AS output_tokens, \
    coalesce(sum(reasoning_tokens), 0)::bigint AS reasoning_tokens, \
    coalesce(sum(cache_read_tokens), 0)::bigint AS cache_read_tokens, \
    coalesce(sum(cache_write_tokens), 0)::bigint AS cache_write_tokens, coalesce(sum(cost_usd), 0) AS cost_usd, \
    coalesce(sum(unknown_steps), 0)::bigint AS unknown_steps \
    FROM millhand.spending WHERE ($1::date IS NULL OR day >= $1) AND ($2::text IS NULL OR project = $2)";

impl Store {
    /// What was paid, by project, agent or model (dearest first), or by day, session or task (newest first; at most so many).
    pub async fn costs(&self, by: CostBy, filter: &CostFilter, at_most: i64) -> Result<Vec<CostRow>> {
        let (since, project) = (&filter.since, &filter.project);
        let client = self.client().await?;
        let rows = match by {
            CostBy::Session => {
                client.query(include_str!("sql/cost_of_sessions.sql"), &[since, project, &at_most]).await?
            }
            CostBy::Task => client.query(include_str!("sql/cost_of_tasks.sql"), &[since, project, &at_most]).await?,
            CostBy::Project | CostBy::Agent | CostBy::Model | CostBy::Day => {
                // The column's name comes from a closed set, not from a person.
                let column = by.as_str();
                let order = if by == CostBy::Day { "1 DESC" } else { "sum(cost_usd) DESC, 1" };
                let sql = format!("SELECT {column}::text AS of, {SUMS} GROUP BY {column} ORDER BY {order} LIMIT $3");
                client.query(&sql, &[since, project, &at_most]).await?
            }
        };
        Ok(rows.iter().map(cost).collect())
    }

    /// All that was paid, in one line.
    pub async fn cost_in_total(&self, filter: &CostFilter) -> Result<CostRow> {
        let sql = format!("SELECT 'total' AS of, {SUMS}");
        Ok(cost(&self.client().await?.query_one(&sql, &[&filter.since, &filter.project]).await?))
    }
}
