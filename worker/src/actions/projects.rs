//! Projects: registering, listing, removing, and finding the one that a folder belongs to.

use super::{ActionError, Result};
use crate::{
    model::{command::refused_path, source::without_password},
    store::{
        Store,
        people::ProjectOptions,
        projects::{ProjectLook, ProjectRow},
        setup::SetupChange,
    },
};

/// A project to register.
#[derive(Clone, Debug, Default)]
pub struct ProjectRequest {
    /// What to call it.
    pub name: String,
    /// The canonical path of the repository, or its URL.
    pub source: String,
    /// The host that has the path; none for a URL.
    pub host_id: Option<String>,
    /// Branch that sessions start from; none: the one checked out then.
    pub branch: Option<String>,
    /// Agent of tasks that name none.
    pub agent: Option<String>,
    /// Model of tasks that name none.
    pub model: Option<String>,
    /// hold or continue.
    pub on_failure: Option<String>,
    /// continue or ask.
    pub resend: Option<String>,
    /// reject or allow.
    pub asks: Option<String>,
    /// Load the repository's own agent configuration, which is code.
    pub trusted: Option<bool>,
    /// Names of variables that its agents may see; empty: as it is.
    pub env_pass: Vec<String>,
    /// Charged attempts of a new task.
    pub max_attempts: Option<i32>,
}

/// Registers a project. Doing it again with the same source changes the options that are given.
pub async fn add_project(store: &Store, request: &ProjectRequest) -> Result<ProjectRow> {
    let options = ProjectOptions {
        agent: request.agent.as_deref(),
        model: request.model.as_deref(),
        on_failure: request.on_failure.as_deref(),
        resend: request.resend.as_deref(),
        asks: request.asks.as_deref(),
        trusted: request.trusted,
        env_pass: (!request.env_pass.is_empty()).then_some(request.env_pass.as_slice()),
        max_attempts: request.max_attempts,
    };
    for name in &request.env_pass {
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if name.is_empty() || !name.bytes().all(is_name) {
            return Err(ActionError::Refused {
                what: format!("\"{name}\" is not the name of a variable"),
                hint: Some(
                    "give names only, such as --env-pass OPENAI_API_KEY; values stay with the worker".to_owned(),
                ),
            });
        }
    }
    let (branch, host) = (request.branch.as_deref(), request.host_id.as_deref());
    match store.add_project(&request.name, &request.source, branch, host, &options).await.map_err(ActionError::from) {
        Err(ActionError::Refused { what, .. }) if what.contains("projects_name_form") => Err(ActionError::Refused {
            what: format!("\"{}\" cannot be a project's name", request.name),
            hint: Some("use letters, digits, '.', '_' and '-': --name NAME".to_owned()),
        }),
        Err(ActionError::Refused { what, hint }) if what.contains("is already registered") => {
            Err(ActionError::Refused {
                what,
                hint: hint.map(|hint| format!("{hint} millhand project add --name NAME")),
            })
        }
        Err(other) => Err(other),
        Ok(()) => project_named(store, &request.name).await,
    }
}

/// Changes how a project's worktrees are set up, and its changes checked.
pub async fn change_setup(store: &Store, name: &str, change: &SetupChange<'_>, who: &str) -> Result<ProjectRow> {
    project_named(store, name).await?;
    for (path, _) in change.copy {
        if let Some(problem) = refused_path(path) {
            return Err(ActionError::Refused {
                what: format!("no file can be copied to \"{path}\": it {problem}"),
                hint: Some("name a path in the worktree: --copy FILE:PATH".to_owned()),
            });
        }
    }
    if change.command.is_some_and(|command| command.contains('\0')) {
        return Err(ActionError::Refused { what: "the command has a NUL".to_owned(), hint: None });
    }
    store.change_setup(name, change, who).await?;
    project_named(store, name).await
}

/// A valid name for a project that is like this one.
pub fn valid_name(like: &str) -> String {
    let name: String = like
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(100)
        .collect();
    if name.is_empty() { "project".to_owned() } else { name }
}

/// What of a project may be shown: not the password in its URL.
pub fn public(project: ProjectRow) -> ProjectRow {
    ProjectRow { source: without_password(&project.source), ..project }
}

/// All projects and what is open in them, as they may be shown.
pub async fn list_projects(store: &Store) -> Result<Vec<ProjectLook>> {
    let mut open = store.open_work(None).await?;
    let look = |project: ProjectRow| ProjectLook {
        open: open.remove(&project.name).unwrap_or_default(),
        project: public(project),
    };
    Ok(store.projects(None).await?.into_iter().map(look).collect())
}

/// The project of this name and what is open in it, as it may be shown.
pub async fn show_project(store: &Store, name: &str) -> Result<ProjectLook> {
    let project = public(project_named(store, name).await?);
    Ok(ProjectLook { project, open: store.open_work(Some(name)).await?.remove(name).unwrap_or_default() })
}

/// The project of this name.
pub async fn project_named(store: &Store, name: &str) -> Result<ProjectRow> {
    if let Some(found) = store.projects(Some(name)).await?.pop() {
        return Ok(found);
    }
    let known: Vec<_> = store.projects(None).await?.into_iter().map(|project| project.name).collect();
    let nearest = known
        .iter()
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = match nearest {
        Some((_, meant)) => format!("did you mean \"{meant}\"?"),
        None => "register it: millhand project add PATH --name NAME; see: millhand project ls".to_owned(),
    };
    Err(ActionError::NotFound { what: format!("unknown project \"{name}\""), hint })
}

/// The projects that this host registered for a repository.
pub async fn project_of(store: &Store, source: &str, host_id: &str) -> Result<Vec<ProjectRow>> {
    let is_it = |project: &ProjectRow| {
        project.source == source && project.host_id.as_deref().is_none_or(|its_host| its_host == host_id)
    };
    Ok(store.projects(None).await?.into_iter().filter(is_it).collect())
}

/// Removes a project with its sessions and tasks; what it cost stays recorded. Refuses while something runs, and,
/// unless `force`, while something waits or is not reviewed.
pub async fn remove_project(store: &Store, name: &str, force: bool) -> Result<ProjectRow> {
    let project = project_named(store, name).await?;
    let open = store.open_work(Some(name)).await?.remove(name).unwrap_or_default();
    let running = || ActionError::Refused {
        what: format!("tasks of project \"{name}\" are running"),
        hint: Some(format!("cancel them first; see: millhand ls --project {name} --state running")),
    };
    if open.running_tasks > 0 {
        return Err(running());
    }
    if !force && (open.open_tasks > 0 || open.pending_changes > 0) {
        return Err(ActionError::Refused {
            what: format!(
                "project \"{name}\" has {} open tasks and {} changes that nobody has reviewed; they would be lost",
                open.open_tasks, open.pending_changes
            ),
            hint: Some("look at them first (millhand ls, millhand diff), or add --force".to_owned()),
        });
    }
    if store.remove_project(name, force).await? { Ok(project) } else { Err(running()) }
}
