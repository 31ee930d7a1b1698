//! Commands about what was spent and what may be.

use comfy_table::Cell;
use owo_colors::OwoColorize as _;
use rust_decimal::Decimal;
use serde_json::{Map, Value};

use super::{
    Context,
    args_costs::{Budget, BudgetCommand, Costs, Price},
    database,
    failure::{Exit, Failure, Outcome},
    screen::{dim, keep_whole},
    text::{cost, money, safe_line, tokens},
};
use crate::{
    actions::{self, BUDGETS_PER},
    store::{
        Store,
        budgets::{BudgetRow, PriceRow},
        costs::{CostBy, CostFilter, CostRow},
    },
};

/// `millhand stats`.
pub(super) async fn stats(context: &Context, arguments: Costs) -> Outcome {
    let store = database::open(context).await?;
    let by = arguments.by.into();
    let filter = CostFilter { since: arguments.since, project: arguments.project };
    let costs = actions::costs(&store, by, &filter, arguments.limit.into()).await?;
    for row in &costs.rows {
        // The first field is named as the view's first column is.
        let mut fields = Map::from_iter([(by.as_str().to_owned(), Value::from(row.of.as_str()))]);
        if let Value::Object(rest) = serde_json::to_value(row).map_err(std::io::Error::from)? {
            fields.extend(rest);
        }
        context.screen.object("cost", &fields)?;
    }
    context.screen.object("total", &costs.total)?;
    print_costs(context, &costs, by)?;
    Ok(Exit::Done)
}

/// A table of costs.
pub(super) fn print_costs(context: &Context, costs: &actions::Costs, by: CostBy) -> Outcome<()> {
    let screen = context.screen;
    if costs.rows.is_empty() {
        return Ok(screen.line("Nothing was paid yet.")?);
    }
    let head = by.as_str().to_uppercase();
    let mut table = screen.table(&[&head, "TASKS", "STEPS", "INPUT", "OUTPUT", "REASON", "CACHED", "WRITTEN", "COST"]);
    keep_whole(&mut table, &[1, 2, 3, 4, 5, 6, 7, 8]);
    for row in costs.rows.iter().chain((costs.rows.len() > 1).then_some(&costs.total)) {
        table.add_row(cells(row));
    }
    screen.print_table(&table)?;
    if costs.total.unknown_steps > 0 {
        let steps = costs.total.unknown_steps;
        screen.note(&format!(
            "{}",
            format!("Nobody knows what {steps} of the steps cost; say so with: millhand budget price").style(dim())
        ));
    }
    Ok(())
}

fn cells(row: &CostRow) -> Vec<String> {
    vec![
        safe_line(&row.of),
        row.tasks.to_string(),
        row.steps.to_string(),
        tokens(row.input_tokens),
        tokens(row.output_tokens),
        tokens(row.reasoning_tokens),
        tokens(row.cache_read_tokens),
        tokens(row.cache_write_tokens),
        cost(row.cost_usd, row.unknown_steps),
    ]
}

/// `millhand budget`.
pub(super) async fn budget(context: &Context, arguments: Budget) -> Outcome {
    let store = database::open(context).await?;
    match arguments.command {
        None => print_budgets(context, &actions::budgets(&store, arguments.project.as_deref()).await?),
        Some(BudgetCommand::Set(set)) => {
            let budgets = actions::set_budgets(&store, set.project.as_deref(), &set.limits()).await?;
            print_budgets(context, &budgets)
        }
        Some(BudgetCommand::Clear(clear)) => {
            let per = clear.per();
            let per = if per.is_empty() { BUDGETS_PER.to_vec() } else { per };
            let cleared = actions::clear_budgets(&store, clear.project.as_deref(), &per).await?;
            if cleared == 0 {
                return Err(Failure::usage("there is no such limit", "see: millhand budget"));
            }
            print_budgets(context, &actions::budgets(&store, None).await?)
        }
        Some(BudgetCommand::Price(price)) => self::price(context, &store, price).await,
    }
}

fn print_budgets(context: &Context, budgets: &[BudgetRow]) -> Outcome {
    let screen = context.screen;
    for budget in budgets {
        screen.object("budget", budget)?;
    }
    if budgets.is_empty() {
        screen.line("No limits. Set one: millhand budget set --day 20")?;
        return Ok(Exit::Done);
    }
    let mut table = screen.table(&["PROJECT", "PER", "LIMIT", "SPENT", "LEFT"]);
    for budget in budgets {
        for [limit, spent, left] in amounts(budget) {
            let project = budget.project.as_deref().map_or("(all)".to_owned(), safe_line);
            let per = match budget.per.as_str() {
                "day" => "day (UTC)".to_owned(),
                other => other.to_owned(),
            };
            table.add_row(vec![
                Cell::new(project),
                Cell::new(per),
                Cell::new(limit),
                Cell::new(spent),
                Cell::new(left),
            ]);
        }
    }
    keep_whole(&mut table, &[0, 1, 2, 3, 4]);
    screen.print_table(&table)?;
    for says in budgets.iter().filter_map(|budget| budget.says.as_deref()) {
        screen.note(&safe_line(says));
    }
    if budgets.iter().any(|budget| budget.limit_usd.is_some() && budget.unknown_steps.unwrap_or(0) > 0) {
        screen.warn(
            "some steps have no known cost, and limits in USD do not see them: limit tokens, or millhand budget price",
        );
    }
    Ok(Exit::Done)
}

/// Limit, spent, left: a line for USD and one for tokens, where there is such a limit. What was spent is known of what is shared.
fn amounts(budget: &BudgetRow) -> Vec<[String; 3]> {
    let each = || "each".to_owned();
    let usd = budget.limit_usd.map(|limit| {
        let left = budget.spent_usd.map(|spent| money((limit - spent).max(Decimal::ZERO)));
        let spent = budget.spent_usd.map(|spent| cost(spent, budget.unknown_steps.unwrap_or(0)));
        [money(limit), spent.unwrap_or_else(each), left.unwrap_or_default()]
    });
    let counted = budget.limit_tokens.map(|limit| {
        let left = budget.spent_tokens.map(|spent| tokens((limit - spent).max(0)));
        let spent = budget.spent_tokens.map(tokens);
        [format!("{} tokens", tokens(limit)), spent.unwrap_or_else(each), left.unwrap_or_default()]
    });
    usd.into_iter().chain(counted).collect()
}

async fn price(context: &Context, store: &Store, price: Price) -> Outcome {
    if let Some(model) = &price.clear {
        actions::clear_price(store, model).await?;
    }
    if let (Some(model), Some(input), Some(output)) = (price.model, price.input, price.output) {
        let row = PriceRow {
            model,
            input,
            output,
            reasoning: price.reasoning,
            cache_read: price.cache_read,
            cache_write: price.cache_write,
            overrides: price.overrides,
            set_at: None,
        };
        actions::set_price(store, &row).await?;
    }
    print_prices(context, &actions::prices(store).await?)
}

fn print_prices(context: &Context, prices: &[PriceRow]) -> Outcome {
    let screen = context.screen;
    for price in prices {
        screen.object("price", price)?;
    }
    if prices.is_empty() {
        screen.line("No prices were set: what the agents say counts, and what they do not say is unknown.")?;
        return Ok(Exit::Done);
    }
    let mut table = screen.table(&["MODEL", "INPUT", "OUTPUT", "REASON", "CACHED", "WRITTEN", "HOLDS"]);
    for price in prices {
        let or = |own: Option<Decimal>, other: Decimal| money(own.unwrap_or(other));
        table.add_row(vec![
            safe_line(&price.model),
            money(price.input),
            money(price.output),
            or(price.reasoning, price.output),
            or(price.cache_read, price.input),
            or(price.cache_write, price.input),
            if price.overrides { "always" } else { "where the agent names none" }.to_owned(),
        ]);
    }
    keep_whole(&mut table, &[0, 1, 2, 3, 4, 5]);
    screen.print_table(&table)?;
    screen.note(&format!("{}", "USD per million tokens, for steps from now on.".style(dim())));
    Ok(Exit::Done)
}
