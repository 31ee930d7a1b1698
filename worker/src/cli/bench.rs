//! `millhand bench`: runs the parts of the benchmark, and prints their figures.

use clap::{Args, ValueEnum};
use comfy_table::{Cell, CellAlignment};
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    database::{self, Database},
    failure::{Exit, Failure, Outcome},
    screen::Progress,
    signals::Told,
    worker::this_program,
};
use crate::{
    bench::{self, Bench, Figure, Interrupted},
    git::GitError,
    store::{Store, StoreError},
    tools::ToolError,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand bench --quick                a few minutes
  millhand bench --only turns --json    one object a line, as they are measured

Works in databases and folders of its own, on the configured server and below MILLHAND_HOME, and removes them. With a model that answers \
at once, from a script: no figure holds a model's own time. Compare figures of one run only; p99 of fewer than 100 samples is the slowest.")]
pub(super) struct Arguments {
    /// Fewer samples
    #[arg(long)]
    quick: bool,
    /// Only these parts; may be repeated
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// Files of the repository that git's part works on
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    files: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Queue,
    Turns,
    Git,
    Memory,
    Views,
    Apply,
    Streams,
    Recovery,
}

impl Part {
    fn needs_database(self) -> bool {
        self != Self::Git
    }

    fn says(self) -> &'static str {
        match self {
            Self::Queue => "the queue",
            Self::Turns => "turns, beside opencode run",
            Self::Git => "worktrees and diffs, beside git",
            Self::Memory => "a worker's memory",
            Self::Views => "what people look at",
            Self::Apply => "applying",
            Self::Streams => "many who watch",
            Self::Recovery => "what a kill costs",
        }
    }
}

/// Runs the parts.
pub(super) async fn bench(context: &Context, arguments: &Arguments) -> Outcome {
    let parts: Vec<Part> = match arguments.only.is_empty() {
        true => Part::value_variants().to_vec(),
        false => Part::value_variants().iter().copied().filter(|part| arguments.only.contains(part)).collect(),
    };
    let database = match parts.iter().any(|part| part.needs_database()) {
        true => Some(database::connect(context).await?),
        false => None,
    };
    let store: Option<&Store> = database.as_deref();
    let bench = Bench {
        settings: &context.settings,
        database: database.as_ref().map(Database::variables).unwrap_or_default(),
        millhand: this_program()?,
        stop: CancellationToken::new(),
    };
    if cfg!(debug_assertions) {
        context.screen.note("This is a debug build: only the figures of a release build say something of Millhand.");
    }
    let told = Told::listen()?;
    let listening = tokio::spawn(stop_when_told(told, bench.stop.clone()));
    let mut figures = Vec::new();
    let mut outcome = Ok(());
    for part in parts {
        let progress = context.screen.progress(format!("measuring {}", part.says()));
        let mut report = |figure: Figure| tell(context, &progress, figure, &mut figures);
        outcome = run(&bench, part, store, arguments, &mut report).await;
        drop(progress);
        if outcome.is_err() {
            break;
        }
    }
    listening.abort();
    // What was measured before something went wrong was measured all the same.
    table(context, &figures)?;
    outcome.map_err(failure)?;
    Ok(Exit::Done)
}

async fn run(
    bench: &Bench<'_>,
    part: Part,
    store: Option<&Store>,
    arguments: &Arguments,
    report: &mut dyn FnMut(Figure),
) -> anyhow::Result<()> {
    let quick = arguments.quick;
    match (part, store) {
        (Part::Git, _) => {
            let size = if quick { bench::git::Size::QUICK } else { bench::git::Size::FULL };
            let files = arguments.files.map_or(size.files, |files| files as usize);
            bench::git::run(bench, bench::git::Size { files, ..size }, report).await
        }
        (Part::Queue, Some(store)) => {
            let size = if quick { bench::queue::Size::QUICK } else { bench::queue::Size::FULL };
            bench::in_scratch(store, async |scratch| {
                bench.unless_stopped(async { Ok(bench::queue::run(scratch, size, report).await?) }).await
            })
            .await
        }
        (Part::Turns, Some(store)) => {
            let size = if quick { bench::turns::Size::QUICK } else { bench::turns::Size::FULL };
            bench::in_scratch(store, async |scratch| bench::turns::run(bench, scratch, size, report).await).await
        }
        (Part::Memory, Some(store)) => {
            bench::in_scratch(store, async |scratch| bench::memory::run(bench, scratch, report).await).await
        }
        (Part::Views, Some(store)) => {
            let size = if quick { bench::views::Size::QUICK } else { bench::views::Size::FULL };
            bench::in_scratch(store, async |scratch| bench::views::run(bench, scratch, size, report).await).await
        }
        (Part::Apply, Some(store)) => {
            let size = if quick { bench::apply::Size::QUICK } else { bench::apply::Size::FULL };
            let files = arguments.files.map_or(size.files, |files| files as usize);
            let size = bench::apply::Size { files, changed: size.changed.min(files), ..size };
            bench::in_scratch(store, async |scratch| bench::apply::run(bench, scratch, size, report).await).await
        }
        (Part::Streams, Some(store)) => {
            let size = if quick { bench::streams::Size::QUICK } else { bench::streams::Size::FULL };
            bench::in_scratch(store, async |scratch| bench::streams::run(bench, scratch, size, report).await).await
        }
        (Part::Recovery, Some(store)) => {
            let size = if quick { bench::recovery::Size::QUICK } else { bench::recovery::Size::FULL };
            bench::in_scratch(store, async |scratch| bench::recovery::run(bench, scratch, size, report).await).await
        }
        // Connected above, for every part that needs one.
        (_, None) => Err(anyhow::anyhow!("no database")),
    }
}

/// The first Ctrl-C, SIGTERM or SIGHUP ends the measuring in order; at the second, the process ends as any other does.
async fn stop_when_told(mut told: Told, stop: CancellationToken) {
    for _ in 0..2 {
        told.told().await;
        if stop.is_cancelled() {
            std::process::exit(Exit::Detached as i32);
        }
        stop.cancel();
    }
}

fn tell(context: &Context, progress: &Progress, figure: Figure, figures: &mut Vec<Figure>) {
    progress.say(format!("{}: {} {}", figure.name, number(figure.p50), figure.unit));
    // Whoever reads no more gets no more; the run cleans up all the same.
    let _ = context.screen.object("figure", &figure);
    figures.push(figure);
}

fn table(context: &Context, figures: &[Figure]) -> Outcome<()> {
    if figures.is_empty() || context.screen.json {
        return Ok(());
    }
    let mut table = context.screen.table(&["PART", "WHAT", "P50", "P99", "UNIT", "SAMPLES", "AIM"]);
    for figure in figures {
        table.add_row([
            Cell::new(figure.group),
            Cell::new(&figure.name),
            Cell::new(number(figure.p50)).set_alignment(CellAlignment::Right),
            Cell::new(figure.p99.map(number).unwrap_or_default()).set_alignment(CellAlignment::Right),
            Cell::new(figure.unit),
            Cell::new(figure.samples).set_alignment(CellAlignment::Right),
            Cell::new(figure.aim.unwrap_or_default()),
        ]);
    }
    Ok(context.screen.print_table(&table)?)
}

/// Three digits that say something, and no more.
fn number(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "?".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn failure(error: anyhow::Error) -> Failure {
    let error = match error.downcast::<StoreError>() {
        Ok(error) => return error.into(),
        Err(error) => error,
    };
    let error = match error.downcast::<GitError>() {
        Ok(error) => return error.into(),
        Err(error) => error,
    };
    if error.is::<Interrupted>() {
        return Failure { exit: Exit::Detached, code: "interrupted", message: error.to_string(), hint: None };
    }
    let error = match error.downcast::<ToolError>() {
        Ok(error) => return error.into(),
        Err(error) => error,
    };
    Failure::broken(format!("{error:#}"), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_or_all_that_stand_before_the_point() {
        assert_eq!([number(2861.4), number(12.345), number(0.456), number(-3.2)], ["2861", "12.3", "0.46", "-3.20"]);
        assert_eq!(number(f64::NAN), "?");
    }
}
