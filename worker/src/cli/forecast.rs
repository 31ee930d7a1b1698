//! `millhand forecast`, and its line in a review.

use clap::Args;
use comfy_table::Cell;
use owo_colors::OwoColorize as _;

use super::{
    Context,
    apply::applier,
    database,
    failure::{Exit, Outcome},
    screen::{dim, green, keep_whole, yellow},
    text::{count, safe_line, short},
};
use crate::{
    actions::{self, ActionError, Applier},
    model::ids::{SessionId, TaskId},
    store::forecasts::{ForecastRow, OtherRow},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand forecast                    what waits, in an order that applies without a conflict
  millhand forecast --project acme
  millhand send s7 --conflicts         has the agent resolve what conflicts with the branch

Workers keep this current by themselves, and reviews show it; this command looks again first.")]
pub(super) struct Forecast {
    /// Only this project
    #[arg(long, short, value_name = "NAME")]
    pub(super) project: Option<String>,
}

/// `millhand forecast`.
pub(super) async fn forecast(context: &Context, arguments: Forecast) -> Outcome {
    let database = database::open(context).await?;
    let applier = applier(context, &database).await?;
    let projects = match &arguments.project {
        Some(name) => vec![actions::project_named(&database.store, name).await?.name],
        None => database.store.projects_to_forecast(&applier.host_id).await?,
    };
    let progress = context.screen.progress("merging");
    for project in &projects {
        if let Err(error) = look_again(&applier, project).await {
            if matches!(error, ActionError::Store(_)) {
                return Err(error.into());
            }
            context.screen.warn(&format!(
                "{}: as it was last known: {}",
                safe_line(project),
                safe_line(&error.to_string())
            ));
        }
    }
    drop(progress);
    let rows = database.store.forecasts(arguments.project.as_deref(), None).await?;
    let screen = context.screen;
    for row in &rows {
        screen.object("forecast", row)?;
    }
    if rows.is_empty() {
        screen.line("Nothing waits to be applied.")?;
        return Ok(Exit::Done);
    }
    let mut table = screen.table(&["ORDER", "SESSION", "TASK", "PROJECT", "BRANCH", "WHAT WOULD COME OF IT"]);
    for row in &rows {
        table.add_row(vec![
            Cell::new(row.place.map_or_else(|| "-".to_owned(), |place| place.to_string())),
            Cell::new(row.session_id.map_or_else(String::new, |id| SessionId(id).to_string())),
            Cell::new(row.task_id.map_or_else(String::new, |id| TaskId(id).to_string())),
            Cell::new(safe_line(&row.project)),
            Cell::new(short(&row.branch, 40)),
            Cell::new(in_words(row)),
        ]);
    }
    keep_whole(&mut table, &[0, 1, 2]);
    screen.print_table(&table)?;
    Ok(Exit::Done)
}

async fn look_again(applier: &Applier, project: &str) -> Result<(), ActionError> {
    for outlook in applier.outlooks(project, true).await? {
        applier.forecast(&outlook).await?;
    }
    Ok(())
}

fn first(paths: &[&str]) -> String {
    const SHOWN: usize = 3;
    let mut text = paths.iter().take(SHOWN).map(|path| safe_line(path)).collect::<Vec<_>>().join(", ");
    if paths.len() > SHOWN {
        text.push_str(&format!(" and {} more", paths.len() - SHOWN));
    }
    text
}

fn in_words(row: &ForecastRow) -> String {
    let other = |other: &OtherRow| {
        let paths: Vec<&str> = other.paths.iter().map(String::as_str).collect();
        format!("{} ({})", SessionId(other.session_id), first(&paths))
    };
    match row.verdict.as_str() {
        "conflicts" => {
            let paths: Vec<&str> = row.conflicts.iter().map(|conflict| conflict.path.as_str()).collect();
            format!("conflicts with {}: {}", safe_line(&row.branch), first(&paths))
        }
        "unknown" => format!("unknown: {}", short(row.problem.as_deref().unwrap_or_default(), 200)),
        _ => {
            let others: Vec<String> = row.others.iter().take(3).map(other).collect();
            let more = row.others.len().saturating_sub(others.len());
            let more = if more > 0 { format!(" and {}", count(more as i64, "other")) } else { String::new() };
            match (others.is_empty(), row.place) {
                (true, Some(_)) => "applies".to_owned(),
                (true, None) => "applies, but not after those before it".to_owned(),
                (false, Some(_)) => format!("applies; conflicts with {}{more}", others.join(", ")),
                (false, None) => format!("applies only instead of {}{more}", others.join(", ")),
            }
        }
    }
}

/// What a review says of it.
pub(super) fn line_of(row: &ForecastRow) -> String {
    let words = in_words(row);
    match row.verdict.as_str() {
        "clean" if row.others.is_empty() && row.place.is_some() => {
            let words = format!("{words} to {} as it is now", safe_line(&row.branch));
            format!("    {} {}", "✓".style(green()), words.style(dim()))
        }
        _ => format!("    {} {words}", "!".style(yellow())),
    }
}
