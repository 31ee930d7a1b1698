//! `millhand project`, and finding the project that a command is about.

use std::path::Path;

use comfy_table::Cell;
use owo_colors::OwoColorize as _;

use super::{
    Context, args, database,
    failure::{Exit, Failure, Outcome},
    screen::{bold, dim, keep_whole},
    text::{self, count, safe_line, short, without_password},
};
use crate::{
    actions::{self, ProjectRequest},
    git::{Git, Source, SourceKind, Tip},
    store::{Store, reads::ProjectRow},
};

/// `millhand project`.
pub(super) async fn project(context: &Context, command: args::Project) -> Outcome {
    let store = database::open(context).await?;
    match command {
        args::Project::Ls => ls(context, &store).await,
        args::Project::Add(arguments) => add(context, &store, arguments).await,
        args::Project::Rm(arguments) => {
            let removed = actions::remove_project(&store, &arguments.name, arguments.force).await?;
            let removed = public(removed);
            context.screen.object("project", &removed)?;
            let source = safe_line(&removed.source);
            context.screen.line(&format!("{} removed; {source} is left as it is", removed.name.style(bold())))?;
            Ok(Exit::Done)
        }
    }
}

/// What of a project may be shown: not the password in its URL.
fn public(project: ProjectRow) -> ProjectRow {
    ProjectRow { source: without_password(&project.source), ..project }
}

async fn ls(context: &Context, store: &Store) -> Outcome {
    let screen = context.screen;
    let projects: Vec<_> = actions::list_projects(store).await?.into_iter().map(public).collect();
    for project in &projects {
        screen.object("project", project)?;
    }
    if projects.is_empty() {
        screen.line("No projects. Register one: millhand project add PATH")?;
        return Ok(Exit::Done);
    }
    let mut table = screen.table(&["PROJECT", "BRANCH", "AGENT", "MODEL", "OPEN", "TO REVIEW", "SOURCE"]);
    for project in &projects {
        table.add_row(vec![
            Cell::new(safe_line(&project.name)),
            Cell::new(safe_line(project.base_branch.as_deref().unwrap_or("as checked out"))),
            Cell::new(safe_line(&project.default_agent)),
            Cell::new(safe_line(project.default_model.as_deref().unwrap_or("agent's default"))),
            Cell::new(count(project.open_tasks + project.running_tasks, "task")),
            Cell::new(count(project.pending_changes, "file")),
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
            };
            word.to_owned()
        }),
        trusted: arguments.trust,
        env_pass: arguments.env_pass,
        max_attempts: arguments.max_attempts,
        ..request_for(context, &source, arguments.name)?
    };
    let row = actions::add_project(store, &request).await?;
    let row = public(row);
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
