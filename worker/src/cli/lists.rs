//! Commands that list: tasks, sessions.

use chrono::Utc;
use comfy_table::Cell;
use owo_colors::OwoColorize as _;

use super::{
    Context,
    args::Ls,
    database,
    failure::{Exit, Failure, Outcome},
    screen::{at_least, dim, keep_whole, state_cell},
    tasks::shown,
    text::{ago, cost, count, safe_line, short},
};
use crate::{
    actions::{self, Look},
    model::ids::{AnyId, SessionId, TaskId},
    store::reads::{SessionFilter, SessionRow, TaskFilter},
};

/// Longest part of a prompt or title in a list.
const TITLE: usize = 60;

/// `millhand ls`.
pub(super) async fn ls(context: &Context, arguments: Ls) -> Outcome {
    let store = database::open(context).await?;
    let limit = i64::from(arguments.limit);
    if arguments.sessions {
        let sessions = {
            let filter = SessionFilter { project: arguments.project, ..SessionFilter::default() };
            actions::list_sessions(&store, &filter, limit).await?
        };
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
    let filter = TaskFilter { project: arguments.project, session_id, states, before: None };
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
            Cell::new(cost(task.cost_usd, task.unknown_steps)),
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
            Cell::new(cost(session.cost_usd, session.unknown_steps)),
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
