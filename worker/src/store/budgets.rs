//! Budgets and prices: what may be spent, what was, and who has reached a limit.
//!
//! What is over is for the database to say (`over_budget()`, `budget_state`), by sums that it keeps itself: no worker has to know
//! what others spend.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Result, Store};
use crate::model::budget::{Gate, Limit};

/// A limit, and what was spent of it.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.budget_state, which schema.sql comments on")]
pub struct BudgetRow {
    pub project: Option<String>,
    pub per: String,
    #[serde(with = "rust_decimal::serde::float_option")]
    pub limit_usd: Option<Decimal>,
    pub limit_tokens: Option<i64>,
    #[serde(with = "rust_decimal::serde::float_option")]
    pub spent_usd: Option<Decimal>,
    pub spent_tokens: Option<i64>,
    pub unknown_steps: Option<i64>,
    pub is_over: bool,
    pub says: Option<String>,
}

/// What a model costs, in USD per million tokens.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.prices, which schema.sql comments on")]
pub struct PriceRow {
    pub model: String,
    #[serde(with = "rust_decimal::serde::float")]
    pub input: Decimal,
    #[serde(with = "rust_decimal::serde::float")]
    pub output: Decimal,
    #[serde(with = "rust_decimal::serde::float_option")]
    pub reasoning: Option<Decimal>,
    #[serde(with = "rust_decimal::serde::float_option")]
    pub cache_read: Option<Decimal>,
    #[serde(with = "rust_decimal::serde::float_option")]
    pub cache_write: Option<Decimal>,
    pub overrides: bool,
    pub set_at: Option<DateTime<Utc>>,
}

/// The limits of a scope, as far as the claim needs them.
pub(super) const GATE: &str = "SELECT per IN ('task', 'session'), project_id, is_over FROM millhand.limits_now()";

pub(super) fn gate(rows: &[Row]) -> Gate {
    Gate::new(
        rows.iter().map(|row| Limit { is_own: row.get(0), project_id: row.get(1), is_over: row.get(2) }).collect(),
    )
}

impl Store {
    /// Which limit a task has reached, in words; none if it may go on.
    pub async fn over_budget(&self, task_id: i64) -> Result<Option<String>> {
        let client = self.client().await?;
        let statement = client.prepare_cached("SELECT millhand.over_budget($1)").await?;
        Ok(client.query_one(&statement, &[&task_id]).await?.get(0))
    }

    /// Those of these leases whose tasks have reached a limit, with the limit in words; none if there are no limits at all.
    ///
    /// Without an answer in time it fails: nothing else may wait for it.
    pub async fn leases_over_budget(&self, tokens: &[Uuid], within: Duration) -> Result<Option<Vec<(Uuid, String)>>> {
        self.answered(within, self.leases_over_budget_once(tokens)).await
    }

    async fn leases_over_budget_once(&self, tokens: &[Uuid]) -> Result<Option<Vec<(Uuid, String)>>> {
        let client = self.client().await?;
        let any = client.prepare_cached("SELECT EXISTS (SELECT 1 FROM millhand.budgets)").await?;
        if !client.query_one(&any, &[]).await?.get::<_, bool>(0) {
            return Ok(None);
        }
        let sql = "SELECT l.token, o.says FROM millhand.leases l CROSS JOIN LATERAL (SELECT millhand.over_budget(l.task_id) AS says) o \
                   WHERE l.token = ANY ($1) AND o.says IS NOT NULL";
        let statement = client.prepare_cached(sql).await?;
        let rows = client.query(&statement, &[&tokens]).await?;
        Ok(Some(rows.iter().map(|row| (row.get(0), row.get(1))).collect()))
    }

    /// Has every worker look at once whether its turns have reached a limit.
    pub async fn announce_spending(&self) -> Result<()> {
        self.client().await?.batch_execute("NOTIFY tasks_cancel").await?;
        Ok(())
    }

    /// Blocks heads of these lanes that have reached a limit of their own or of their session, so that nobody claims them. Looks at up
    /// to so many of each lane, and returns how many it blocked.
    pub async fn block_over_budget(&self, lanes: &[String], at_most: usize) -> Result<u64> {
        let client = self.client().await?;
        // Written into the text, as the claim has it and for the same reason.
        let sql = include_str!("sql/block_over_budget.sql").replace("LIMIT $2", &format!("LIMIT {at_most}"));
        let statement = client.prepare_cached(&sql).await?;
        Ok(client.execute(&statement, &[&lanes]).await?)
    }

    /// Lets tasks go on that were blocked by a limit which holds them no more. Returns how many.
    pub async fn release_budget(&self) -> Result<i32> {
        let client = self.client().await?;
        let any = "SELECT EXISTS (SELECT 1 FROM millhand.tasks WHERE state = 'blocked' AND error_class = 'budget')";
        let statement = client.prepare_cached(any).await?;
        if !client.query_one(&statement, &[]).await?.get::<_, bool>(0) {
            return Ok(0);
        }
        let statement = client.prepare_cached("SELECT millhand.release_budget()").await?;
        Ok(client.query_one(&statement, &[]).await?.get(0))
    }

    /// The limits, and what was spent of them; of one project and all together, or all.
    pub async fn budgets(&self, project: Option<&str>) -> Result<Vec<BudgetRow>> {
        let sql = "SELECT project, per, limit_usd, limit_tokens, spent_usd, spent_tokens, unknown_steps, is_over, says \
                   FROM millhand.budget_state WHERE $1::text IS NULL OR project IS NULL OR project = $1";
        let rows = self.client().await?.query(sql, &[&project]).await?;
        Ok(rows
            .iter()
            .map(|row| BudgetRow {
                project: row.get(0),
                per: row.get(1),
                limit_usd: row.get(2),
                limit_tokens: row.get(3),
                spent_usd: row.get(4),
                spent_tokens: row.get(5),
                unknown_steps: row.get(6),
                is_over: row.get(7),
                says: row.get(8),
            })
            .collect())
    }

    /// Limits that are reached, with their project.
    pub async fn budgets_over(&self) -> Result<Vec<(Option<String>, String)>> {
        let client = self.client().await?;
        let sql = "SELECT project, says FROM millhand.limits_now() WHERE is_over";
        let statement = client.prepare_cached(sql).await?;
        let rows = client.query(&statement, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Sets a limit: each amount that is given, inner none for no limit. What is left without any limit is cleared.
    pub async fn set_budget(
        &self,
        project: Option<&str>,
        per: &str,
        usd: Option<Option<Decimal>>,
        tokens: Option<Option<i64>>,
    ) -> Result<()> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let found = "SELECT limit_usd, limit_tokens FROM millhand.budgets WHERE project IS NOT DISTINCT FROM $1 AND per = $2 FOR UPDATE";
        let before = transaction.query_opt(found, &[&project, &per]).await?;
        let was = before.as_ref().map_or((None, None), |row| (row.get(0), row.get(1)));
        let (usd, tokens): (Option<Decimal>, Option<i64>) = (usd.unwrap_or(was.0), tokens.unwrap_or(was.1));
        if usd.is_none() && tokens.is_none() {
            let clear = "DELETE FROM millhand.budgets WHERE project IS NOT DISTINCT FROM $1 AND per = $2";
            transaction.execute(clear, &[&project, &per]).await?;
        } else {
            let set = "INSERT INTO millhand.budgets (project, per, limit_usd, limit_tokens) VALUES ($1, $2, $3, $4) \
                       ON CONFLICT ON CONSTRAINT budgets_key DO UPDATE SET limit_usd = excluded.limit_usd, \
                       limit_tokens = excluded.limit_tokens, set_by = session_user, set_at = now()";
            transaction.execute(set, &[&project, &per, &usd, &tokens]).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Clears limits of a project, or of all together, of these kinds. Returns how many there were.
    pub async fn clear_budgets(&self, project: Option<&str>, per: &[&str]) -> Result<u64> {
        let sql = "DELETE FROM millhand.budgets WHERE project IS NOT DISTINCT FROM $1 AND per = ANY ($2)";
        Ok(self.client().await?.execute(sql, &[&project, &per]).await?)
    }

    /// All prices that were set.
    pub async fn prices(&self) -> Result<Vec<PriceRow>> {
        let sql = "SELECT model, input, output, reasoning, cache_read, cache_write, overrides, set_at FROM millhand.prices ORDER BY model";
        let rows = self.client().await?.query(sql, &[]).await?;
        Ok(rows
            .iter()
            .map(|row| PriceRow {
                model: row.get(0),
                input: row.get(1),
                output: row.get(2),
                reasoning: row.get(3),
                cache_read: row.get(4),
                cache_write: row.get(5),
                overrides: row.get(6),
                set_at: row.get(7),
            })
            .collect())
    }

    /// Sets a price, in place of one that there is.
    pub async fn set_price(&self, price: &PriceRow) -> Result<()> {
        let sql = "INSERT INTO millhand.prices (model, input, output, reasoning, cache_read, cache_write, overrides) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (model) DO UPDATE SET input = excluded.input, \
                   output = excluded.output, reasoning = excluded.reasoning, cache_read = excluded.cache_read, \
                   cache_write = excluded.cache_write, overrides = excluded.overrides, set_by = session_user, set_at = now()";
        self.client()
            .await?
            .execute(
                sql,
                &[
                    &price.model,
                    &price.input,
                    &price.output,
                    &price.reasoning,
                    &price.cache_read,
                    &price.cache_write,
                    &price.overrides,
                ],
            )
            .await?;
        Ok(())
    }

    /// Takes a price away; false if there was none.
    pub async fn clear_price(&self, model: &str) -> Result<bool> {
        let sql = "DELETE FROM millhand.prices WHERE model = $1";
        Ok(self.client().await?.execute(sql, &[&model]).await? > 0)
    }
}
