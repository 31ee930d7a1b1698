//! Checks: which commands a project has, what they said of changes, and sending failed ones back.

use super::{ActionError, Changes, Result, decide::open_changes, project_named};
use crate::{
    model::{
        check::{CheckState, Failed, Standing, feedback_prompt, standing},
        ids::AnyId,
    },
    store::{
        Store, StoreError,
        checks::{CheckRow, Feedback},
    },
};

/// Adds a check to a project, or changes the one of this name.
pub async fn add_check(
    store: &Store,
    project: &str,
    name: &str,
    command: &str,
    limit_seconds: Option<i32>,
    who: &str,
) -> Result<CheckRow> {
    let project = project_named(store, project).await?;
    if command.trim().is_empty() || command.contains('\0') {
        return Err(ActionError::Refused { what: "the command is empty, or has a NUL".to_owned(), hint: None });
    }
    match store.add_check(&project.name, name, command, limit_seconds, who).await.map_err(ActionError::from) {
        Err(ActionError::Refused { what, .. }) if what.contains("checks_name_form") => Err(ActionError::Refused {
            what: format!("\"{name}\" cannot be a check's name"),
            hint: Some("use letters, digits, '.', '_' and '-'".to_owned()),
        }),
        other => other,
    }
}

/// Removes a check from a project.
pub async fn remove_check(store: &Store, project: &str, name: &str, who: &str) -> Result<()> {
    let project = project_named(store, project).await?;
    if store.remove_check(&project.name, name, who).await? {
        return Ok(());
    }
    Err(ActionError::NotFound {
        what: format!("project \"{}\" has no check \"{name}\"", project.name),
        hint: "see: millhand check ls".to_owned(),
    })
}

/// The checks of a project, or of all.
pub async fn list_checks(store: &Store, project: Option<&str>) -> Result<Vec<CheckRow>> {
    if let Some(project) = project {
        project_named(store, project).await?;
    }
    Ok(store.checks(project).await?)
}

/// Has the open change set of a session or task checked again, by the checks that its project has now.
pub async fn run_checks(store: &Store, id: AnyId) -> Result<Changes> {
    let found = open_changes(store, id).await?;
    if store.checks(Some(&found.set.project)).await?.is_empty() {
        return Err(ActionError::Refused {
            what: format!("project \"{}\" has no checks", found.set.project),
            hint: Some("add one: millhand check add NAME COMMAND".to_owned()),
        });
    }
    store.ask_for_checks(found.set.id).await?;
    open_changes(store, id).await
}

/// How the checks of changes stand together.
pub async fn checks_of(store: &Store, changes: &Changes) -> Result<Standing> {
    let configured = store.checks(Some(&changes.set.project)).await?;
    let configured: Vec<&str> = configured.iter().map(|check| check.name.as_str()).collect();
    let runs: Vec<_> = changes.checks.iter().map(|run| CheckState { name: &run.name, state: &run.state }).collect();
    Ok(standing(&configured, &runs))
}

/// Queues the prompt that sends the failed checks of a change set back to its agent. The task, if it was to be done.
pub async fn send_back(store: &Store, due: &Feedback) -> std::result::Result<Option<i64>, StoreError> {
    let runs = store.check_runs(due.change_set_id).await?;
    let failed: Vec<_> = runs
        .iter()
        .filter(|run| matches!(run.state.as_str(), "failed" | "timed_out"))
        .map(|run| Failed {
            name: &run.name,
            command: &run.command,
            exit_code: run.exit_code,
            problem: run.problem.as_deref(),
            output: run.output.as_deref().unwrap_or_default(),
        })
        .collect();
    if failed.is_empty() {
        return Ok(None);
    }
    store.send_feedback(due, &feedback_prompt(&failed, due.round, due.at_most)).await
}
