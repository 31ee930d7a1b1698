//! The command line's words about what was spent and what may be.

use chrono::NaiveDate;
use clap::{Args, Subcommand, ValueEnum};
use rust_decimal::Decimal;

use crate::{model::budget::Amount, store::costs::CostBy};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  millhand stats                          per project
  millhand stats --by model --since 7d
  millhand stats --by day --project acme
  millhand stats --by task -n 10 --json

Days are UTC. A task counts where its first step does. Where a cost is unknown, nobody has told the
price: millhand budget price."
)]
pub(super) struct Stats {
    #[command(subcommand)]
    pub(super) command: Option<StatsCommand>,
    #[command(flatten)]
    pub(super) costs: Costs,
}

#[derive(Debug, Subcommand)]
pub(super) enum StatsCommand {
    /// The same
    #[command(after_help = "Examples:\n  millhand stats costs --by model\n  millhand stats costs --by day --json")]
    Costs(Costs),
}

#[derive(Debug, Args)]
pub(super) struct Costs {
    /// What to sum by
    #[arg(long, value_name = "WHAT", default_value = "project")]
    pub(super) by: By,
    /// From this day on: today, 7d (seven days ago), 2026-11-01
    #[arg(long, value_name = "DAY", value_parser = parse_since)]
    pub(super) since: Option<NaiveDate>,
    /// Only of this project
    #[arg(long, short, value_name = "NAME")]
    pub(super) project: Option<String>,
    /// At most so many; the total is of all
    #[arg(long, short = 'n', value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
}

fn parse_since(text: &str) -> Result<NaiveDate, String> {
    crate::actions::since(text, chrono::Utc::now().date_naive())
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum By {
    Project,
    Agent,
    Model,
    /// UTC
    Day,
    /// The newest
    Session,
    /// The newest
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

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  millhand budget                                           limits, spent, left
  millhand budget set --day 20                              all projects together, each day (UTC)
  millhand budget set --project acme --day 5 --task 0.50
  millhand budget set --project acme --session 2Mtok        in tokens; or none
  millhand budget set --day 0                               nothing runs until it is raised
  millhand budget clear --project acme
  millhand budget price 'ollama/*' 0 0                      USD per million tokens

What has reached a limit is not begun, and turns that reach one are stopped with their work kept.
They go on by themselves when the limit is raised, or on the next day."
)]
pub(super) struct Budget {
    #[command(subcommand)]
    pub(super) command: Option<BudgetCommand>,
    /// Only of this project, and of all together
    #[arg(long, short, value_name = "NAME")]
    pub(super) project: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum BudgetCommand {
    /// Set limits; those that are not named stay
    Set(BudgetSet),
    /// Take limits away
    Clear(BudgetClear),
    /// Say what a model costs, where its agent does not; without one, list the prices
    Price(Price),
}

/// An amount: 5 or 0.50 (USD), 200ktok or 2Mtok (tokens), none. Twice for both.
#[derive(Debug, Args)]
pub(super) struct BudgetSet {
    /// Project [default: all; for a task or session, those of projects without such a limit]
    #[arg(long, short, value_name = "NAME")]
    pub(super) project: Option<String>,
    /// What each task may cost, all its attempts together
    #[arg(long, value_name = "AMOUNT", required_unless_present_any = ["session", "day", "total"])]
    pub(super) task: Vec<Amount>,
    /// What each session may cost
    #[arg(long, value_name = "AMOUNT")]
    pub(super) session: Vec<Amount>,
    /// What may be spent a day (UTC)
    #[arg(long, value_name = "AMOUNT")]
    pub(super) day: Vec<Amount>,
    /// What the project may cost altogether
    #[arg(long, value_name = "AMOUNT")]
    pub(super) total: Vec<Amount>,
}

impl BudgetSet {
    /// What is to be set.
    pub(super) fn limits(&self) -> Vec<(&'static str, Amount)> {
        let named = [("task", &self.task), ("session", &self.session), ("day", &self.day), ("total", &self.total)];
        named.into_iter().flat_map(|(per, amounts)| amounts.iter().map(move |amount| (per, *amount))).collect()
    }
}

#[derive(Debug, Args)]
pub(super) struct BudgetClear {
    /// Project [default: the limits of all]
    #[arg(long, short, value_name = "NAME")]
    pub(super) project: Option<String>,
    /// Only the limit of a task
    #[arg(long)]
    pub(super) task: bool,
    /// Only the limit of a session
    #[arg(long)]
    pub(super) session: bool,
    /// Only the limit of a day
    #[arg(long)]
    pub(super) day: bool,
    /// Only the limit of the project
    #[arg(long)]
    pub(super) total: bool,
}

impl BudgetClear {
    /// What is to be cleared: what is named, else all.
    pub(super) fn per(&self) -> Vec<&'static str> {
        let named = [("task", self.task), ("session", self.session), ("day", self.day), ("total", self.total)];
        let all = named.iter().all(|(_, is_named)| !is_named);
        named.into_iter().filter(|(_, is_named)| *is_named || all).map(|(per, _)| per).collect()
    }
}

/// USD per million tokens.
#[derive(Debug, Args)]
pub(super) struct Price {
    /// provider/model; with a * at the end all that begin so
    #[arg(value_name = "MODEL", requires = "input")]
    pub(super) model: Option<String>,
    /// Input that was not cached
    #[arg(value_name = "INPUT", requires = "output")]
    pub(super) input: Option<Decimal>,
    /// Output
    #[arg(value_name = "OUTPUT")]
    pub(super) output: Option<Decimal>,
    /// Reasoning [default: as output]
    #[arg(long, value_name = "USD", requires = "output")]
    pub(super) reasoning: Option<Decimal>,
    /// Input read from the cache [default: as input]
    #[arg(long, value_name = "USD", requires = "output")]
    pub(super) cache_read: Option<Decimal>,
    /// Input written to the cache [default: as input]
    #[arg(long, value_name = "USD", requires = "output")]
    pub(super) cache_write: Option<Decimal>,
    /// Also where the agent says what a step cost
    #[arg(long = "override", requires = "output")]
    pub(super) overrides: bool,
    /// Take the price of this model away
    #[arg(long, value_name = "MODEL", conflicts_with = "model")]
    pub(super) clear: Option<String>,
}
