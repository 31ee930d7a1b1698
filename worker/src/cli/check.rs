//! `millhand check`: the operator's own commands, and what they said of changes.

use comfy_table::Cell;
use owo_colors::OwoColorize as _;
use serde_json::json;

use super::{
    Context,
    apply::who,
    args_check::{Check, OfChanges},
    database,
    failure::{Exit, Failure, Outcome},
    project::name_of,
    screen::{bold, dim, green, keep_whole, red, yellow},
    tasks::shown,
    text::{safe, safe_line, short, span},
};
use crate::{
    actions,
    store::{Store, checks::CheckRunRow},
};

/// `millhand check`.
pub(super) async fn check(context: &Context, command: Check) -> Outcome {
    let store = database::open(context).await?;
    let screen = context.screen;
    match command {
        Check::Ls(of) => return ls(context, &store, of.project.as_deref()).await,
        Check::Show(of) => return show(context, &store, &of).await,
        Check::Add(add) => {
            let project = name_of(context, &store, add.of.project.as_deref()).await?;
            let made =
                actions::add_check(&store, &project, &add.name, add.command.trim(), add.limit, &who(context)).await?;
            screen.object("check", &made)?;
            let of = format!("runs after each turn of {}", safe_line(&project));
            screen.line(&format!("{} {}", safe_line(&made.name).style(bold()), of.style(dim())))?;
        }
        Check::Rm(rm) => {
            let project = name_of(context, &store, rm.of.project.as_deref()).await?;
            actions::remove_check(&store, &project, &rm.name, &who(context)).await?;
            screen.object("removed", &json!({ "project": project, "name": rm.name }))?;
            screen.line(&format!("{} removed", safe_line(&rm.name).style(bold())))?;
        }
        Check::Run(of) => {
            let changes = actions::run_checks(&store, of.id).await?;
            for run in &changes.checks {
                screen.object("check_run", run)?;
                screen.line(&line_of(run))?;
            }
            if actions::workers(&store, context.window()).await?.is_empty() {
                screen.warn("no worker is running, so the checks wait; start one with: millhand up --detach");
            }
        }
    }
    Ok(Exit::Done)
}

async fn ls(context: &Context, store: &Store, project: Option<&str>) -> Outcome {
    let screen = context.screen;
    let checks = actions::list_checks(store, project).await?;
    for check in &checks {
        screen.object("check", check)?;
    }
    if checks.is_empty() {
        screen.line("No checks. Add one: millhand check add test \"npm test\"")?;
        return Ok(Exit::Done);
    }
    let mut table = screen.table(&["PROJECT", "CHECK", "LIMIT", "COMMAND"]);
    for check in &checks {
        let limit = check.limit_seconds.map_or("default".to_owned(), |seconds| span(seconds.into()));
        let cells = [safe_line(&check.project), safe_line(&check.name), limit, short(&check.command, 100)];
        table.add_row(cells.map(Cell::new).to_vec());
    }
    keep_whole(&mut table, &[0, 1, 2]);
    screen.print_table(&table)?;
    Ok(Exit::Done)
}

async fn show(context: &Context, store: &Store, of: &OfChanges) -> Outcome {
    let screen = context.screen;
    let id = shown(of.id);
    let found = actions::changes(store, of.id).await?.filter(|changes| !changes.checks.is_empty());
    let Some(changes) = found else {
        return Err(Failure {
            exit: Exit::NotFound,
            code: "not_found",
            message: format!("there are no checks of {id}"),
            hint: Some("add one: millhand check add NAME COMMAND; then: millhand check run".to_owned()),
        });
    };
    for run in &changes.checks {
        screen.object("check_run", run)?;
        screen.line(&line_of(run))?;
        screen.line(&format!("{}", format!("        {}", short(&run.command, 200)).style(dim())))?;
        for line in run.output.iter().flat_map(|output| output.lines()) {
            screen.line(&format!("        {}", safe(line)))?;
        }
    }
    Ok(Exit::Done)
}

/// One line on what a check said.
pub(super) fn line_of(run: &CheckRunRow) -> String {
    let state = run.state.replace('_', " ");
    let state = match run.state.as_str() {
        "passed" => state.style(green()),
        "failed" | "timed_out" | "error" => state.style(red()),
        _ => state.style(yellow()),
    };
    let code = run.exit_code.filter(|code| *code != 0).map(|code| format!(", exit code {code}")).unwrap_or_default();
    let problem = run.problem.as_deref().map(|problem| format!(": {}", short(problem, 200))).unwrap_or_default();
    let took = run.duration_ms.map(|took| format!(" in {}", span(took / 1000))).unwrap_or_default();
    let sent = run.sent_as.map(|task| format!(", sent back as t{task}")).unwrap_or_default();
    format!("    check {} {state}{}", safe_line(&run.name), format!("{took}{code}{problem}{sent}").style(dim()))
}
