//! What was paid, what may be, and what models cost.

use axum::{Json, extract::State};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    extract::{Answer, Asked, Body},
    page::{List, Page},
    problem::Problem,
};
use crate::{
    actions,
    model::budget::Amount,
    store::{
        budgets::{BudgetRow, PriceRow},
        costs::{CostBy, CostFilter, CostRow},
    },
};

/// What costs are summed by.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum By {
    /// The project, dearest first.
    Project,
    /// The agent, dearest first.
    Agent,
    /// The model, dearest first.
    Model,
    /// The day (UTC), newest first.
    Day,
    /// The session, newest first.
    Session,
    /// The task, newest first.
    Task,
}

impl From<By> for CostBy {
    fn from(by: By) -> Self {
        match by {
            By::Project => Self::Project,
            By::Agent => Self::Agent,
            By::Model => Self::Model,
            By::Day => Self::Day,
            By::Session => Self::Session,
            By::Task => Self::Task,
        }
    }
}

/// Which costs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CostsQuery {
    /// What they are summed by [default: project].
    #[param(inline)]
    by: Option<By>,
    /// From this day (UTC) on: today, a number of days such as 7d, or a day such as 2026-11-01.
    since: Option<String>,
    /// Only of this project.
    project: Option<String>,
    /// At most so many; 500 is the most.
    #[param(default = 50, minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

/// A line of costs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CostLine {
    /// The project, agent, model, day, session (s7) or task (t42).
    of: String,
    #[serde(flatten)]
    sums: CostRow,
}

/// Costs by something, and all of them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CostSums {
    /// By what was asked for.
    items: Vec<CostLine>,
    /// All, those that are not among the items too.
    total: CostRow,
}

/// Sum up what was paid.
#[utoipa::path(get, path = "/api/costs", tag = "costs", params(CostsQuery),
    responses((status = 200, description = "Costs", body = CostSums)))]
pub(super) async fn costs(State(api): State<Api>, Asked(asked): Asked<CostsQuery>) -> Answer<CostSums> {
    let page = Page::<i64>::new(asked.limit, None)?;
    let today = chrono::Utc::now().date_naive();
    let since = asked.since.map(|text| actions::since(&text, today)).transpose();
    let since = since.map_err(|form| Problem::bad(format!("since: {form}")))?;
    let filter = CostFilter { since, project: asked.project };
    let by = asked.by.unwrap_or(By::Project).into();
    let found = actions::costs(&api.store, by, &filter, page.rows() - 1).await?;
    let items = found.rows.into_iter().map(|sums| CostLine { of: sums.of.clone(), sums }).collect();
    Ok(Json(CostSums { items, total: found.total }))
}

/// Which limits.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BudgetsQuery {
    /// Of this project, and of all together.
    project: Option<String>,
}

/// List limits, with what was spent of them.
#[utoipa::path(get, path = "/api/budgets", tag = "costs", params(BudgetsQuery),
    responses((status = 200, description = "Limits", body = List<BudgetRow>)))]
pub(super) async fn budgets(State(api): State<Api>, Asked(asked): Asked<BudgetsQuery>) -> Answer<List<BudgetRow>> {
    Ok(Json(List::whole(actions::budgets(&api.store, asked.project.as_deref()).await?)))
}

/// List what models were said to cost, in USD per million tokens.
#[utoipa::path(get, path = "/api/prices", tag = "costs", responses((status = 200, description = "Prices", body = List<PriceRow>)))]
pub(super) async fn prices(State(api): State<Api>) -> Answer<List<PriceRow>> {
    Ok(Json(List::whole(actions::prices(&api.store).await?)))
}

/// Limits to set.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetsRequest {
    /// For this project; left out: for all together.
    project: Option<String>,
    /// The limits; what is not named stays.
    limits: Vec<LimitRequest>,
}

/// A limit to set.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitRequest {
    /// What it holds for: task, session, day or total.
    #[schema(example = "day")]
    per: String,
    /// USD such as "20" or "0.50", tokens such as "200ktok" or "2Mtok", or "none".
    #[schema(example = "20")]
    limit: String,
}

fn known_per(per: &str) -> Result<&str, Problem> {
    let known = actions::BUDGETS_PER;
    let found = known.contains(&per).then_some(per);
    found.ok_or_else(|| Problem::bad(format!("\"{per}\" is nothing that limits hold for: {}", known.join(", "))))
}

/// Set limits.
#[utoipa::path(put, path = "/api/budgets", tag = "costs", request_body = BudgetsRequest,
    responses((status = 200, description = "The limits as they are now", body = List<BudgetRow>)))]
pub(super) async fn set_budgets(State(api): State<Api>, Body(asked): Body<BudgetsRequest>) -> Answer<List<BudgetRow>> {
    let mut limits = Vec::new();
    for LimitRequest { per, limit } in &asked.limits {
        let amount: Amount = limit.parse().map_err(|form| Problem::bad(format!("limit: {form}")))?;
        limits.push((known_per(per)?, amount));
    }
    let rows = actions::set_budgets(&api.store, asked.project.as_deref(), &limits).await?;
    Ok(Json(List::whole(rows)))
}

/// Which limits to take away.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ClearBudgetsQuery {
    /// Of this project; left out: of all together.
    project: Option<String>,
    /// Only of this kind: task, session, day, total.
    per: Option<String>,
}

/// Take limits away.
#[utoipa::path(delete, path = "/api/budgets", tag = "costs", params(ClearBudgetsQuery),
    responses((status = 200, description = "The limits as they are now", body = List<BudgetRow>)))]
pub(super) async fn clear_budgets(
    State(api): State<Api>,
    Asked(asked): Asked<ClearBudgetsQuery>,
) -> Answer<List<BudgetRow>> {
    let per = match &asked.per {
        Some(per) => vec![known_per(per)?],
        None => actions::BUDGETS_PER.to_vec(),
    };
    if actions::clear_budgets(&api.store, asked.project.as_deref(), &per).await? == 0 {
        return Err(Problem::not_found("there is no such limit").hint("see: GET /api/budgets"));
    }
    Ok(Json(List::whole(actions::budgets(&api.store, None).await?)))
}

/// What a model costs, in USD per million tokens.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PriceRequest {
    /// The model, or the beginning of names with a * at its end.
    #[schema(example = "ollama/*")]
    model: String,
    /// Input.
    #[serde(with = "rust_decimal::serde::float")]
    input: Decimal,
    /// Output.
    #[serde(with = "rust_decimal::serde::float")]
    output: Decimal,
    /// Reasoning; left out: as output.
    #[serde(default, with = "rust_decimal::serde::float_option")]
    reasoning: Option<Decimal>,
    /// Read from the cache; left out: as input.
    #[serde(default, with = "rust_decimal::serde::float_option")]
    cache_read: Option<Decimal>,
    /// Written to the cache; left out: as input.
    #[serde(default, with = "rust_decimal::serde::float_option")]
    cache_write: Option<Decimal>,
    /// In place of what the agent says, too.
    #[serde(default)]
    overrides: bool,
}

/// Say what a model costs, for steps from now on.
#[utoipa::path(put, path = "/api/prices", tag = "costs", request_body = PriceRequest,
    responses((status = 200, description = "All prices", body = List<PriceRow>)))]
pub(super) async fn set_price(State(api): State<Api>, Body(asked): Body<PriceRequest>) -> Answer<List<PriceRow>> {
    let PriceRequest { model, input, output, reasoning, cache_read, cache_write, overrides } = asked;
    let price = PriceRow { model, input, output, reasoning, cache_read, cache_write, overrides, set_at: None };
    actions::set_price(&api.store, &price).await?;
    Ok(Json(List::whole(actions::prices(&api.store).await?)))
}

/// Which price.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PriceQuery {
    /// The model, as it was named.
    model: String,
}

/// Take away what a model was said to cost.
#[utoipa::path(delete, path = "/api/prices", tag = "costs", params(PriceQuery),
    responses((status = 200, description = "All prices", body = List<PriceRow>)))]
pub(super) async fn clear_price(State(api): State<Api>, Asked(asked): Asked<PriceQuery>) -> Answer<List<PriceRow>> {
    actions::clear_price(&api.store, &asked.model).await?;
    Ok(Json(List::whole(actions::prices(&api.store).await?)))
}
