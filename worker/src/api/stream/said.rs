//! What streams say, as the document describes it.

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    actions::{Activity, Look},
    store::reads_turns::{AttemptRow, TurnEventRow},
};

/// An event of a task's stream: `attempt`, `event`, or, with the task, `waits` and `ended`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(in crate::api) enum TaskEvent<'a> {
    /// How the task stands.
    Task(&'a Look),
    /// An attempt began, or is over.
    Attempt(&'a AttemptRow),
    /// A line of the transcript.
    Line(&'a TurnEventRow),
}

impl TaskEvent<'_> {
    /// The name that it is sent under.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Task(look) if super::task::is_at_rest(&look.task.state) => "ended",
            Self::Task(_) => "waits",
            Self::Attempt(_) => "attempt",
            Self::Line(_) => "event",
        }
    }
}

/// An event of the fleet's stream: `activity`, `change` or `reset`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(in crate::api) enum FleetEvent<'a> {
    /// What runs now.
    Activity(&'a Activity),
    /// Something changed.
    Change(&'a Change),
}

impl FleetEvent<'_> {
    /// The name that it is sent under.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Activity(_) => "activity",
            Self::Change(change) if change.kind == Change::RESET => "reset",
            Self::Change(_) => "change",
        }
    }
}

/// What changed. A hint: whoever shows it asks for it again.
#[derive(Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(in crate::api) struct Change {
    /// What kind of thing: task, change_set, ask, worker, webhook, token, project, change; reset: anything.
    pub(super) kind: &'static str,
    /// Its id, where one thing changed that has one.
    pub(super) id: Option<i64>,
    /// Of this task.
    pub(super) task_id: Option<i64>,
    /// Of this session.
    pub(super) session_id: Option<i64>,
    /// Of this project.
    pub(super) project: Option<String>,
    /// What was done, as the audit log has it.
    pub(super) action: Option<String>,
}

impl Change {
    /// The kind of what is told when it is not known any more what was missed.
    pub(super) const RESET: &'static str = "reset";
}
