//! Commands that list: tasks, sessions, the inbox, costs.

use chrono::Utc;
use comfy_table::Cell;
use owo_colors::OwoColorize as _;
use serde_json::{Map, Value};

use super::{
    Context,
    args::Ls,
    database,
    failure::{Exit, Failure, Outcome},
    screen::{at_least, bold, dim, keep_whole, red, state_cell, state_style},
    tasks::shown,
    text::{ago, count, money, safe_line, short, tokens},
};
use crate::{
    actions::{self, Look},
    model::ids::{AnyId, SessionId, TaskId},
    store::reads::{CostBy, CostRow, InboxRow, SessionRow, TaskFilter},
};

/// Longest part of a prompt or title in a list.
const TITLE: usize = 60;

/// `millhand ls`.
pub(super) async fn ls(context: &Context, arguments: Ls) -> Outcome {
    let store = database::open(context).await?;
    let limit = i64::from(arguments.limit);
    if arguments.sessions {
        let sessions = actions::list_sessions(&store, arguments.project.as_deref(), limit).await?;
        return print_sessions(context, &sessions);
    }
    let session_id = match arguments.session {
        None => None,
        Some(AnyId::Session(id)) => Some(id.0),
        Some(other) => {
            let hint = "name a session (s7); see: millhand ls --sessions";
            return Err(Failure::usage(format!("{} is not a session", shown(other)), hint));
        }
    };
    let states = arguments.state.iter().map(|state| state.as_str().to_owned()).collect();
    let filter = TaskFilter { project: arguments.project, session_id, states };
    let tasks = actions::list_tasks(&store, &filter, limit, context.window()).await?;
    for look in &tasks {
        context.screen.object("task", look)?;
    }
    if tasks.is_empty() {
        context.screen.line("No tasks. Queue one: millhand run \"...\"")?;
    } else {
        print_tasks(context, &tasks)?;
    }
    if tasks.len() == arguments.limit as usize {
        context.screen.note(&format!("{}", format!("The newest {limit}; more with --limit").style(dim())));
    }
    Ok(Exit::Done)
}

/// A table of tasks.
pub(super) fn print_tasks(context: &Context, tasks: &[Look]) -> Outcome<()> {
    let now = Utc::now();
    let mut table = context.screen.table(&["TASK", "SESSION", "PROJECT", "STATE", "AGE", "COST", "PROMPT", "WHY"]);
    for Look { task, why } in tasks {
        let remark = why.as_deref().or(task.error_message.as_deref()).unwrap_or_default();
        table.add_row(vec![
            Cell::new(TaskId(task.id)),
            Cell::new(SessionId(task.session_id)),
            Cell::new(safe_line(&task.project)),
            state_cell(&task.state),
            Cell::new(ago(task.created_at, now)),
            Cell::new(money(task.cost_usd)),
            Cell::new(short(&task.prompt, TITLE)),
            Cell::new(short(remark, TITLE)),
        ]);
    }
    keep_whole(&mut table, &[0, 1, 2, 3, 4, 5]);
    at_least(&mut table, 6, 20);
    at_least(&mut table, 7, 20);
    context.screen.print_table(&table)?;
    Ok(())
}

fn print_sessions(context: &Context, sessions: &[SessionRow]) -> Outcome {
    let screen = context.screen;
    for session in sessions {
        screen.object("session", session)?;
    }
    if sessions.is_empty() {
        screen.line("No sessions. Open one: millhand run \"...\"")?;
        return Ok(Exit::Done);
    }
    let now = Utc::now();
    let mut table = screen.table(&["SESSION", "PROJECT", "LINE", "TASKS", "TO REVIEW", "AGE", "COST", "TITLE"]);
    for session in sessions {
        table.add_row(vec![
            Cell::new(SessionId(session.id)),
            Cell::new(safe_line(&session.project)),
            Cell::new(line_of(session)),
            Cell::new(format!("{} ({} open)", session.tasks, session.open_tasks)),
            Cell::new(count(session.pending_changes, "file")),
            Cell::new(ago(session.created_at, now)),
            Cell::new(money(session.cost_usd)),
            Cell::new(short(&session.title, TITLE)),
        ]);
    }
    keep_whole(&mut table, &[0, 1, 3, 4, 5, 6]);
    screen.print_table(&table)?;
    Ok(Exit::Done)
}

/// The state of a session's line.
pub(super) fn line_of(session: &SessionRow) -> String {
    match (session.head_state.as_deref(), session.holder_id) {
        _ if session.state != "open" => session.state.clone(),
        (Some("blocked"), _) => "needs a person".to_owned(),
        (Some(state), _) => state.to_owned(),
        (None, Some(id)) => format!("held by failed {}", TaskId(id)),
        (None, None) if session.open_tasks > 0 => "waiting".to_owned(),
        (None, None) => "idle".to_owned(),
    }
}

/// `millhand inbox`.
pub(super) async fn inbox(context: &Context, limit: u32) -> Outcome {
    let store = database::open(context).await?;
    let screen = context.screen;
    let rows = actions::inbox(&store, i64::from(limit)).await?;
    if rows.is_empty() {
        screen.line("Nothing needs you.")?;
    }
    for row in &rows {
        screen.object("inbox", row)?;
        print_inbox_row(context, row)?;
    }
    Ok(Exit::Done)
}

fn print_inbox_row(context: &Context, row: &InboxRow) -> Outcome<()> {
    let screen = context.screen;
    let id = TaskId(row.task_id);
    let place = format!("{} {}", SessionId(row.session_id), safe_line(&row.project));
    let since = row.since.map(|since| ago(since, Utc::now())).unwrap_or_default();
    let state = row.state.style(state_style(&row.state));
    screen.line(&format!("{} {state} {}", id.style(bold()), format!("{place}, {since}").style(dim())))?;
    screen.line(&format!("    {}", short(&row.prompt, 100)))?;
    if let Some(message) = &row.error_message {
        screen.line(&format!("    {}", short(message, 300).style(red())))?;
    }
    if row.behind > 0 {
        screen.line(&format!("    {} behind it", count(row.behind, "task")))?;
    }
    let todo = match row.state.as_str() {
        // It waits for its host.
        "pending" => format!("    millhand show {id}, or millhand cancel {id}"),
        _ => format!("    millhand show {id}, then millhand retry {id} or millhand dismiss {id}"),
    };
    Ok(screen.line(&format!("{}", todo.style(dim())))?)
}

/// `millhand stats costs`.
pub(super) async fn costs(context: &Context, by: CostBy) -> Outcome {
    let store = database::open(context).await?;
    let screen = context.screen;
    let rows = actions::costs(&store, by).await?;
    for row in &rows {
        // The first field is named as the view's first column is.
        let mut fields = Map::from_iter([(by.as_str().to_owned(), Value::from(row.of.as_str()))]);
        if let Value::Object(rest) = serde_json::to_value(row).map_err(std::io::Error::from)? {
            fields.extend(rest);
        }
        screen.object("cost", &fields)?;
    }
    print_costs(context, &rows, by)?;
    Ok(Exit::Done)
}

/// A table of costs.
pub(super) fn print_costs(context: &Context, rows: &[CostRow], by: CostBy) -> Outcome<()> {
    let screen = context.screen;
    if rows.is_empty() {
        return Ok(screen.line("Nothing was paid yet.")?);
    }
    let head = by.as_str().to_uppercase();
    let mut table = screen.table(&[&head, "TASKS", "STEPS", "INPUT", "OUTPUT", "REASON", "CACHED", "WRITTEN", "COST"]);
    keep_whole(&mut table, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let total = CostRow {
        of: "total".to_owned(),
        // A task may have used several agents or models: these do not add up.
        tasks: 0,
        steps: rows.iter().map(|row| row.steps).sum(),
        input_tokens: rows.iter().map(|row| row.input_tokens).sum(),
        output_tokens: rows.iter().map(|row| row.output_tokens).sum(),
        reasoning_tokens: rows.iter().map(|row| row.reasoning_tokens).sum(),
        cache_read_tokens: rows.iter().map(|row| row.cache_read_tokens).sum(),
        cache_write_tokens: rows.iter().map(|row| row.cache_write_tokens).sum(),
        cost_usd: rows.iter().map(|row| row.cost_usd).sum(),
    };
    let with_total = rows.len() > 1;
    for row in rows.iter().chain(with_total.then_some(&total)) {
        let tasks = if std::ptr::eq(row, &raw const total) { String::new() } else { row.tasks.to_string() };
        table.add_row(vec![
            safe_line(&row.of),
            tasks,
            row.steps.to_string(),
            tokens(row.input_tokens),
            tokens(row.output_tokens),
            tokens(row.reasoning_tokens),
            tokens(row.cache_read_tokens),
            tokens(row.cache_write_tokens),
            money(row.cost_usd),
        ]);
    }
    Ok(screen.print_table(&table)?)
}
