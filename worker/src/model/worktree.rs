//! What becomes of a worktree: kept, moved to the trash or the pool, emptied out of the trash.
//!
//! Only what the database says for certain makes a worktree an orphan: its session is closed, or the session's row was deleted. What
//! is merely not known is no orphan. Ages come from the database's clock; nothing here looks at one.

use std::time::Duration;

/// The state of a worktree's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In its place, for the session's next turn.
    Ready,
    /// An attempt works in it, or did when it was lost.
    InUse,
    /// On its way to the trash or the pool.
    Reaping,
    /// Reset, for the next session of its project.
    Pooled,
    /// Moved aside.
    Trashed,
    /// Not on disk any more.
    Gone,
}

impl State {
    /// The state of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "ready" => Self::Ready,
            "in_use" => Self::InUse,
            "reaping" => Self::Reaping,
            "pooled" => Self::Pooled,
            "trashed" => Self::Trashed,
            "gone" => Self::Gone,
            _ => return None,
        })
    }
}

/// What the database says of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// It takes tasks.
    Open,
    /// A person closed it.
    Closed,
    /// Its row, or its project's, was deleted.
    Deleted,
}

/// All that the decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The row's state.
    pub state: State,
    /// Its session.
    pub session: Session,
    /// An attempt holds the session's lease.
    pub leased: bool,
    /// The session has tasks that wait, run, or need a person.
    pub has_open_tasks: bool,
    /// Since the session was closed or deleted.
    pub let_go: Option<Duration>,
    /// Since it was moved to the trash.
    pub trashed: Option<Duration>,
    /// A person asked to reap it.
    pub asked: bool,
    /// A person restored it, to keep.
    pub kept: bool,
    /// It was chosen, by [`over_quota`], to make room.
    pub makes_room: bool,
}

/// Bounds of the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From a session's end to its worktree being reaped.
    pub grace: Duration,
    /// How long the trash is kept.
    pub trash_kept: Duration,
    /// There is room in the project's pool.
    pub pool_has_room: bool,
}

/// Why a worktree is reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its session is closed.
    SessionClosed,
    /// The row of its session, or of its project, was deleted.
    SessionDeleted,
    /// Its project takes more disk space than it may.
    Quota,
    /// A person asked.
    Asked,
}

impl Reason {
    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SessionClosed => "session_closed",
            Self::SessionDeleted => "session_deleted",
            Self::Quota => "quota",
            Self::Asked => "asked",
        }
    }

    /// Whether the session may still be open: then any task in it keeps the worktree.
    pub fn is_of_open_session(self) -> bool {
        match self {
            Self::Quota | Self::Asked => true,
            Self::SessionClosed | Self::SessionDeleted => false,
        }
    }
}

/// Why a worktree stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stays {
    /// An attempt works in it.
    Leased,
    /// Its session is open.
    SessionOpen,
    /// Its session has open tasks.
    OpenTasks,
    /// Its session ended a moment ago.
    Grace,
    /// A person restored it, to keep.
    Kept,
    /// It waits for the next session.
    Pooled,
    /// The trash is not old enough.
    InTrash,
    /// There is nothing left of it.
    Gone,
}

impl Stays {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leased => "a turn runs in it",
            Self::SessionOpen => "its session is open",
            Self::OpenTasks => "its session has open tasks",
            Self::Grace => "its session ended a moment ago",
            Self::Kept => "it was restored, to be kept",
            Self::Pooled => "it waits for the next session",
            Self::InTrash => "it is in the trash, and can be restored",
            Self::Gone => "it is gone; its checkpoint can be restored",
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Stay(Stays),
    /// Finish, or take back, what was begun.
    Settle,
    /// Checkpoint it and move it to the trash.
    Trash(Reason),
    /// Checkpoint it, reset it and keep it for the next session.
    Pool,
    /// Remove it from the trash for good.
    Empty,
    /// Remove a pooled worktree to make room; nobody's work is in it.
    Drop,
}

impl Decision {
    /// What becomes of it, for people.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Stay(why) => why.as_str(),
            Self::Settle => "what was begun with it is finished",
            Self::Trash(Reason::SessionClosed) => "goes to the trash: its session is closed",
            Self::Trash(Reason::SessionDeleted) => "goes to the trash: its session was deleted",
            Self::Trash(Reason::Quota) => "goes to the trash: its project takes more space than it may",
            Self::Trash(Reason::Asked) => "goes to the trash: you asked for it",
            Self::Pool => "is reset for the next session: its session is closed",
            Self::Empty => "is removed from the trash",
            Self::Drop => "is removed from the pool",
        }
    }
}

/// What to do with a worktree.
pub fn decide(facts: &Facts, limits: &Limits) -> Decision {
    match facts.state {
        State::Reaping => Decision::Settle,
        State::Gone => Decision::Stay(Stays::Gone),
        State::Pooled if facts.makes_room || facts.asked => Decision::Drop,
        State::Pooled => Decision::Stay(Stays::Pooled),
        State::Trashed => {
            let old = facts.trashed.is_some_and(|age| age >= limits.trash_kept);
            if old || facts.makes_room { Decision::Empty } else { Decision::Stay(Stays::InTrash) }
        }
        State::Ready | State::InUse => decide_in_place(facts, limits),
    }
}

fn decide_in_place(facts: &Facts, limits: &Limits) -> Decision {
    if facts.leased {
        return Decision::Stay(Stays::Leased);
    }
    if facts.has_open_tasks {
        return Decision::Stay(Stays::OpenTasks);
    }
    if facts.asked {
        return Decision::Trash(Reason::Asked);
    }
    if facts.kept {
        return Decision::Stay(Stays::Kept);
    }
    if facts.makes_room {
        return Decision::Trash(Reason::Quota);
    }
    let over = facts.let_go.is_some_and(|age| age >= limits.grace);
    match facts.session {
        Session::Open => Decision::Stay(Stays::SessionOpen),
        Session::Closed | Session::Deleted if !over => Decision::Stay(Stays::Grace),
        Session::Closed if limits.pool_has_room => Decision::Pool,
        Session::Closed => Decision::Trash(Reason::SessionClosed),
        Session::Deleted => Decision::Trash(Reason::SessionDeleted),
    }
}

/// A worktree of a project, as far as its disk space is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// The row.
    pub id: i64,
    /// What is known of it.
    pub facts: Facts,
    /// What it takes.
    pub bytes: i64,
    /// Since it was last used, or moved to the trash.
    pub idle: Duration,
    /// All of its work is in a checkpoint.
    pub is_safe: bool,
    /// It was tried a moment ago, and could not go.
    pub was_tried: bool,
}

/// Which worktrees of a project go so that it takes no more than `quota` bytes: pooled ones first, then what has been in the trash for
/// the grace and is safe in a checkpoint, then idle ones, each largest first. What is moved to the trash frees nothing yet, but will.
pub fn over_quota(worktrees: &[Space], quota: i64, grace: Duration) -> Vec<i64> {
    let mut excess = worktrees.iter().map(|worktree| worktree.bytes).sum::<i64>() - quota;
    let mut candidates: Vec<(u8, &Space)> =
        worktrees.iter().filter_map(|worktree| Some((rank(worktree, grace)?, worktree))).collect();
    candidates.sort_by_key(|(rank, worktree)| (*rank, -worktree.bytes, worktree.id));
    // What has to wait in the trash for its grace is room already promised.
    excess -= worktrees
        .iter()
        .filter(|w| w.facts.state == State::Trashed && w.is_safe && w.idle < grace)
        .map(|w| w.bytes)
        .sum::<i64>();
    let mut chosen = Vec::new();
    for (_, worktree) in candidates {
        if excess <= 0 {
            break;
        }
        excess -= worktree.bytes;
        chosen.push(worktree.id);
    }
    chosen
}

/// In which order it may go; none: it may not.
fn rank(worktree: &Space, grace: Duration) -> Option<u8> {
    let facts = &worktree.facts;
    if worktree.was_tried {
        // It would count as room that nobody gets.
        return None;
    }
    match facts.state {
        State::Pooled => Some(0),
        State::Trashed => (worktree.is_safe && worktree.idle >= grace).then_some(1),
        State::Ready | State::InUse => {
            let idle = !facts.leased && !facts.has_open_tasks && !facts.kept && worktree.idle >= grace;
            idle.then_some(2)
        }
        State::Reaping | State::Gone => None,
    }
}

#[cfg(test)]
#[path = "worktree_tests.rs"]
mod tests;
