//! Putting tasks into the queue, and acting on those in it.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};

use super::{ActionError, Result, no_chat, no_session, no_task, project_named};
use crate::store::{
    Store,
    people::{Inserted, NewTask, NewTaskChat},
    reads::TaskRow,
};

/// What to ask an agent, apart from where.
#[derive(Clone, Debug, Default)]
pub struct TaskRequest {
    /// The prompt.
    pub prompt: String,
    /// Agent, with its mode; none: the project's.
    pub agent: Option<String>,
    /// Model; none: the project's.
    pub model: Option<String>,
    /// Variant of the model.
    pub variant: Option<String>,
    /// Lower runs first.
    pub priority: i32,
    /// The same key twice is the same task; none: a random one, which makes tries after a lost reply safe.
    pub idempotency_key: Option<String>,
    /// Commit that is merged into the session's worktree before the turn.
    pub merge_commit: Option<String>,
    /// Branch that it is of; none: the session's own.
    pub merge_branch: Option<String>,
}

/// Which chat of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chat {
    /// The first one.
    #[default]
    First,
    /// This one.
    Existing(i64),
    /// A new one, whose agent knows nothing of the others.
    New,
}

/// A task that is in the queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Queued {
    /// The task.
    pub task: TaskRow,
    /// False: its key had put it there before.
    pub is_new: bool,
}

/// What acting on a task did.
#[derive(Clone, Debug, PartialEq)]
pub struct Acted {
    /// False: there was nothing to do.
    pub changed: bool,
    /// The task, as it is now.
    pub task: TaskRow,
}

/// Opens a session in a project with a first task.
pub async fn enqueue(store: &Store, project: &str, request: &TaskRequest) -> Result<Queued> {
    check_prompt(&request.prompt)?;
    project_named(store, project).await?;
    insert(store, NewTask { project: Some(project), ..NewTask::default() }, request).await
}

/// Continues a session.
pub async fn send(store: &Store, session_id: i64, chat: Chat, request: &TaskRequest) -> Result<Queued> {
    check_prompt(&request.prompt)?;
    if store.session(session_id).await?.is_none() {
        return Err(no_session(session_id));
    }
    let chat = match chat {
        Chat::First => NewTaskChat::First,
        Chat::New => NewTaskChat::New,
        Chat::Existing(id) if store.chat(id).await?.is_none() => return Err(no_chat(id)),
        Chat::Existing(id) => NewTaskChat::Existing(id),
    };
    insert(store, NewTask { session_id: Some(session_id), chat, ..NewTask::default() }, request).await
}

/// What Postgres cannot hold. All else that is wrong with a prompt, the database says itself.
fn check_prompt(prompt: &str) -> Result<()> {
    match prompt.find('\0') {
        None => Ok(()),
        Some(place) => Err(ActionError::Refused {
            what: format!("the prompt has a NUL at byte {place}, which Postgres cannot store"),
            hint: Some("a prompt is text; put binary data into a file of the repository".to_owned()),
        }),
    }
}

async fn insert(store: &Store, place: NewTask<'_>, request: &TaskRequest) -> Result<Queued> {
    let key = request.idempotency_key.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let task = NewTask {
        prompt: &request.prompt,
        agent: request.agent.as_deref(),
        model: request.model.as_deref(),
        variant: request.variant.as_deref(),
        priority: request.priority,
        idempotency_key: &key,
        merge_commit: request.merge_commit.as_deref(),
        merge_branch: request.merge_branch.as_deref(),
        ..place
    };
    // A lost reply leaves open whether it is in the queue; the key makes asking again harmless.
    let again = ExponentialBuilder::default().with_min_delay(Duration::from_millis(200)).with_max_times(3);
    let Inserted { task_id, is_new, .. } =
        (|| store.insert_task(&task)).retry(again).when(crate::store::StoreError::is_unreachable).await?;
    let task = store.task(task_id).await?.ok_or_else(|| no_task(task_id))?;
    Ok(Queued { task, is_new })
}

async fn after(store: &Store, task_id: i64, changed: bool) -> Result<Acted> {
    let task = store.task(task_id).await?.ok_or_else(|| no_task(task_id))?;
    Ok(Acted { changed, task })
}

/// Cancels a task: at once if it does not run, else its worker stops the turn.
pub async fn cancel(store: &Store, task_id: i64) -> Result<Acted> {
    let changed = store.cancel_task(task_id).await?;
    after(store, task_id, changed).await
}

/// Takes a failed or blocked task out of the inbox, and lets what is behind it run.
pub async fn dismiss(store: &Store, task_id: i64) -> Result<Acted> {
    let changed = store.dismiss_task(task_id).await?;
    after(store, task_id, changed).await
}

/// What a task is run again with, where it is not what it was.
#[derive(Clone, Debug, Default)]
pub struct RetryWith {
    /// Another prompt.
    pub prompt: Option<String>,
    /// Another model.
    pub model: Option<String>,
    /// Another agent, with its mode.
    pub agent: Option<String>,
}

/// Runs a failed, blocked or cancelled task again.
pub async fn retry(store: &Store, task_id: i64, with: &RetryWith) -> Result<Acted> {
    if let Some(prompt) = &with.prompt {
        check_prompt(prompt)?;
    }
    let changed =
        store.retry_task(task_id, with.prompt.as_deref(), with.model.as_deref(), with.agent.as_deref()).await?;
    after(store, task_id, changed).await
}
