//! `millhand worktree`, `close` and `reopen`.

use std::time::Duration;

use chrono::Utc;
use comfy_table::Cell;
use owo_colors::OwoColorize as _;
use serde_json::{Map, Value};

use super::{
    Context,
    args_worktree::{Reap, Worktree, WorktreeId, WorktreeLs},
    database::{self, Database},
    failure::{Exit, Failure, Outcome},
    screen::{bold, dim, keep_whole},
    tasks::shown,
    text::{ago, bytes, safe_line, short},
};
use crate::{
    actions,
    model::{
        ids::{AnyId, SessionId},
        worktree::Decision,
    },
    store::worktrees::{WorktreeFilter, WorktreeRow},
    supervise::HostLock,
    worktrees::{Outcome as Reaped, Planned, WorktreeError, Worktrees},
};

/// How long the worker may take to do what it was asked.
const WORKER_WITHIN: Duration = Duration::from_secs(120);
/// Between looks at how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The most worktrees in a list.
const AT_MOST: i64 = 100_000;

impl From<WorktreeError> for Failure {
    fn from(error: WorktreeError) -> Self {
        match error {
            WorktreeError::Store(error) => error.into(),
            WorktreeError::Git(error) => error.into(),
            WorktreeError::Problem(message) => {
                Self { exit: Exit::Usage, code: "refused", message, hint: Some("see: millhand worktree ls".to_owned()) }
            }
        }
    }
}

/// `millhand worktree`.
pub(super) async fn worktree(context: &Context, command: Worktree) -> Outcome {
    let database = database::open(context).await?;
    let worktrees = Worktrees {
        store: database.store.clone(),
        git: context.git().await?,
        home: context.settings.home.clone(),
        host_id: context.host_id()?,
        settings: context.settings.worktrees,
        timings: context.settings.timings,
    };
    match command {
        Worktree::Ls(arguments) => ls(context, &worktrees, arguments).await,
        Worktree::Restore { id } => restore(context, &worktrees, id).await,
        Worktree::Reap(arguments) => reap(context, &database, &worktrees, arguments).await,
    }
}

async fn ls(context: &Context, worktrees: &Worktrees, arguments: WorktreeLs) -> Outcome {
    let screen = context.screen;
    let filter = WorktreeFilter {
        host_id: (!arguments.all_hosts).then(|| worktrees.host_id.clone()),
        project: arguments.project,
        gone: arguments.gone,
        ..WorktreeFilter::default()
    };
    let rows = worktrees.store.worktrees(&filter, AT_MOST).await?;
    let unknown = worktrees.unknown_folders().await?;
    for row in &rows {
        screen.object("worktree", row)?;
    }
    for folder in &unknown {
        screen.object("unknown_folder", folder)?;
    }
    if rows.is_empty() {
        screen.line("No worktrees.")?;
    } else {
        let mut table = screen.table(&["WORKTREE", "SESSION", "PROJECT", "STATE", "USED", "SIZE", "REMARK", "PATH"]);
        for row in &rows {
            table.add_row(vec![
                Cell::new(format!("w{}", row.id)),
                Cell::new(row.last_session_id.map(|id| SessionId(id).to_string()).unwrap_or_default()),
                Cell::new(safe_line(&row.project)),
                Cell::new(&row.state),
                Cell::new(ago(row.last_used_at, Utc::now())),
                Cell::new(row.bytes.map(bytes).unwrap_or_default()),
                Cell::new(short(&remark(row), 60)),
                Cell::new(safe_line(&row.path)),
            ]);
        }
        keep_whole(&mut table, &[0, 1, 2, 3, 4, 5]);
        screen.print_table(&table)?;
    }
    for folder in &unknown {
        let path = safe_line(&folder.path);
        screen.line(&format!("{} {path}", "unknown to this database, and left alone:".style(dim())))?;
    }
    Ok(Exit::Done)
}

fn remark(row: &WorktreeRow) -> String {
    if let Some(problem) = &row.problem {
        return format!("cannot be reaped: {problem}");
    }
    let mut remarks = Vec::new();
    match (row.reason.as_deref(), row.let_go_at, row.kept) {
        (_, _, true) => remarks.push("restored, and kept".to_owned()),
        (Some(reason), _, _) => remarks.push(in_words(reason).to_owned()),
        (None, Some(at), _) => {
            let what = if row.session_id.is_some() { "session closed" } else { "session deleted" };
            remarks.push(format!("{what} {}", ago(at, Utc::now())));
        }
        (None, None, _) => {}
    }
    if row.unrecorded {
        remarks.push("has changes that no task recorded".to_owned());
    }
    remarks.join("; ")
}

fn in_words(reason: &str) -> &str {
    match reason {
        "session_closed" => "session closed",
        "session_deleted" => "session deleted",
        "quota" => "made room",
        other => other,
    }
}

/// The row that an id means.
async fn row_of(worktrees: &Worktrees, id: WorktreeId) -> Outcome<WorktreeRow> {
    let (found, shown) = match id {
        WorktreeId::Row(id) => (worktrees.store.worktree(id).await?, format!("worktree w{id}")),
        WorktreeId::Session(id) => {
            let found = worktrees.store.worktree_of_session(id, &worktrees.host_id).await?;
            (found, format!("worktree of session {}", SessionId(id)))
        }
    };
    found.ok_or_else(|| Failure {
        exit: Exit::NotFound,
        code: "not_found",
        message: format!("there is no {shown}"),
        hint: Some("see: millhand worktree ls --gone".to_owned()),
    })
}

async fn restore(context: &Context, worktrees: &Worktrees, id: WorktreeId) -> Outcome {
    let row = row_of(worktrees, id).await?;
    let restored = worktrees.restore(row.id).await?;
    let screen = context.screen;
    screen.object("worktree", &restored)?;
    let from = match restored.from {
        "trash" => "with all that was in it",
        "checkpoint" => "from its checkpoint; ignored files are not in it",
        _ => "it was in its place",
    };
    screen.line(&format!("w{} {} {}", row.id, "restored".style(bold()), format!("({from})").style(dim())))?;
    screen.line(&format!("  {}", safe_line(&restored.row.path)))?;
    match restored.row.session_id {
        Some(session) => {
            let session = SessionId(session);
            let next = format!("  {session} is open. Next: millhand send {session} \"...\"");
            screen.line(&format!("{}", next.style(dim())))?;
        }
        None => screen.line("  Its project is not registered any more, so no task can run in it; it is kept.")?,
    }
    Ok(Exit::Done)
}

async fn reap(context: &Context, database: &Database, worktrees: &Worktrees, arguments: Reap) -> Outcome {
    let mut ids = Vec::new();
    for id in &arguments.ids {
        ids.push(row_of(worktrees, *id).await?.id);
    }
    let named = !ids.is_empty();
    let plan = worktrees.plan(named.then_some(ids), named, arguments.no_grace).await?;
    if arguments.dry_run {
        return print_plan(context, &plan, named);
    }
    let going: Vec<i64> = plan.iter().filter(|one| goes(one.decision)).map(|one| one.row.id).collect();
    for one in plan.iter().filter(|one| named && !goes(one.decision)) {
        context.screen.warn(&format!("w{} stays: {}", one.row.id, one.decision.in_words()));
    }
    let lock = HostLock::acquire(&context.settings.home.private());
    let done = match lock {
        // No worker runs here, and none can start meanwhile.
        Ok(_lock) => {
            let mut done = Vec::new();
            for mut one in plan.into_iter().filter(|one| goes(one.decision)) {
                one.row.facts.asked |= named;
                done.push((one.row.id, worktrees.reap(&one.row, None).await?));
            }
            done
        }
        Err(_) => ask_worker(database, worktrees, &going).await?,
    };
    for (id, outcome) in &done {
        let words = outcome_in_words(outcome);
        let fields = Map::from_iter([
            ("id".to_owned(), Value::from(*id)),
            ("outcome".to_owned(), Value::from(words.0)),
            ("why".to_owned(), Value::from(words.1)),
        ]);
        context.screen.object("reaped", &fields)?;
        let why = words.1.map(|why| format!(": {}", safe_line(why))).unwrap_or_default();
        context.screen.line(&format!("w{id} {}{why}", words.0))?;
    }
    if done.is_empty() {
        context.screen.line("Nothing to reap.")?;
    }
    Ok(Exit::Done)
}

/// Has the worker of this home do it: its agents must let go of the folders first.
async fn ask_worker(database: &Database, worktrees: &Worktrees, going: &[i64]) -> Outcome<Vec<(i64, Reaped)>> {
    database.store.ask_to_reap(going).await?;
    let filter = WorktreeFilter { ids: Some(going.to_vec()), gone: true, ..WorktreeFilter::default() };
    let deadline = tokio::time::Instant::now() + WORKER_WITHIN;
    loop {
        let rows = worktrees.store.worktrees(&filter, AT_MOST).await?;
        let waits = |row: &WorktreeRow| row.reap_asked_at.is_some() || row.state == "reaping";
        if !rows.iter().any(waits) || tokio::time::Instant::now() > deadline {
            let outcome = |row: &WorktreeRow| match (row.state.as_str(), &row.problem) {
                _ if waits(row) => Reaped::Problem("the worker has not got to it yet".to_owned()),
                ("trashed", _) => Reaped::Trashed,
                ("gone", _) => Reaped::Removed,
                (_, Some(problem)) => Reaped::Problem(problem.clone()),
                (_, None) => Reaped::Stays("it was taken up again".to_owned()),
            };
            return Ok(rows.iter().map(|row| (row.id, outcome(row))).collect());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn outcome_in_words(outcome: &Reaped) -> (&'static str, Option<&str>) {
    match outcome {
        Reaped::Trashed => ("moved to the trash", None),
        Reaped::Pooled => ("reset, for the next session", None),
        Reaped::Removed => ("removed", None),
        Reaped::Settled => ("settled", None),
        Reaped::Stays(why) => ("stays", Some(why)),
        Reaped::Problem(why) => ("cannot be reaped", Some(why)),
    }
}

fn print_plan(context: &Context, plan: &[Planned], all: bool) -> Outcome {
    let screen = context.screen;
    let mut any = false;
    for Planned { row, decision } in plan.iter().filter(|one| all || goes(one.decision)) {
        any = true;
        let mut fields = match serde_json::to_value(row).map_err(std::io::Error::from)? {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        fields.insert("goes".to_owned(), Value::from(goes(*decision)));
        fields.insert("decision".to_owned(), Value::from(decision.in_words()));
        screen.object("plan", &fields)?;
        let whose = row.last_session_id.map(|id| SessionId(id).to_string()).unwrap_or_default();
        let place = format!("{whose} {}", safe_line(&row.project));
        screen.line(&format!("w{} {}: {}", row.id, place.style(dim()), decision.in_words()))?;
    }
    if !any {
        screen.line("Nothing to reap.")?;
    }
    Ok(Exit::Done)
}

fn goes(decision: Decision) -> bool {
    !matches!(decision, Decision::Stay(_))
}

/// `millhand close`.
pub(super) async fn close(context: &Context, id: AnyId) -> Outcome {
    let session = session_id(id)?;
    let store = database::open(context).await?;
    let closed = actions::close_session(&store, session).await?;
    let view = actions::show_session(&store, session, 1, context.window()).await?;
    context.screen.object("session", &view.session)?;
    let shown = SessionId(session);
    let words = if closed { "closed; its worktree goes to the trash or the pool" } else { "was closed already" };
    context.screen.line(&format!("{} {words}", shown.style(bold())))?;
    if closed {
        let hint = format!("  Open it again: millhand reopen {shown}");
        context.screen.line(&format!("{}", hint.style(dim())))?;
    }
    Ok(Exit::Done)
}

/// `millhand reopen`.
pub(super) async fn reopen(context: &Context, id: AnyId) -> Outcome {
    let session = session_id(id)?;
    let store = database::open(context).await?;
    let opened = actions::reopen_session(&store, session).await?;
    let view = actions::show_session(&store, session, 1, context.window()).await?;
    context.screen.object("session", &view.session)?;
    let words = if opened { "is open again" } else { "was open already" };
    context.screen.line(&format!("{} {words}", SessionId(session).style(bold())))?;
    Ok(Exit::Done)
}

fn session_id(id: AnyId) -> Outcome<i64> {
    match id {
        AnyId::Session(id) => Ok(id.0),
        other @ (AnyId::Task(_) | AnyId::Chat(_)) => {
            let message = format!("{} is not a session", shown(other));
            Err(Failure::usage(message, "name a session (s7); see: millhand ls --sessions"))
        }
    }
}
