//! `millhand doctor`: everything that Millhand needs, checked, and how to mend it. And `millhand models`.

use std::path::Path;

use owo_colors::OwoColorize as _;
use serde::Serialize;

use super::{
    Context,
    args::Models,
    database,
    failure::{Exit, Failure, Outcome},
    screen::{bold, dim, green, red, yellow},
    setup::{self, blocking},
    text::{ago, count, safe_line},
    worker::this_program,
};
use crate::{
    actions,
    agent::{Backend as _, Probe},
    service,
    supervise::HostLock,
    tools::{OPENCODE_TESTED, find_opencode, find_postgres},
};

/// Less free space than this is worth a warning.
const LITTLE_SPACE_BYTES: u64 = 5_000_000_000;
/// With less than this, worktrees will not fit.
const NO_SPACE_BYTES: u64 = 500_000_000;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Good,
    Warning,
    Bad,
}

/// One check.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    /// What was found.
    message: String,
    /// How to mend it.
    hint: Option<String>,
}

impl Check {
    fn good(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, state: State::Good, message: message.into(), hint: None }
    }

    fn warning(name: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, state: State::Warning, message: message.into(), hint: Some(hint.into()) }
    }

    fn bad(name: &'static str, message: impl Into<String>, hint: Option<String>) -> Self {
        Self { name, state: State::Bad, message: message.into(), hint }
    }
}

/// `millhand doctor`.
pub(super) async fn doctor(context: &Context) -> Outcome {
    let screen = context.screen;
    let mut worst = State::Good;
    let progress = screen.progress("checking");
    let mut checks = vec![
        home(context),
        space(context),
        git(context).await,
        postgres(context).await?,
        database_check(context).await,
        opencode(context).await?,
        providers(context).await,
        sandbox(context).await?,
        worker(context),
    ];
    checks.extend(webhooks(context).await);
    drop(progress);
    for check in checks {
        screen.object("check", &check)?;
        let sign = match check.state {
            State::Good => "✓".style(green()).to_string(),
            State::Warning => "!".style(yellow()).to_string(),
            State::Bad => "✗".style(red()).to_string(),
        };
        if check.state == State::Bad || worst == State::Good {
            worst = check.state;
        }
        screen.line(&format!(
            "{sign} {} {}",
            format!("{:<10}", check.name).style(bold()),
            safe_line(&check.message)
        ))?;
        if let Some(hint) = &check.hint {
            screen.line(&format!("             {} {}", "→".style(dim()), safe_line(hint)))?;
        }
    }
    Ok(if worst == State::Bad { Exit::Broken } else { Exit::Done })
}

fn home(context: &Context) -> Check {
    let home = &context.settings.home;
    let shown = home.root().display();
    match crate::config::host_id(home) {
        Ok(id) => Check::good("home", format!("{shown} (host {id})")),
        Err(error) => Check::bad(
            "home",
            format!("{shown}: {error}"),
            Some("choose a folder that you may write: --home FOLDER, or MILLHAND_HOME".to_owned()),
        ),
    }
}

fn space(context: &Context) -> Check {
    let root = context.settings.home.root();
    let there = root.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let free = match rustix::fs::statvfs(there) {
        Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize),
        Err(error) => {
            return Check::warning("disk", format!("{}: {error}", there.display()), "see that it can be read");
        }
    };
    let says = format!("{} MB free for {}", free / 1_000_000, root.display());
    let mend = "free some space, or move the home: MILLHAND_HOME; each session has a worktree of its repository";
    if free < NO_SPACE_BYTES {
        Check::bad("disk", says, Some(mend.to_owned()))
    } else if free < LITTLE_SPACE_BYTES {
        Check::warning("disk", says, mend)
    } else {
        Check::good("disk", says)
    }
}

async fn git(context: &Context) -> Check {
    match context.git().await {
        Ok(git) => Check::good("git", format!("{} ({})", git.version(), git.binary().display())),
        Err(failure) => Check::bad("git", failure.message, failure.hint),
    }
}

async fn postgres(context: &Context) -> Outcome<Check> {
    if !context.settings.database.is_private() {
        return Ok(Check::good("PostgreSQL", "not needed here: a database is named"));
    }
    let search = setup::postgres_search(context);
    Ok(match blocking(move || find_postgres(&search)).await? {
        Ok(found) => {
            Check::good("PostgreSQL", format!("{} ({}, {})", found.version, found.folder.display(), found.origin))
        }
        Err(error) => Check::bad("PostgreSQL", error.to_string(), None),
    })
}

async fn database_check(context: &Context) -> Check {
    let opened = async {
        let Some(database) = database::connect_if_running(context).await? else {
            return Ok(Check::good("database", "private, not running; millhand up starts it"));
        };
        let schema = database.store.schema_state().await?;
        schema.require_current()?;
        Ok::<_, Failure>(Check::good("database", format!("{}, schema up to date", database.shown)))
    };
    opened.await.unwrap_or_else(|failure| Check::bad("database", failure.message, failure.hint))
}

async fn opencode(context: &Context) -> Outcome<Check> {
    let search = setup::opencode_search(context);
    Ok(match blocking(move || find_opencode(&search)).await? {
        Ok(found) => {
            let says = format!("{} ({}, {})", found.version, found.path.display(), found.origin);
            if (found.version.major, found.version.minor) > (OPENCODE_TESTED.major, OPENCODE_TESTED.minor) {
                Check::warning("opencode", says, format!("newer than what was tested ({OPENCODE_TESTED}); it may work"))
            } else {
                Check::good("opencode", says)
            }
        }
        Err(error) => Check::bad("opencode", error.to_string(), None),
    })
}

async fn providers(context: &Context) -> Check {
    let hint =
        "log in with `opencode auth login`, or set your provider's key (such as ANTHROPIC_API_KEY) for the worker";
    match probe(context).await {
        Ok(Probe { problem: Some(problem), .. }) => Check::bad("providers", problem, None),
        Ok(Probe { models, .. }) if models.is_empty() => Check::warning("providers", "opencode offers no model", hint),
        Ok(Probe { models, .. }) => {
            let names: std::collections::BTreeSet<_> =
                models.iter().filter_map(|name| name.split('/').next()).collect();
            let names: Vec<_> = names.into_iter().collect();
            let models = count(i64::try_from(models.len()).unwrap_or(i64::MAX), "model");
            Check::good("providers", format!("{} ({models}; see: millhand models)", names.join(", ")))
        }
        Err(failure) => Check::bad("providers", failure.message, failure.hint),
    }
}

async fn sandbox(context: &Context) -> Outcome<Check> {
    let name = "sandbox";
    let tried = match service::try_sandbox(&context.settings, this_program()?).await {
        Ok(Some(tried)) => tried,
        Ok(None) => {
            return Ok(Check::warning(
                name,
                "off: agents run with all the rights of the worker's user",
                "set sandbox.mode = \"on\", or run the worker as a user that may touch nothing else, or in a container",
            ));
        }
        Err(error) => {
            let mend =
                "run millhand as a user that may touch nothing else, or in a container, and set sandbox.mode = \"off\"";
            return Ok(Check::bad(name, format!("{error:#}"), Some(mend.to_owned())));
        }
    };
    let programs = tried.programs.iter().map(|(name, state)| match state {
        Ok(Some(version)) => format!("{name} {version}"),
        Ok(None) => format!("{name} not installed"),
        Err(why) => format!("{name} fails: {why}"),
    });
    let user = match &context.settings.sandbox.user {
        Some(name) => format!(", as {name}"),
        None if rustix::process::geteuid().is_root() => {
            ", as root without its capabilities (sandbox.user names another)".to_owned()
        }
        None => String::new(),
    };
    let inside = format!("on{user}; inside: {}", programs.collect::<Vec<_>>().join(", "));
    let sockets: Vec<_> = tried.sockets.iter().map(|path| path.display().to_string()).collect();
    let reach =
        format!("an agent still reaches all of TCP{}", sockets.iter().map(|s| format!(", {s}")).collect::<String>());
    Ok(if !tried.leaks.is_empty() {
        let mend = "look at sandbox.read and sandbox.write; otherwise please report it";
        Check::bad(name, format!("it leaks: {}", tried.leaks.join(", ")), Some(mend.to_owned()))
    } else if tried.programs.iter().any(|(_, state)| state.is_err()) {
        Check::warning(name, format!("{inside}; {reach}"), "name what they need in sandbox.read or sandbox.write")
    } else if !sockets.is_empty() {
        Check::warning(
            name,
            format!("{inside}; {reach}"),
            "a service behind such a socket can do more than the agent may; close it to this user",
        )
    } else {
        Check::good(name, format!("{inside}; {reach}"))
    })
}

/// Only where something is wrong with them.
async fn webhooks(context: &Context) -> Option<Check> {
    let database = database::connect_if_running(context).await.ok().flatten()?;
    let overview = actions::overview(&database.store, context.window()).await.ok()?;
    let trouble = super::webhook::trouble(overview.dead_deliveries, overview.webhooks_off)?;
    let hint = "mend the receiver, then: millhand webhook retry --dead; or millhand webhook enable WEBHOOK";
    Some(Check::warning("webhooks", trouble, hint))
}

fn worker(context: &Context) -> Check {
    match HostLock::holder(&context.settings.home.private()) {
        Some(pid) => Check::good("worker", format!("runs (process {pid})")),
        None => Check::warning("worker", "none runs here", "start one: millhand up --detach"),
    }
}

/// Asks opencode what it offers, in a folder apart from a worker's.
async fn probe(context: &Context) -> Outcome<Probe> {
    let cache = context.settings.home.private().join("probe");
    let backend = service::opencode_backend(&context.settings, "probe", this_program()?, cache).await;
    let backend = backend.map_err(|error| Failure::broken(format!("{error:#}"), None))?;
    let probe = backend.probe().await;
    backend.shutdown(context.settings.timings.kill_grace * 3).await;
    Ok(probe)
}

/// `millhand models`.
pub(super) async fn models(context: &Context, arguments: &Models) -> Outcome {
    let screen = context.screen;
    let known = if arguments.refresh { Vec::new() } else { known_models(context).await? };
    if !known.is_empty() {
        return Ok(Exit::Done);
    }
    let progress = screen.progress("asking opencode");
    let found = probe(context).await?;
    drop(progress);
    screen.object(
        "agent",
        &serde_json::json!({
            "agent": "opencode", "version": found.version, "problem": found.problem, "models": found.models,
        }),
    )?;
    if let Some(problem) = found.problem {
        return Err(Failure::broken(problem, Some("see: millhand doctor".to_owned())));
    }
    print_models(context, "opencode", found.version.as_deref(), &found.models)?;
    Ok(Exit::Done)
}

/// What the workers' agents said when they were last asked; printed. Empty: nobody was asked yet.
async fn known_models(context: &Context) -> Outcome<Vec<String>> {
    let Some(database) = database::connect_if_running(context).await? else {
        return Ok(Vec::new());
    };
    let host_id = context.host_id()?;
    let mut all = Vec::new();
    let rows = actions::models(&database.store).await?;
    // Another host's matter only where this one has none.
    let here = rows.iter().any(|row| row.host_id == host_id);
    for row in rows.iter().filter(|row| row.installed && (!here || row.host_id == host_id)) {
        let names = row.models.as_array().into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned));
        let names: Vec<_> = names.collect();
        if names.is_empty() {
            continue;
        }
        context.screen.object("agent", row)?;
        print_models(context, &row.agent, row.version.as_deref(), &names)?;
        let when = format!("As of {}; ask anew: millhand models --refresh", ago(row.probed_at, chrono::Utc::now()));
        context.screen.note(&when.style(dim()).to_string());
        all.extend(names);
    }
    Ok(all)
}

fn print_models(context: &Context, agent: &str, version: Option<&str>, models: &[String]) -> Outcome<()> {
    let screen = context.screen;
    let version = version.unwrap_or_default();
    screen.line(&format!("{} {}", safe_line(agent).style(bold()), safe_line(version).style(dim())))?;
    for model in models {
        screen.line(&format!("  {}", safe_line(model)))?;
    }
    if models.is_empty() {
        screen.line("  no models: log in with `opencode auth login`, or set your provider's key for the worker")?;
    }
    Ok(())
}
