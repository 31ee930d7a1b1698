//! What was paid for, and what may be: sums, limits, prices.

use chrono::{Days, NaiveDate};
use rust_decimal::Decimal;

use super::{ActionError, Result, project_named};
use crate::{
    model::budget::Amount,
    store::{
        Store,
        budgets::{BudgetRow, PriceRow},
        costs::{CostBy, CostFilter, CostRow},
    },
};

/// Tokens and cost by something, and all of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Costs {
    /// By what was asked for.
    pub rows: Vec<CostRow>,
    /// All, those that are not among the rows too.
    pub total: CostRow,
}

/// Tokens and cost, summed.
pub async fn costs(store: &Store, by: CostBy, filter: &CostFilter, at_most: i64) -> Result<Costs> {
    if let Some(project) = &filter.project
        && store.cost_in_total(filter).await?.steps == 0
    {
        // One that was removed may have costs; one that never was has none.
        project_named(store, project).await?;
    }
    Ok(Costs { rows: store.costs(by, filter, at_most).await?, total: store.cost_in_total(filter).await? })
}

/// The day from which costs are meant: `today`, `7d` (seven days ago), or the day itself, `2026-11-01`; UTC.
pub fn since(text: &str, today: NaiveDate) -> std::result::Result<NaiveDate, String> {
    const FORM: &str = "expected today, a number of days such as 7d, or a day such as 2026-11-01";
    if text == "today" {
        return Ok(today);
    }
    if let Some(days) = text.strip_suffix('d') {
        let days = days.parse().map_err(|_| FORM.to_owned())?;
        return today.checked_sub_days(Days::new(days)).ok_or_else(|| FORM.to_owned());
    }
    text.parse().map_err(|_| FORM.to_owned())
}

/// The limits, with what was spent of them; of a project (and all together), or all that there are.
pub async fn budgets(store: &Store, project: Option<&str>) -> Result<Vec<BudgetRow>> {
    if let Some(project) = project {
        project_named(store, project).await?;
    }
    Ok(store.budgets(project).await?)
}

/// What limits hold for: the words of the table.
pub const BUDGETS_PER: [&str; 4] = ["task", "session", "day", "total"];

/// Sets limits of a project, or of all; what is not named stays. `none` takes one away.
pub async fn set_budgets(store: &Store, project: Option<&str>, limits: &[(&str, Amount)]) -> Result<Vec<BudgetRow>> {
    if let Some(project) = project {
        project_named(store, project).await?;
    } else if limits.iter().any(|(per, _)| *per == "total") {
        return Err(ActionError::Refused {
            what: "a total is for one project".to_owned(),
            hint: Some("name it: --project NAME; for all projects together there is --day".to_owned()),
        });
    }
    for (per, amount) in limits {
        let (usd, tokens) = match amount {
            Amount::Usd(usd) => (Some(Some(*usd)), None),
            Amount::Tokens(tokens) => (None, Some(Some(*tokens))),
            Amount::None => (Some(None), Some(None)),
        };
        store.set_budget(project, per, usd, tokens).await?;
    }
    Ok(store.budgets(project).await?)
}

/// Takes limits away; returns how many.
pub async fn clear_budgets(store: &Store, project: Option<&str>, per: &[&str]) -> Result<u64> {
    if let Some(project) = project {
        project_named(store, project).await?;
    }
    Ok(store.clear_budgets(project, per).await?)
}

/// The prices that were set.
pub async fn prices(store: &Store) -> Result<Vec<PriceRow>> {
    Ok(store.prices().await?)
}

/// Sets what a model costs.
pub async fn set_price(store: &Store, price: &PriceRow) -> Result<()> {
    let is_amount = |price: Option<Decimal>| price.is_none_or(|price| !price.is_sign_negative() || price.is_zero());
    let all = [Some(price.input), Some(price.output), price.reasoning, price.cache_read, price.cache_write];
    let name = price.model.strip_suffix('*').unwrap_or(&price.model);
    if name.trim().is_empty() || name.contains('*') {
        let hint = "name one, or a beginning with a * at its end: 'ollama/*'".to_owned();
        return Err(ActionError::Refused { what: format!("\"{}\" names no model", price.model), hint: Some(hint) });
    }
    if !all.into_iter().all(is_amount) {
        return Err(ActionError::Refused { what: "a price is not less than nothing".to_owned(), hint: None });
    }
    Ok(store.set_price(price).await?)
}

/// Takes away what a model was said to cost.
pub async fn clear_price(store: &Store, model: &str) -> Result<()> {
    if store.clear_price(model).await? {
        return Ok(());
    }
    let hint = "see: millhand budget price".to_owned();
    Err(ActionError::NotFound { what: format!("there is no price for \"{model}\""), hint })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_asked_for_since_a_day() {
        let day = |text: &str| text.parse::<NaiveDate>().expect("day");
        let today = day("2026-11-21");
        for (text, wanted) in
            [("today", "2026-11-21"), ("7d", "2026-11-14"), ("0d", "2026-11-21"), ("2026-01-31", "2026-01-31")]
        {
            assert_eq!(since(text, today), Ok(day(wanted)), "{text}");
        }
        for wrong in ["", "d", "-1d", "yesterday", "2026-02-30", "99999999999999999d", "18446744073709551615d"] {
            assert!(since(wrong, today).is_err(), "{wrong}");
        }
    }
}
