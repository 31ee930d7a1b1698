//! Checkpoint and diff: what the agent changed becomes a draft of changes, which the finish opens.

use std::time::Instant;

use futures::future::BoxFuture;

use super::{Interrupted, Turns, lease::Lease, persist::persist};
use crate::{
    agent::TurnReport,
    git::{Mirror, Worktree},
    store::{queue::Claimed, turns::Owner},
};

/// Whose changes, and where they are.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) turns: &'a Turns,
    pub(super) claimed: &'a Claimed,
    pub(super) owner: Owner<'a>,
    pub(super) lease: &'a Lease,
    pub(super) mirror: &'a Mirror,
    pub(super) worktree: &'a Worktree,
}

/// A draft that is written while the agent's backend still makes sure that the agent is at rest.
pub(super) struct Ahead<'a> {
    began: Instant,
    work: BoxFuture<'a, Result<(), Interrupted>>,
    done: Option<Result<(), Interrupted>>,
}

impl<'a> Ahead<'a> {
    /// Begins with what the worktree holds from now on.
    pub(super) fn begin(work: Work<'a>) -> Self {
        Self { began: Instant::now(), work: Box::pin(work.record()), done: None }
    }

    /// Goes on with it. May be broken off and called again; once it is done, this never returns.
    pub(super) async fn go_on(&mut self) {
        if self.done.is_some() {
            return std::future::pending().await;
        }
        self.done = Some((&mut self.work).await);
    }

    /// Waits until it is done, also where it does not count: a draft must not be written behind the one that does.
    pub(super) async fn end(mut self) -> bool {
        if self.done.is_none() {
            self.go_on().await;
        }
        matches!(self.done, Some(Ok(())))
    }

    /// Ends it, and says whether it holds all that the agent did: the agent was at rest when it began, and ever since.
    pub(super) async fn holds(self, report: &TurnReport) -> bool {
        let began = self.began;
        self.end().await && report.rests_since.is_some_and(|since| since <= began)
    }
}

impl Work<'_> {
    /// Reads the worktree once into a commit, measures it against the session's base and writes the draft, in place of one that is there.
    ///
    /// To be done however the turn ended: what an agent left behind is never lost.
    pub(super) async fn record(self) -> Result<(), Interrupted> {
        let Self { turns, claimed, owner, lease, mirror, worktree } = self;
        let message = format!("t{} of s{}\n\n{}", claimed.task_id, claimed.session_id, claimed.title);
        let checkpoint = turns.git.checkpoint(mirror, worktree, claimed.task_id, &message).await?;
        let changes = turns.git.diff(mirror, &worktree.base_commit, &checkpoint).await?;
        persist(lease, || turns.store.draft_changes(owner, &changes)).await
    }
}
