//! Looking: lists, one task, one session, the inbox, the whole.

use std::time::Duration;

use serde::Serialize;

use super::{ActionError, Changes, Fleet, Result, changes, no_chat, no_session, no_task, project_named, why};
use crate::{
    model::ids::{AnyId, TaskId},
    store::{
        Store,
        fleet::ServerRow,
        migrate::SchemaState,
        reads::{AgentRow, InboxFilter, InboxRow, LiveWorker, SessionFilter, SessionRow, TaskFilter, TaskRow},
        reads_turns::AttemptRow,
    },
};

/// A task in a list.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Look {
    /// The task.
    #[serde(flatten)]
    pub task: TaskRow,
    /// Why it does not run yet.
    pub why: Option<String>,
}

/// A task with all that happened to it.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskView {
    /// The task.
    pub look: Look,
    /// Its session.
    pub session: SessionRow,
    /// Its attempts, in order.
    pub attempts: Vec<AttemptRow>,
    /// What it changed.
    pub changes: Option<Changes>,
    /// How many tasks wait behind it.
    pub behind: i64,
}

/// A session with its tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionView {
    /// The session.
    pub session: SessionRow,
    /// Its tasks, newest first.
    pub tasks: Vec<Look>,
    /// Its newest result.
    pub changes: Option<Changes>,
}

/// How the whole is.
#[derive(Clone, Debug, PartialEq)]
pub struct Overview {
    /// The schema.
    pub schema: SchemaState,
    /// Workers heard of lately.
    pub workers: Vec<LiveWorker>,
    /// Their agents' servers.
    pub servers: Vec<ServerRow>,
    /// Tasks per state; of those that are over, the ones of the last 24 hours.
    pub tasks: Vec<(String, i64)>,
    /// How long the oldest task that could run has waited.
    pub oldest_due: Option<Duration>,
    /// Deliveries to webhooks that were given up.
    pub dead_deliveries: i64,
    /// Webhooks that their receivers had turned off.
    pub webhooks_off: i64,
}

/// Who could run something now. `window` is how long a lease lives.
async fn fleet(store: &Store, window: Duration) -> Result<Fleet> {
    Ok(Fleet {
        workers: store.live_workers(window).await?,
        agents: store.agents().await?,
        over_budget: store.budgets_over().await?,
    })
}

fn look(task: TaskRow, fleet: &Fleet) -> Look {
    Look { why: why(&task, fleet), task }
}

/// Tasks, newest first.
pub async fn list_tasks(store: &Store, filter: &TaskFilter, at_most: i64, window: Duration) -> Result<Vec<Look>> {
    if let Some(project) = &filter.project {
        project_named(store, project).await?;
    }
    if let Some(id) = filter.session_id
        && store.session(id).await?.is_none()
    {
        return Err(no_session(id));
    }
    let fleet = fleet(store, window).await?;
    Ok(store.tasks(filter, at_most).await?.into_iter().map(|task| look(task, &fleet)).collect())
}

/// Sessions, newest first.
pub async fn list_sessions(store: &Store, filter: &SessionFilter, at_most: i64) -> Result<Vec<SessionRow>> {
    if let Some(project) = &filter.project {
        project_named(store, project).await?;
    }
    Ok(store.sessions(filter, at_most).await?)
}

/// The task that an id means: itself, or the newest of a session or chat.
pub async fn resolve_task(store: &Store, id: AnyId) -> Result<TaskId> {
    let (latest, of) = match id {
        AnyId::Task(id) => return Ok(id),
        AnyId::Session(id) => {
            if store.session(id.0).await?.is_none() {
                return Err(no_session(id.0));
            }
            (store.latest_task_of_session(id.0).await?, format!("session {id}"))
        }
        AnyId::Chat(id) => {
            let (_, latest) = store.chat(id.0).await?.ok_or_else(|| no_chat(id.0))?;
            (latest, format!("chat {id}"))
        }
    };
    latest.map(TaskId).ok_or_else(|| ActionError::NotFound {
        what: format!("{of} has no task yet"),
        hint: "queue one: millhand send SESSION PROMPT".to_owned(),
    })
}

/// A task as it is now, with why it waits.
pub(super) async fn look_at(store: &Store, task_id: i64, window: Duration) -> Result<Look> {
    let task = store.task(task_id).await?.ok_or_else(|| no_task(task_id))?;
    // Who could run it matters only while it waits.
    let waits = matches!(task.state.as_str(), "pending" | "waiting");
    let fleet = if waits { fleet(store, window).await? } else { Fleet::default() };
    Ok(look(task, &fleet))
}

/// A task as it is now, with why it waits.
pub async fn task(store: &Store, task_id: i64, window: Duration) -> Result<Look> {
    look_at(store, task_id, window).await
}

/// A session.
pub async fn session(store: &Store, session_id: i64) -> Result<SessionRow> {
    store.session(session_id).await?.ok_or_else(|| no_session(session_id))
}

/// A task with all that happened to it.
pub async fn show_task(store: &Store, task_id: i64, window: Duration) -> Result<TaskView> {
    let look = look_at(store, task_id, window).await?;
    let session = store.session(look.task.session_id).await?.ok_or_else(|| no_session(look.task.session_id))?;
    Ok(TaskView {
        session,
        attempts: store.attempts(task_id).await?,
        changes: changes(store, AnyId::Task(TaskId(task_id))).await?,
        behind: store.waiting_behind(task_id).await?,
        look,
    })
}

/// A session with its newest tasks.
pub async fn show_session(store: &Store, session_id: i64, at_most: i64, window: Duration) -> Result<SessionView> {
    let session = store.session(session_id).await?.ok_or_else(|| no_session(session_id))?;
    let filter = TaskFilter { session_id: Some(session_id), ..TaskFilter::default() };
    Ok(SessionView {
        tasks: list_tasks(store, &filter, at_most, window).await?,
        changes: changes(store, AnyId::Session(crate::model::ids::SessionId(session_id))).await?,
        session,
    })
}

/// What needs a person, newest first.
pub async fn inbox(store: &Store, filter: &InboxFilter, at_most: i64) -> Result<Vec<InboxRow>> {
    if let Some(project) = &filter.project {
        project_named(store, project).await?;
    }
    Ok(store.inbox(filter, at_most).await?)
}

/// What hosts can run, as they last said.
pub async fn models(store: &Store) -> Result<Vec<AgentRow>> {
    Ok(store.agents().await?)
}

/// Workers heard of within the window.
pub async fn workers(store: &Store, window: Duration) -> Result<Vec<LiveWorker>> {
    Ok(store.live_workers(window).await?)
}

/// The session of a chat.
pub async fn session_of_chat(store: &Store, chat_id: i64) -> Result<i64> {
    store.chat(chat_id).await?.map(|(session_id, _)| session_id).ok_or_else(|| no_chat(chat_id))
}

/// How the whole is.
pub async fn overview(store: &Store, window: Duration) -> Result<Overview> {
    let schema = store.schema_state().await?;
    if schema.require_current().is_err() {
        return Ok(Overview {
            schema,
            workers: Vec::new(),
            servers: Vec::new(),
            tasks: Vec::new(),
            oldest_due: None,
            dead_deliveries: 0,
            webhooks_off: 0,
        });
    }
    let (dead_deliveries, webhooks_off) = store.webhook_trouble().await?;
    Ok(Overview {
        schema,
        workers: store.live_workers(window).await?,
        servers: store.servers(window).await?,
        tasks: store.tasks_by_state().await?,
        oldest_due: store.oldest_due().await?,
        dead_deliveries,
        webhooks_off,
    })
}
