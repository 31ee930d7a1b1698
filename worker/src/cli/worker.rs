//! The worker as people handle it: `worker`, `up`, `status`, `down`.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use comfy_table::Cell;
use owo_colors::OwoColorize as _;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    apply::who,
    args::{Down, Up, Worker},
    database::{self, Database},
    failure::{Exit, Failure, Outcome},
    screen::{bold, dim, green, red, state_style, yellow},
    setup,
    text::{ago, bytes, count, safe_line, span},
    token,
};
use crate::{
    actions::{self, Overview},
    config::{LogFormat, private_folder},
    model::access::Scope,
    service::{self, Host},
    store::{Store, StoreError, fleet::ServerRow},
    supervise::{HostLock, ServedAt, ServiceManager},
};

/// How long a worker in the background may take until it is heard of.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Beyond the drain, what a worker may take to hand its tasks back and end its servers.
const STOP_MARGIN: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between tries to reach a database when a worker starts: doubled each time, up to the longest.
const TRY_AGAIN: Duration = Duration::from_millis(500);
const TRY_AGAIN_LONGEST: Duration = Duration::from_secs(3);
/// A log that is larger is moved aside at the next start.
const LOG_BYTES: u64 = 16 * 1024 * 1024;
/// What is shown of a log.
const LOG_TAIL_BYTES: u64 = 2000;

/// `millhand worker`: runs it in the foreground until it is told to stop.
pub(super) async fn worker(context: &Context, arguments: &Worker) -> Outcome {
    if arguments.background {
        // Away from the terminal that `up` was typed in. It fails only if we lead a group already, which is as good.
        let _ = rustix::process::setsid();
    }
    start_logging(context);
    run_worker(context, None).await
}

/// Runs a worker until it is told to stop; on this database, or on the configured one as soon as that can be reached. A service manager is
/// kept informed.
async fn run_worker(context: &Context, store: Option<Store>) -> Outcome {
    let environment = &context.settings.environment;
    let [socket, micros, pid] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"].map(|name| environment.get(name));
    let manager = ServiceManager::new(socket, micros, pid);
    tokio::select! {
        ended = run_until_told(context, store, &manager) => ended,
        never = manager.keep_alive() => match never {},
    }
}

async fn run_until_told(context: &Context, store: Option<Store>, manager: &ServiceManager) -> Outcome {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate()).map_err(broken_signal)?,
        signal(SignalKind::interrupt()).map_err(broken_signal)?,
    );
    // Typed by a person: told how to open the dashboard. In a service's log such a link has no place.
    let by_person = store.clone();
    let started = async {
        match store {
            Some(store) => Ok((start(context, store).await?, None)),
            None => start_when_reachable(context).await,
        }
    };
    let started = tokio::select! {
        started = started => Some(started?),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    let Some((host, _database)) = started else {
        // What an earlier worker left, it left for one that goes on.
        return end_leftovers(context).await.map(|_| Exit::Done);
    };
    let at_once = context.settings.worker.turns_at_once();
    manager.ready(&format!("{at_once} turns at once"));
    context.screen.note(&format!(
        "{} {}",
        "millhand worker runs".style(bold()),
        format!("({at_once} turns at once; Ctrl-C stops it)").style(dim())
    ));
    if let Some(store) = by_person {
        say_dashboard(context, &store, host.api()).await?;
    }
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(Exit::Done),
        _ = interrupt.recv() => Ok(Exit::Done),
        () = host.worker().outdated() => Err(Failure::broken(
            "the database has a newer schema than this millhand knows".to_owned(),
            Some("upgrade millhand, and start the worker again".to_owned()),
        )),
    };
    let running = host.worker().running();
    let turns = count(i64::try_from(running).unwrap_or(i64::MAX), "turn");
    manager.stopping(&format!("waiting for {turns}"));
    if running > 0 {
        let drain = span(i64::try_from(context.settings.timings.drain.as_secs()).unwrap_or(i64::MAX));
        context.screen.note(&format!("Stopping: {turns} may go on for {drain}; again to hand them back at once"));
    }
    let hurry = CancellationToken::new();
    let stop = host.stop(hurry.clone());
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return ended,
            _ = terminate.recv() => hurry.cancel(),
            _ = interrupt.recv() => hurry.cancel(),
        }
    }
}

async fn start(context: &Context, store: Store) -> Outcome<Host> {
    Host::start(&context.settings, store, this_program()?).await.map_err(failure_of_start)
}

/// Starts the worker, and waits for a database that is somebody else's to run: after a reboot it may come later than we do. What is
/// wrong for good is an error at once.
async fn start_when_reachable(context: &Context) -> Outcome<(Host, Option<Database>)> {
    let mut pause = TRY_AGAIN;
    let mut is_waiting = false;
    loop {
        let started = async {
            let database = database::connect(context).await?;
            database::prepare(context, &database).await?;
            let host = start(context, database.store.clone()).await?;
            Ok((host, Some(database)))
        };
        match started.await {
            Err(Failure { exit: Exit::Unreachable, message, .. }) if !context.settings.database.is_private() => {
                if !is_waiting {
                    is_waiting = true;
                    tracing::warn!("{message}; waiting for it");
                }
            }
            started => return started,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(TRY_AGAIN_LONGEST);
    }
}

pub(super) fn broken_signal(error: std::io::Error) -> Failure {
    Failure::broken(format!("cannot wait for signals: {error}"), None)
}

fn failure_of_start(error: anyhow::Error) -> Failure {
    let error = match error.downcast::<StoreError>() {
        Ok(error) => return error.into(),
        Err(error) => error,
    };
    Failure::broken(format!("{error:#}"), Some("see what is missing: millhand doctor".to_owned()))
}

/// The path of this program, which shims and background workers run.
pub(super) fn this_program() -> Outcome<PathBuf> {
    std::env::current_exe().map_err(|error| Failure::broken(format!("cannot find this program: {error}"), None))
}

/// What the database's driver says by itself, for each connection that breaks: the loops say it once. `log.level` can unmute it.
const MUTED: &str = "deadpool.postgres=off,tokio_postgres=warn";

/// Logs to stderr from here on.
pub(super) fn start_logging(context: &Context) {
    let log = &context.settings.log;
    let filter = tracing_subscriber::EnvFilter::new(format!("{MUTED},{}", log.level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Already set means that a command runs another one; the first one's log it is.
    let _ = match log.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// `millhand up`: what it takes to work, checked and started.
pub(super) async fn up(context: &Context, arguments: &Up) -> Outcome {
    let screen = context.screen;
    setup::check(context).await?;
    let progress = screen.progress("opening the database");
    let database = database::connect(context).await?;
    progress.say("bringing the schema up to date");
    database.store.migrate().await?;
    drop(progress);
    if let Some(pid) = HostLock::holder(&context.settings.home.private()) {
        screen.object("worker", &json!({ "pid": pid, "already_running": true }))?;
        screen.line(&format!("A worker runs already {}", format!("(process {pid})").style(dim())))?;
        say_dashboard(context, &database.store, ServedAt::look(&context.settings.home.private()).as_deref()).await?;
        return say_next(context);
    }
    if !arguments.detach {
        start_logging(context);
        return run_worker(context, Some(database.store.clone())).await;
    }
    let (mut child, log) = start_in_background(context, arguments)?;
    let progress = screen.progress("starting the worker");
    let host_id = context.host_id()?;
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let exited =
            child.try_wait().map_err(|error| Failure::broken(format!("wait for the worker: {error}"), None))?;
        if let Some(status) = exited {
            let message = format!("the worker ended ({status}):\n{}", tail(&log));
            return Err(Failure::broken(message, Some("see what is missing: millhand doctor".to_owned())));
        }
        // The lock says that it is alive, its row in the database that it works.
        let holds = HostLock::holder(&context.settings.home.private()) == Some(child.id());
        let workers = actions::workers(&database.store, context.window()).await?;
        if holds && workers.iter().any(|worker| worker.host_id == host_id) {
            break;
        }
        if Instant::now() > deadline {
            let message = format!("the worker is not ready after {} s", READY_WITHIN.as_secs());
            return Err(Failure::broken(message, Some(format!("see its log: {}", log.display()))));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    drop(progress);
    let turns = context.settings.worker.turns_at_once();
    screen
        .object("worker", &json!({ "pid": child.id(), "already_running": false, "log": log.display().to_string() }))?;
    let details = format!("(process {}, {turns} turns at once, log {})", child.id(), log.display());
    screen.line(&format!("{} The worker runs {}", "✓".style(green()), details.style(dim())))?;
    say_dashboard(context, &database.store, ServedAt::look(&context.settings.home.private()).as_deref()).await?;
    say_next(context)
}

/// Says how to open the dashboard, by a link that is good once; or that there is none.
async fn say_dashboard(context: &Context, store: &Store, url: Option<&str>) -> Outcome<()> {
    let screen = context.screen;
    let Some(url) = url else {
        if let Some(listen) = context.settings.api.listen {
            screen.warn(&format!(
                "no dashboard: {listen} cannot be listened on, the log says why; choose another: api.listen"
            ));
        }
        return Ok(());
    };
    let link = token::login_link(context, store, url, &who(context), &[Scope::Admin]).await?;
    screen.object("dashboard", &json!({ "url": url, "login": link }))?;
    let minutes = span(i64::try_from(context.settings.timings.login_code.as_secs()).unwrap_or(i64::MAX));
    let hint = format!("(good once, for {minutes}; another: millhand token login)");
    screen.line(&format!("  dashboard  {link}  {}", hint.style(dim())))?;
    Ok(())
}

fn say_next(context: &Context) -> Outcome {
    context.screen.line(&format!("{}", "Next: cd into a repository, then millhand run \"...\"".style(dim())))?;
    context.screen.line(&format!("{}", "      millhand status, millhand ls, millhand down".style(dim())))?;
    Ok(Exit::Done)
}

/// Starts `millhand worker` apart from this terminal, with its output in a log.
fn start_in_background(context: &Context, arguments: &Up) -> Outcome<(std::process::Child, PathBuf)> {
    let folder = context.settings.home.logs();
    let log = folder.join("worker.log");
    let failed = |error: std::io::Error| Failure::broken(format!("{}: {error}", log.display()), None);
    private_folder(&folder).map_err(failed)?;
    if fs::metadata(&log).is_ok_and(|meta| meta.len() > LOG_BYTES) {
        fs::rename(&log, folder.join("worker.log.1")).map_err(failed)?;
    }
    let file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&log).map_err(failed)?;
    let copy = file.try_clone().map_err(failed)?;
    let mut command = std::process::Command::new(this_program()?);
    command.args(["worker", "--background"]);
    // By the environment, where others on this machine cannot read it: the URL may hold a password.
    command.env("MILLHAND_HOME", context.settings.home.root());
    if let Some(url) = &context.global.database_url {
        command.env("MILLHAND_DATABASE_URL", url);
    }
    let config =
        context.global.config.as_deref().or(context.settings.environment.get("MILLHAND_CONFIG").map(Path::new));
    if let Some(config) = config {
        // It starts in another folder.
        command.env("MILLHAND_CONFIG", std::path::absolute(config).map_err(failed)?);
    }
    if let Some(turns) = arguments.concurrency {
        command.arg(format!("--concurrency={turns}"));
    }
    let child = command.stdin(Stdio::null()).stdout(file).stderr(copy).current_dir("/").spawn();
    Ok((child.map_err(|error| Failure::broken(format!("start the worker: {error}"), None))?, log))
}

/// The end of a log.
fn tail(log: &PathBuf) -> String {
    let read = || {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    read().unwrap_or_else(|error| format!("{}: {error}", log.display()))
}

/// `millhand status`.
pub(super) async fn status(context: &Context) -> Outcome {
    let screen = context.screen;
    let home = &context.settings.home;
    let pid = HostLock::holder(&home.private());
    let field = |name: &str, value: &str| screen.line(&format!("{} {value}", format!("{name:<9}").style(dim())));
    field("home", &safe_line(&home.root().display().to_string()))?;
    field(
        "worker",
        &match pid {
            Some(pid) => format!("{} {}", "runs".style(green()), format!("(process {pid})").style(dim())),
            None => format!("{} {}", "none here".style(yellow()), "(millhand up --detach)".style(dim())),
        },
    )?;
    let api = ServedAt::look(&home.private());
    if let Some(url) = &api {
        field("dashboard", &format!("{} {}", safe_line(url), "(log in: millhand token login)".style(dim())))?;
    }
    let Some(database) = database::connect_if_running(context).await? else {
        screen.object("status", &json!({ "home": home.root(), "worker_pid": pid, "api": api, "database": null }))?;
        field("database", "private, not running")?;
        return Ok(Exit::Done);
    };
    let overview = actions::overview(&database.store, context.window()).await?;
    screen.object(
        "status",
        &json!({
            "home": home.root(),
            "worker_pid": pid,
            "api": api,
            "database": database.shown,
            "schema_is_current": overview.schema.require_current().is_ok(),
            "workers": overview.workers,
            "servers": overview.servers,
            "tasks": overview.tasks.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "oldest_due_seconds": overview.oldest_due.map(|waited| waited.as_secs()),
            "dead_deliveries": overview.dead_deliveries,
            "webhooks_off": overview.webhooks_off,
        }),
    )?;
    field("database", &safe_line(&database.shown))?;
    print_overview(context, &overview)?;
    Ok(Exit::Done)
}

fn print_overview(context: &Context, overview: &Overview) -> Outcome<()> {
    let screen = context.screen;
    let field = |name: &str, value: &str| screen.line(&format!("{} {value}", format!("{name:<9}").style(dim())));
    if let Err(problem) = overview.schema.require_current() {
        field("schema", &problem.to_string().style(red()).to_string())?;
        return Ok(());
    }
    let tasks = |over: bool| {
        let is_over = |state: &str| matches!(state, "completed" | "failed" | "cancelled");
        let tasks = overview.tasks.iter().filter(|(state, _)| is_over(state) == over);
        tasks.map(|(state, n)| format!("{n} {}", state.style(state_style(state)))).collect::<Vec<_>>().join(", ")
    };
    let (open, over) = (tasks(false), tasks(true));
    field("tasks", if open.is_empty() { "none wait or run" } else { &open })?;
    if !over.is_empty() {
        field("last 24 h", &over)?;
    }
    // A few seconds are the time that a claim takes.
    if let Some(waited) = overview.oldest_due.filter(|waited| waited.as_secs() >= 5) {
        let waited = span(i64::try_from(waited.as_secs()).unwrap_or(i64::MAX));
        field("waiting", &format!("{waited} by the oldest task that could run; see why: millhand ls --state pending"))?;
    }
    if let Some(trouble) = super::webhook::trouble(overview.dead_deliveries, overview.webhooks_off) {
        field("webhooks", &trouble.style(yellow()).to_string())?;
    }
    if overview.workers.is_empty() {
        return Ok(());
    }
    let now = chrono::Utc::now();
    let mut table = screen.table(&["WORKER", "HOST", "TURNS", "STARTED", "HEARD OF", "VERSION"]);
    for worker in &overview.workers {
        let draining = if worker.draining { " (stopping)" } else { "" };
        table.add_row(vec![
            Cell::new(safe_line(&worker.hostname)),
            Cell::new(safe_line(&worker.host_id)),
            Cell::new(format!("{} of {}{draining}", worker.running, worker.capacity)),
            Cell::new(ago(worker.started_at, now)),
            Cell::new(ago(worker.heartbeat_at, now)),
            Cell::new(safe_line(&worker.version)),
        ]);
    }
    screen.print_table(&table)?;
    if !overview.servers.is_empty() {
        screen.line("")?;
        screen.print_table(&servers(context, &overview.servers))?;
    }
    Ok(())
}

/// Servers of agents, for `status` and `top`.
pub(super) fn servers(context: &Context, servers: &[ServerRow]) -> comfy_table::Table {
    let now = chrono::Utc::now();
    let heads = ["SERVER", "HOST", "PROJECT", "PROCESS", "TURNS", "WORKTREES", "MEMORY", "STARTED"];
    let mut table = context.screen.table(&heads);
    for server in servers {
        let leaving = if server.is_leaving { " (no more)" } else { "" };
        table.add_row(vec![
            Cell::new(safe_line(&server.agent)),
            Cell::new(safe_line(&server.hostname)),
            Cell::new(safe_line(server.project.as_deref().unwrap_or("?"))),
            Cell::new(server.pid),
            Cell::new(format!("{}{leaving}", server.turns)),
            Cell::new(server.worktrees),
            Cell::new(server.resident_bytes.map(bytes).unwrap_or_default()),
            Cell::new(ago(server.started_at, now)),
        ]);
    }
    table
}

/// `millhand down`: stops this home's worker, and waits until it is gone.
pub(super) async fn down(context: &Context, arguments: &Down) -> Outcome {
    let screen = context.screen;
    let private = context.settings.home.private();
    let Some(pid) = HostLock::holder(&private) else {
        let ended = end_leftovers(context).await?;
        screen.object("worker", &json!({ "pid": null, "stopped": false, "leftovers_ended": ended }))?;
        screen
            .line(&format!("No worker runs in {}", safe_line(&context.settings.home.root().display().to_string())))?;
        return Ok(Exit::Done);
    };
    let within = context.settings.timings.drain + STOP_MARGIN;
    terminate(pid)?;
    let progress = screen.progress(format!("stopping process {pid}: turns may go on for a while"));
    let deadline = Instant::now() + within;
    let mut hurried = false;
    while HostLock::holder(&private) == Some(pid) {
        if arguments.now && !hurried {
            // The second signal hands the turns back at once.
            hurried = true;
            tokio::time::sleep(LOOK_EVERY).await;
            terminate(pid)?;
        }
        if Instant::now() > deadline {
            let message = format!("process {pid} has not stopped after {} s", within.as_secs());
            let hint = format!(
                "see {}; as a last resort: kill -9 {pid}, its tasks start again",
                context.settings.home.logs().display()
            );
            return Err(Failure::broken(message, Some(hint)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    drop(progress);
    screen.object("worker", &json!({ "pid": pid, "stopped": true }))?;
    screen
        .line(&format!("{} Stopped; tasks that were running start again with the next worker", "✓".style(green())))?;
    Ok(Exit::Done)
}

/// Ends what a worker left behind that was killed, and that the next one would take over.
async fn end_leftovers(context: &Context) -> Outcome<usize> {
    let ended = service::end_leftovers(&context.settings).await;
    ended.map_err(|error| Failure::broken(format!("end what a worker left behind: {error:#}"), None))
}

fn terminate(pid: u32) -> Outcome<()> {
    let process = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let sent = process.map(|process| rustix::process::kill_process(process, rustix::process::Signal::TERM));
    match sent {
        // It may just have ended by itself.
        Some(Ok(()) | Err(rustix::io::Errno::SRCH)) => Ok(()),
        Some(Err(error)) => Err(Failure::broken(
            format!("process {pid} cannot be stopped: {error}"),
            Some("stop it as the user who started it".to_owned()),
        )),
        None => Err(Failure::broken(format!("{pid} is no process"), None)),
    }
}
