//! `millhand project`, and finding the project that a command is about.

use std::path::Path;

use comfy_table::Cell;
use owo_colors::OwoColorize as _;

use super::{
    Context,
    apply::who,
    args, database,
    failure::{Exit, Failure, Outcome},
    screen::{bold, dim, keep_whole},
    text::{self, count, safe_line, short},
};
use crate::{
    actions::{self, ProjectRequest},
    git::{Git, Source, SourceKind, Tip},
    model::source::without_password,
    store::{
        Store,
        projects::{ProjectLook, ProjectRow},
        setup::SetupChange,
    },
};

/// `millhand project`.
pub(super) async fn project(context: &Context, command: args::Project) -> Outcome {
    let store = database::open(context).await?;
    match command {
        args::Project::Ls => ls(context, &store).await,
        args::Project::Add(arguments) => add(context, &store, arguments).await,
        args::Project::Set(arguments) => set(context, &store, arguments).await,
        args::Project::Rm(arguments) => {
            let removed = actions::remove_project(&store, &arguments.name, arguments.force).await?;
            let removed = actions::public(removed);
            context.screen.object("project", &removed)?;
            let source = safe_line(&removed.source);
            context.screen.line(&format!("{} removed; {source} is left as it is", removed.name.style(bold())))?;
            Ok(Exit::Done)
        }
    }
}

async fn ls(context: &Context, store: &Store) -> Outcome {
    let screen = context.screen;
    let projects = actions::list_projects(store).await?;
    for look in &projects {
        screen.object("project", look)?;
    }
    if projects.is_empty() {
        screen.line("No projects. Register one: millhand project add PATH")?;
        return Ok(Exit::Done);
    }
    let mut table = screen.table(&["PROJECT", "BRANCH", "AGENT", "MODEL", "OPEN", "TO REVIEW", "SOURCE"]);
    for ProjectLook { project, open } in &projects {
        table.add_row(vec![
            Cell::new(safe_line(&project.name)),
            Cell::new(safe_line(project.base_branch.as_deref().unwrap_or("as checked out"))),
            Cell::new(safe_line(&project.default_agent)),
            Cell::new(safe_line(project.default_model.as_deref().unwrap_or("agent's default"))),
            Cell::new(count(open.open_tasks + open.running_tasks, "task")),
            Cell::new(count(open.pending_changes, "file")),
            Cell::new(safe_line(&project.source)),
        ]);
    }
    keep_whole(&mut table, &[0, 4, 5]);
    screen.print_table(&table)?;
    Ok(Exit::Done)
}

async fn add(context: &Context, store: &Store, arguments: args::ProjectAdd) -> Outcome {
    let screen = context.screen;
    let git = context.git().await?;
    let progress = screen.progress("looking at the repository");
    let source = git.inspect(&arguments.source).await?;
    // A branch that is not there is better said now than by the first task.
    git.tip(&source, arguments.branch.as_deref()).await?;
    drop(progress);
    let request = ProjectRequest {
        branch: arguments.branch,
        agent: arguments.agent,
        model: arguments.model,
        on_failure: arguments.on_failure.map(|what| {
            let word = match what {
                args::OnFailure::Hold => "hold",
                args::OnFailure::Continue => "continue",
            };
            word.to_owned()
        }),
        resend: arguments.resend.map(|what| {
            let word = match what {
                args::Resend::Continue => "continue",
                args::Resend::Ask => "ask",
            };
            word.to_owned()
        }),
        asks: arguments.asks.map(|what| {
            let word = match what {
                args::Asks::Reject => "reject",
                args::Asks::Allow => "allow",
                args::Asks::Inbox => "inbox",
            };
            word.to_owned()
        }),
        trusted: arguments.trust,
        env_pass: arguments.env_pass,
        max_attempts: arguments.max_attempts,
        ..request_for(context, &source, arguments.name)?
    };
    let row = actions::add_project(store, &request).await?;
    let row = actions::public(row);
    screen.object("project", &row)?;
    let from = safe_line(&source.public_location());
    screen.line(&format!("{} registered {}", safe_line(&row.name).style(bold()), format!("({from})").style(dim())))?;
    if source.kind == SourceKind::Url && source.public_location() != source.location {
        screen.warn(
            "the URL holds a password, which is stored in the database; better let git's credential helper know it",
        );
    }
    screen.line(&format!("{}", format!("  Next: millhand run --project {} \"...\"", row.name).style(dim())))?;
    Ok(Exit::Done)
}

async fn set(context: &Context, store: &Store, arguments: args::ProjectSet) -> Outcome {
    let project = actions::project_named(store, &arguments.name).await?;
    let copy = arguments.copy.iter().map(|given| copied(given, &project)).collect::<Outcome<Vec<_>>>()?;
    let change = SetupChange {
        command: arguments.setup.as_deref().map(str::trim),
        keep: arguments.keep_ignored,
        copy: &copy,
        no_copy: &arguments.no_copy,
        check_resends: arguments.check_resends,
        checks_required: arguments.require_checks,
    };
    let row = actions::public(actions::change_setup(store, &project.name, &change, &who(context)).await?);
    let screen = context.screen;
    screen.object("project", &row)?;
    let field = |name: &str, value: &str| screen.line(&format!("  {} {value}", format!("{name:<9}").style(dim())));
    screen.line(&format!("{}", safe_line(&row.name).style(bold())))?;
    field("setup", &row.setup_command.as_deref().map_or("none".to_owned(), |command| short(command, 200)))?;
    let files = if row.copied_files.is_empty() { "none".to_owned() } else { row.copied_files.join(", ") };
    field("copies", &safe_line(&files))?;
    field("keeps", if row.setup_kept { "ignored files of pooled worktrees" } else { "nothing between sessions" })?;
    let required = if row.checks_required { "required to apply" } else { "shown when applying" };
    field(
        "checks",
        &format!("{required}; failed ones are sent back at most {}", count(row.check_resends.into(), "time")),
    )?;
    Ok(Exit::Done)
}

/// Where in the worktree a file is copied to, and where it is.
fn copied(given: &str, project: &ProjectRow) -> Outcome<(String, String)> {
    let (file, path) = match given.rsplit_once(':') {
        Some((file, path)) if !path.is_empty() => (file, Some(path)),
        _ => (given.trim_end_matches(':'), None),
    };
    let usage = |why: String| Failure::usage(why, "name a file on this host: --copy FILE, or --copy FILE:PATH");
    let real = Path::new(file).canonicalize().map_err(|error| usage(format!("{file}: {error}")))?;
    if !real.is_file() {
        return Err(usage(format!("{file} is not a file")));
    }
    let default = real.strip_prefix(&project.source).ok().or_else(|| real.file_name().map(Path::new));
    let path = path.map(str::to_owned).or_else(|| default?.to_str().map(str::to_owned));
    match (path, real.to_str()) {
        (Some(path), Some(real)) => Ok((path, real.to_owned())),
        _ => Err(usage(format!("{} is not UTF-8", real.display()))),
    }
}

fn request_for(context: &Context, source: &Source, name: Option<String>) -> Outcome<ProjectRequest> {
    Ok(ProjectRequest {
        name: name.unwrap_or_else(|| actions::valid_name(&source.suggested_name)),
        source: source.location.clone(),
        host_id: match source.kind {
            SourceKind::Path => Some(context.host_id()?),
            SourceKind::Url => None,
        },
        ..ProjectRequest::default()
    })
}

/// The project that a run is about, and its repository where that is on this host.
pub(super) struct Chosen {
    pub(super) row: ProjectRow,
    git: Option<(Git, Source)>,
}

/// Finds the project that `run` is about: the one named, or the one of the repository that the user is in.
pub(super) async fn for_run(context: &Context, store: &Store, named: Option<&str>, yes: bool) -> Outcome<Chosen> {
    if let Some(name) = named {
        let row = actions::project_named(store, name).await?;
        let here = row.host_id.as_deref() == Some(&context.host_id()?) && Path::new(&row.source).is_absolute();
        if !here {
            return Ok(Chosen { row, git: None });
        }
        let git = context.git().await?;
        let source = git.inspect(&row.source).await?;
        return Ok(Chosen { row, git: Some((git, source)) });
    }
    let git = context.git().await?;
    let source = git.inspect(".").await.map_err(|error| Failure {
        hint: Some("go into the repository, or name its project: --project NAME; see: millhand project ls".to_owned()),
        ..Failure::from(error)
    })?;
    let mut found = actions::project_of(store, &source.location, &context.host_id()?).await?;
    if found.len() > 1 {
        let names: Vec<_> = found.iter().map(|project| project.name.as_str()).collect();
        let message = format!("{} is registered as {}", source.location, names.join(" and "));
        return Err(Failure::usage(message, "name one: --project NAME"));
    }
    let row = match found.pop() {
        Some(row) => row,
        None => add_this(context, store, &source, yes).await?,
    };
    Ok(Chosen { row, git: Some((git, source)) })
}

/// Registers the repository that the user is in, if they say so.
async fn add_this(context: &Context, store: &Store, source: &Source, yes: bool) -> Outcome<ProjectRow> {
    let screen = context.screen;
    let request = request_for(context, source, None)?;
    let place = safe_line(&source.location);
    if !yes {
        let message = format!("{place} is not a project yet");
        let hint = "register it: millhand project add, or run again with --yes";
        if !screen.can_ask {
            return Err(Failure::usage(message, hint));
        }
        if !screen.ask(&format!("{message}. Add it as \"{}\"?", request.name))? {
            return Err(Failure::usage("nothing was queued", hint));
        }
    }
    let row = actions::add_project(store, &request).await?;
    screen.note(&format!("{} registered {}", row.name.style(bold()), format!("({place})").style(dim())));
    Ok(row)
}

/// The name of the project that is named, or of the repository that the user is in.
pub(super) async fn name_of(context: &Context, store: &Store, named: Option<&str>) -> Outcome<String> {
    if let Some(name) = named {
        return Ok(actions::project_named(store, name).await?.name);
    }
    let no = |message: String| Failure::usage(message, "name the project: --project NAME; see: millhand project ls");
    let source = context.git().await?.inspect(".").await.map_err(|error| no(error.to_string()))?;
    let mut found = actions::project_of(store, &source.location, &context.host_id()?).await?;
    match (found.pop(), found.is_empty()) {
        (Some(row), true) => Ok(row.name),
        _ => Err(no(format!("{} is not registered as one project", source.location))),
    }
}

/// Names what the session starts from, and warns of what is not part of it.
pub(super) async fn say_base(context: &Context, project: &Chosen) -> Outcome<()> {
    let screen = context.screen;
    let branch = project.row.base_branch.as_deref();
    let Some((git, source)) = &project.git else {
        let branch =
            branch.map_or_else(|| "its default branch".to_owned(), |name| format!("branch {}", safe_line(name)));
        let source = safe_line(&without_password(&project.row.source));
        screen.note(&format!("{}", format!("Base: {branch} of {source}, as it is when the task starts").style(dim())));
        return Ok(());
    };
    let Some(tip) = git.tip(source, branch).await? else { return Ok(()) };
    screen.note(&format!("Base: {}", base_of(&tip)));
    if source.uncommitted > 0 {
        let files = count(i64::try_from(source.uncommitted).unwrap_or(i64::MAX), "uncommitted file");
        let verb = if source.uncommitted == 1 { "is" } else { "are" };
        screen.warn(&format!(
            "{files} in {} {verb} not included: the agent starts from the commit",
            safe_line(&source.location)
        ));
    }
    Ok(())
}

fn base_of(tip: &Tip) -> String {
    let branch = tip.branch.as_deref().map_or_else(|| "detached HEAD".to_owned(), safe_line);
    match &tip.commit {
        None => format!("{} {}", branch.style(bold()), "(no commit yet)".style(dim())),
        Some(commit) => {
            let subject = short(&tip.subject, 70);
            format!("{} {} {}", branch.style(bold()), text::commit(commit), subject.style(dim()))
        }
    }
}
