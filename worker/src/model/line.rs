//! The states of a task, and how they follow from one another in a session's line.
//!
//! ```text
//!              insert                 claim                finish
//!   (new) ───► waiting ──► pending ─────────► running ─────────────► completed
//!                 ▲  advance  ▲  │               │  │
//!                 │           │  │ advance:      │  ├──────────────► failed    (holds the line, or not)
//!                 │           │  │ an older one  │  ├──────────────► blocked   (a person is asked)
//!                 └───────────┼──┘ goes first    │  └──────────────► cancelled
//!                 │           └──────────────────┘ again, lost
//!                 └── retry: failed, blocked, cancelled
//! ```
//!
//! The database does this itself (`schema.sql`, `store/sql`), so that plain SQL obeys it as well as Millhand does. This is the
//! same in a form that can be read at one look, and that a test holds the database against, over random interleavings.

use std::collections::BTreeMap;

use super::{
    outcome::Ending,
    retry::{self, Counts, RetryPolicy, Verdict},
};

/// The value of `tasks.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Head of its line: may be claimed.
    Pending,
    /// Behind the head.
    Waiting,
    /// An attempt of it runs.
    Running,
    /// Needs a person; no attempt runs.
    Blocked,
    /// Done.
    Completed,
    /// Final, until a person retries it.
    Failed,
    /// A person took it back.
    Cancelled,
}

impl TaskState {
    /// As the column has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Blocked => "blocked",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it is what its session does now; a session has one at most.
    pub fn is_head(self) -> bool {
        match self {
            Self::Pending | Self::Running | Self::Blocked => true,
            Self::Waiting | Self::Completed | Self::Failed | Self::Cancelled => false,
        }
    }

    /// Whether only a retry leads out of it.
    pub fn is_final(self) -> bool {
        match self {
            Self::Completed | Self::Failed | Self::Cancelled => true,
            Self::Pending | Self::Waiting | Self::Running | Self::Blocked => false,
        }
    }
}

/// A task, as far as its line is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineTask {
    /// Where it stands.
    pub state: TaskState,
    /// It failed, and what is behind it waits.
    pub holds_line: bool,
    /// How often it was tried.
    pub counts: Counts,
    /// Number of its newest attempt.
    pub last_attempt: i32,
    /// Its message may be with the agent: the next attempt continues it.
    pub is_sent: bool,
    /// A person said that the message may be sent once more.
    pub resend_allowed: bool,
    /// A person asked to cancel it.
    pub cancel_requested: bool,
    /// A person took it out of the inbox.
    pub dismissed: bool,
}

/// What decides in a line, besides what happens.
#[derive(Clone, Copy, Debug)]
pub struct LinePolicy {
    /// A failed task holds its line (`projects.on_failure`).
    pub failure_holds: bool,
    /// Bounds on trying again.
    pub retry: RetryPolicy,
}

/// A session's tasks, by id, which is their order.
#[derive(Clone, Debug)]
pub struct Line {
    /// What decides.
    pub policy: LinePolicy,
    /// The session takes tasks.
    pub is_open: bool,
    /// `advance` is to look at it.
    pub is_nudged: bool,
    /// Its tasks.
    pub tasks: BTreeMap<i64, LineTask>,
}

/// What became of what somebody wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was done.
    Yes,
    /// There was nothing to do.
    Nothing,
    /// It is refused, with an error.
    Refused,
}

impl Line {
    /// A new session with its first task, which nobody can be in front of.
    pub fn open(policy: LinePolicy, id: i64, max_attempts: i32) -> Self {
        let first = LineTask { state: TaskState::Pending, ..new_task(max_attempts) };
        Self { policy, is_open: true, is_nudged: false, tasks: BTreeMap::from([(id, first)]) }
    }

    /// The task that the session is at.
    pub fn head(&self) -> Option<i64> {
        self.tasks.iter().find(|(_, task)| task.state.is_head()).map(|(id, _)| *id)
    }

    /// The lowest task that waits.
    pub fn first_waiting(&self) -> Option<i64> {
        self.tasks.iter().find(|(_, task)| task.state == TaskState::Waiting).map(|(id, _)| *id)
    }

    /// Whether a failed task keeps this one from becoming the head.
    pub fn is_held(&self, id: i64) -> bool {
        self.tasks.range(..id).any(|(_, task)| task.holds_line)
    }

    /// Puts a task behind the others.
    pub fn insert(&mut self, id: i64, max_attempts: i32) -> Done {
        if !self.is_open {
            return Done::Refused;
        }
        self.tasks.insert(id, new_task(max_attempts));
        self.is_nudged = true;
        Done::Yes
    }

    /// Works off the nudge: a head that has not begun steps back behind an older task that waits, and where there is no head the
    /// lowest that waits becomes it, unless a failed one holds the line. A head whose message is with the agent is finished first.
    pub fn advance(&mut self) {
        if !std::mem::take(&mut self.is_nudged) {
            return;
        }
        let Some(first) = self.first_waiting() else { return };
        if let Some((_, head)) =
            self.tasks.range_mut(first..).find(|(_, task)| task.state == TaskState::Pending && !task.is_sent)
        {
            head.state = TaskState::Waiting;
        }
        if self.head().is_none() && !self.is_held(first) {
            self.set(first, |task| task.state = TaskState::Pending);
        }
    }

    /// Begins an attempt of the head, if it may be claimed.
    pub fn claim(&mut self) -> Option<i64> {
        let id = self.in_state(TaskState::Pending)?;
        self.set(id, |task| {
            task.state = TaskState::Running;
            task.last_attempt += 1;
        });
        Some(id)
    }

    /// The running attempt is about to send its message.
    pub fn send(&mut self) {
        if let Some(id) = self.in_state(TaskState::Running) {
            self.set(id, |task| {
                task.is_sent = true;
                task.resend_allowed = false;
            });
        }
    }

    /// The running attempt came to an end.
    pub fn finish(&mut self, ending: &Ending) {
        let Some(id) = self.in_state(TaskState::Running) else { return };
        let policy = self.policy;
        self.set(id, |task| {
            let verdict = retry::decide(ending, false, task.counts, &policy.retry, 0.0);
            let (state, charged, lost, keeps) = match verdict {
                Verdict::Completed => (TaskState::Completed, true, false, false),
                Verdict::Failed => (TaskState::Failed, true, false, false),
                Verdict::Blocked => (TaskState::Blocked, false, true, true),
                Verdict::Asks => (TaskState::Blocked, false, false, true),
                Verdict::Again { charged, infra_loss, keep_message, .. } => {
                    (TaskState::Pending, charged, infra_loss, keep_message)
                }
            };
            let is_cancelled = task.cancel_requested && state != TaskState::Completed;
            task.state = if is_cancelled { TaskState::Cancelled } else { state };
            task.holds_line = task.state == TaskState::Failed && policy.failure_holds;
            task.counts.attempts += i32::from(charged);
            task.counts.infra_losses += i32::from(lost);
            task.is_sent &= keeps;
        });
        self.is_nudged = true;
    }

    /// The running attempt is lost with its worker. `losses` is what it counts for: nothing, where it had not begun.
    pub fn lose(&mut self, losses: i32) {
        let Some(id) = self.in_state(TaskState::Running) else { return };
        let policy = self.policy;
        self.set(id, |task| {
            task.counts.infra_losses += losses;
            let is_capped = task.counts.infra_losses > policy.retry.max_infra_losses;
            task.state = match () {
                () if task.cancel_requested => TaskState::Cancelled,
                () if is_capped => TaskState::Blocked,
                () => TaskState::Pending,
            };
        });
        self.is_nudged = true;
    }

    /// Cancels a task: at once, or by telling its worker.
    pub fn cancel(&mut self, id: i64) -> Done {
        let Some(task) = self.tasks.get_mut(&id) else { return Done::Refused };
        match task.state {
            TaskState::Running if task.cancel_requested => return Done::Nothing,
            TaskState::Running => {}
            TaskState::Pending | TaskState::Waiting | TaskState::Blocked => {
                task.state = TaskState::Cancelled;
                self.is_nudged = true;
            }
            TaskState::Completed | TaskState::Failed | TaskState::Cancelled => return Done::Nothing,
        }
        task.cancel_requested = true;
        Done::Yes
    }

    /// Runs a task again, first in its line. One that is blocked goes on where it was, unless it gets another prompt.
    pub fn retry(&mut self, id: i64, new_prompt: bool) -> Done {
        let Some(task) = self.tasks.get_mut(&id) else { return Done::Refused };
        match task.state {
            TaskState::Failed | TaskState::Blocked | TaskState::Cancelled if !self.is_open => return Done::Refused,
            TaskState::Failed | TaskState::Blocked | TaskState::Cancelled => {}
            TaskState::Pending | TaskState::Waiting | TaskState::Running | TaskState::Completed => {
                return Done::Nothing;
            }
        }
        let goes_on = task.is_sent && task.state == TaskState::Blocked && !new_prompt;
        *task = LineTask {
            last_attempt: task.last_attempt,
            is_sent: goes_on,
            resend_allowed: goes_on,
            ..new_task(task.counts.max_attempts)
        };
        self.is_nudged = true;
        Done::Yes
    }

    /// Takes a task out of the inbox, and lets what is behind it run.
    pub fn dismiss(&mut self, id: i64) -> Done {
        let Some(task) = self.tasks.get_mut(&id) else { return Done::Refused };
        match task.state {
            TaskState::Failed | TaskState::Blocked if !task.dismissed => {}
            TaskState::Failed
            | TaskState::Blocked
            | TaskState::Pending
            | TaskState::Waiting
            | TaskState::Running
            | TaskState::Completed
            | TaskState::Cancelled => return Done::Nothing,
        }
        task.state = TaskState::Failed;
        task.holds_line = false;
        task.dismissed = true;
        self.is_nudged = true;
        Done::Yes
    }

    /// Closes the session; refused while anything is open.
    pub fn close(&mut self) -> Done {
        if !self.is_open {
            return Done::Nothing;
        }
        if self.tasks.values().any(|task| !task.state.is_final()) {
            return Done::Refused;
        }
        self.is_open = false;
        Done::Yes
    }

    /// Opens it again.
    pub fn reopen(&mut self) -> Done {
        if std::mem::replace(&mut self.is_open, true) { Done::Nothing } else { Done::Yes }
    }

    fn in_state(&self, state: TaskState) -> Option<i64> {
        self.tasks.iter().find(|(_, task)| task.state == state).map(|(id, _)| *id)
    }

    fn set(&mut self, id: i64, change: impl FnOnce(&mut LineTask)) {
        if let Some(task) = self.tasks.get_mut(&id) {
            change(task);
        }
    }
}

fn new_task(max_attempts: i32) -> LineTask {
    LineTask {
        state: TaskState::Waiting,
        holds_line: false,
        counts: Counts { attempts: 0, max_attempts, infra_losses: 0 },
        last_attempt: 0,
        is_sent: false,
        resend_allowed: false,
        cancel_requested: false,
        dismissed: false,
    }
}
