//! `millhand demo`: the main job, end to end, on a sample repository and with a scripted model.
//!
//! It has a home, a database and a worker of its own, so that nothing of it mixes with real work and real costs.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use owo_colors::OwoColorize as _;
use tokio_util::sync::CancellationToken;

use super::{
    Context, costs, database, diff,
    failure::{Exit, Failure, Outcome},
    live,
    pager::Paged,
    screen::{bold, dim, green, yellow},
    setup,
    text::safe_line,
    worker,
};
use crate::{
    actions::{self, Chat, ProjectRequest, TaskRequest},
    config::Home,
    git::Git,
    model::ids::{AnyId, TaskId},
    scripted::{
        Prices, ScriptedModel, model_name,
        sample::{DEMO_TASKS, demo_scripts, write_sample},
    },
    service::Host,
    store::{
        Store,
        costs::{CostBy, CostFilter},
    },
};

/// What the sample is called.
const PROJECT: &str = "greet";
/// Models that it could have used, at most.
const MODELS: i64 = 10;
/// Two sessions, so two turns at once.
const TURNS: usize = 2;

/// `millhand demo`.
pub(super) async fn demo(outer: &Context) -> Outcome {
    let screen = outer.screen;
    let step = |text: &str| screen.line(&format!("\n{} {}", "==".style(dim()), text.style(bold())));
    screen.line(&format!(
        "{} Only what the model says is written down beforehand. Postgres, git, opencode and the files that its\n\
         tools change are real. It costs nothing: the prices below are made up.",
        "The model of this demo is scripted.".style(yellow())
    ))?;
    let mut context = context_of_demo(outer)?;
    step("What it needs")?;
    setup::ensure_and_say(&context).await?;

    step("A database, a sample repository, a model")?;
    let progress = screen.progress("starting the private Postgres");
    let database = database::connect(&context).await?;
    progress.say("making the schema");
    database.store.migrate().await?;
    drop(progress);
    screen.line(&format!("{} private Postgres {}", "✓".style(green()), database.shown.style(dim())))?;
    let repository = make_repository(&context.git().await?, &context.settings.home)?;
    screen.line(&format!("{} repository {}", "✓".style(green()), repository.display().style(dim())))?;
    let model = start_model(&mut context).await?;
    screen.line(&format!("{} scripted model {}", "✓".style(green()), model.base_url().style(dim())))?;

    let host = Host::start(&context.settings, database.store.clone(), worker::this_program()?).await;
    let host = host.map_err(|error| Failure::broken(format!("{error:#}"), Some("see: millhand doctor".to_owned())))?;
    let outcome = run_tasks(&context, &database.store, &repository).await;
    let progress = screen.progress("stopping the worker");
    let hurry = CancellationToken::new();
    hurry.cancel();
    host.stop(hurry).await;
    model.shutdown().await;
    drop(progress);
    let (exit, tasks) = outcome?;
    if exit == Exit::Done {
        say_next(outer, &context, &repository, &tasks)?;
    }
    Ok(exit)
}

/// A home of its own, with a private database whatever the environment names.
fn context_of_demo(outer: &Context) -> Outcome<Context> {
    let mut context = outer.clone();
    context.settings.home = Home::new(outer.settings.home.root().join("demo"));
    context.settings.database.url = None;
    context.settings.database.variables.clear();
    context.settings.worker.concurrency = Some(TURNS);
    crate::config::prepare_home(&context.settings.home).map_err(|error| {
        let home = context.settings.home.root().display();
        Failure::usage(
            format!("{home}: {error}"),
            "choose a folder that you may write: --home FOLDER, or MILLHAND_HOME",
        )
    })?;
    share_tools(outer, &context)?;
    Ok(context)
}

/// What setup has installed, and will install, serves both homes.
fn share_tools(outer: &Context, demo: &Context) -> Outcome<()> {
    let (ours, theirs) = (outer.settings.home.tools(), demo.settings.home.tools());
    if std::fs::symlink_metadata(&theirs).is_ok() {
        return Ok(());
    }
    let linked = std::fs::create_dir_all(&ours).and_then(|()| std::os::unix::fs::symlink(&ours, &theirs));
    linked.map_err(|error| Failure::broken(format!("{}: {error}", theirs.display()), None))
}

/// Starts the model, and tells opencode of nothing else.
async fn start_model(context: &mut Context) -> Outcome<ScriptedModel> {
    let scripts = demo_scripts().map_err(|error| Failure::broken(format!("the demo's scripts: {error}"), None))?;
    let model = ScriptedModel::start(scripts, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await;
    let model = model.map_err(|error| Failure::broken(format!("start the scripted model: {error}"), None))?;
    let mut config = model.provider_config(Prices::default());
    config["enabled_providers"] = serde_json::json!([crate::scripted::PROVIDER_ID]);
    context.settings.opencode.config = Some(config.to_string());
    // Whoever breaks off the demo wants nothing of it left, and no worker comes to take it over.
    context.settings.opencode.adopt = false;
    // It would be gone before anybody had opened it.
    context.settings.api.listen = None;
    Ok(model)
}

/// The sample with one commit; an earlier demo's is used again.
fn make_repository(git: &Git, home: &Home) -> Outcome<PathBuf> {
    // Beside the home's own folders, which agents could not be given a repository from.
    let folder = home.root().with_file_name("demo-repository").join(PROJECT);
    if folder.join(".git").exists() {
        return Ok(folder);
    }
    let failed =
        |what: String| Failure::broken(format!("make the sample repository {}: {what}", folder.display()), None);
    write_sample(&folder).map_err(|error| failed(error.to_string()))?;
    let commands: [&[&str]; 3] = [
        &["init", "--quiet", "--initial-branch=main"],
        &["add", "--all"],
        &["commit", "--quiet", "--message=A command that greets"],
    ];
    for arguments in commands {
        let output =
            sample_git(git.binary(), &folder).args(arguments).output().map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
    }
    Ok(folder)
}

/// git in the sample, without the user's configuration: it need not name anybody, and runs no hook.
fn sample_git(binary: &Path, folder: &Path) -> Command {
    let mut command = Command::new(binary);
    command
        .args(["-c", "user.name=Millhand demo", "-c", "user.email=demo@localhost", "-c", "core.hooksPath=/dev/null"])
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE");
    command
}

/// Queues the tasks, follows them, and shows what came of them.
async fn run_tasks(context: &Context, store: &Store, repository: &Path) -> Outcome<(Exit, Vec<TaskId>)> {
    let screen = context.screen;
    let step = |text: &str| screen.line(&format!("\n{} {}", "==".style(dim()), text.style(bold())));
    let tasks = queue(context, store, repository).await?;
    for (number, id) in tasks.iter().enumerate() {
        let prompt = DEMO_TASKS[number].prompt;
        step(&format!("{id}: {prompt}"))?;
        let exit = live::follow(context, store, *id, false, live::interrupts()?).await?;
        if exit != Exit::Done {
            return Ok((exit, tasks));
        }
    }
    // The second task's result holds the first one's: both are one session.
    for id in [tasks.get(1), tasks.get(2)].into_iter().flatten() {
        step(&format!("What {id} changed, with all before it in its session: millhand diff {id}"))?;
        if let Some(changes) = actions::changes(store, AnyId::Task(*id)).await? {
            diff::print_changes(&mut Paged::onto(context.screen), store, &id.to_string(), &changes).await?;
        }
    }
    step("What it cost (at made-up prices): millhand stats --by model")?;
    let paid = actions::costs(store, CostBy::Model, &CostFilter::default(), MODELS).await?;
    costs::print_costs(context, &paid, CostBy::Model)?;
    Ok((Exit::Done, tasks))
}

async fn queue(context: &Context, store: &Store, repository: &Path) -> Outcome<Vec<TaskId>> {
    let screen = context.screen;
    let source = context.git().await?.inspect(&repository.to_string_lossy()).await?;
    let request = ProjectRequest {
        name: PROJECT.to_owned(),
        source: source.location,
        host_id: Some(context.host_id()?),
        ..ProjectRequest::default()
    };
    actions::add_project(store, &request).await?;
    screen.line(&format!(
        "\n{} {}",
        "==".style(dim()),
        "Three tasks: two in one session, one beside it".style(bold())
    ))?;
    let mut tasks = Vec::new();
    let mut sessions: Vec<(usize, i64)> = Vec::new();
    for task in DEMO_TASKS {
        let request = TaskRequest {
            prompt: task.prompt.to_owned(),
            model: Some(model_name(task.script)),
            ..TaskRequest::default()
        };
        let row = match sessions.iter().find(|(number, _)| *number == task.session) {
            Some((_, session)) => actions::send(store, *session, Chat::First, &request).await?.task,
            None => actions::enqueue(store, PROJECT, &request).await?.task,
        };
        sessions.push((task.session, row.session_id));
        screen.line(&format!("{} in s{}: {}", TaskId(row.id).style(bold()), row.session_id, safe_line(task.prompt)))?;
        tasks.push(TaskId(row.id));
    }
    Ok(tasks)
}

fn say_next(outer: &Context, demo: &Context, repository: &Path, tasks: &[TaskId]) -> Outcome<()> {
    let screen = outer.screen;
    let program =
        std::env::args_os().next().map_or_else(|| "millhand".to_owned(), |name| name.to_string_lossy().into_owned());
    let program = safe_line(&program);
    let last = tasks.get(1).or(tasks.first()).map(ToString::to_string).unwrap_or_default();
    screen.line(&format!("\n{} {}", "==".style(dim()), "Next".style(bold())))?;
    screen.line("Look around in the demo, which has a home of its own:")?;
    screen.line(&format!("  export MILLHAND_HOME={}", demo.settings.home.root().display()))?;
    if !outer.settings.database.is_private() {
        screen.line("  unset DATABASE_URL MILLHAND_DATABASE_URL PGHOST")?;
    }
    screen.line(&format!("  {program} ls"))?;
    screen.line(&format!("  {program} show {last}"))?;
    screen.line(&format!("  {program} review {last}"))?;
    screen.line(&format!("  {program} apply {last}   # onto main of {}", repository.display()))?;
    screen.line(
        "In another terminal, with your own model and repository (opencode's logins and settings work here too):",
    )?;
    screen.line(&format!("  {program} up --detach"))?;
    screen.line("  cd YOUR-REPOSITORY")?;
    screen.line(&format!("  {program} run \"Add a --json flag\""))?;
    Ok(())
}
