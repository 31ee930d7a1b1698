//! Checkpoint and diff: what the agent changed becomes a draft of changes, which the finish opens.

use std::time::Instant;

use futures::future::BoxFuture;

use super::{Interrupted, Turns, lease::Lease, persist::persist};
use crate::{
    agent::TurnReport,
    git::{GitError, Mirror, Reading, Worktree},
    model::change::ChangeSet,
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

/// What the worktree held when the agent seemed to be at rest, read while its backend makes sure of that.
pub(super) struct Ahead<'a> {
    began: Instant,
    reading: BoxFuture<'a, Result<Found, GitError>>,
    found: Option<Result<Found, GitError>>,
}

/// The changes, and what the next checkpoint need not read.
type Found = (ChangeSet, Reading);

impl<'a> Ahead<'a> {
    /// Begins with what the worktree holds from now on.
    pub(super) fn begin(work: Work<'a>) -> Self {
        Self { began: Instant::now(), reading: Box::pin(work.read_ahead()), found: None }
    }

    /// Goes on with it. May be broken off and called again; once it is done, this never returns.
    pub(super) async fn go_on(&mut self) {
        if self.found.is_some() {
            return std::future::pending().await;
        }
        self.found = Some((&mut self.reading).await);
    }

    /// What was found, if it is all that the agent did: it was at rest when this began, and ever since.
    async fn if_it_counts(mut self, report: &TurnReport) -> Option<Found> {
        if report.rests_since.is_none_or(|since| since > self.began) {
            return None;
        }
        if self.found.is_none() {
            self.go_on().await;
        }
        self.found?.ok()
    }
}

impl Work<'_> {
    /// Reads the worktree once into a commit, measures it against the session's base and writes the draft. What was read ahead is taken
    /// where it counts.
    ///
    /// To be done however the turn ended: what an agent left behind is never lost.
    pub(super) async fn record(self, ahead: Option<Ahead<'_>>, report: &TurnReport) -> Result<(), Interrupted> {
        let Self { turns, claimed, owner, lease, mirror, worktree } = self;
        let ahead = match ahead {
            Some(ahead) => ahead.if_it_counts(report).await,
            None => None,
        };
        let changes = match ahead {
            Some((mut changes, reading)) => {
                changes.notes.extend(turns.git.remember(mirror, worktree, reading).await?);
                changes
            }
            None => {
                let made = turns.git.checkpoint(mirror, worktree, claimed.task_id, &self.message()).await?;
                turns.git.diff(mirror, &worktree.base_commit, &made).await?
            }
        };
        persist(lease, || turns.store.draft_changes(owner, &changes)).await
    }

    async fn read_ahead(self) -> Result<Found, GitError> {
        let Self { turns, claimed, mirror, worktree, .. } = self;
        let (made, reading) = turns.git.checkpoint_ahead(mirror, worktree, claimed.task_id, &self.message()).await?;
        Ok((turns.git.diff(mirror, &worktree.base_commit, &made).await?, reading))
    }

    fn message(&self) -> String {
        let Claimed { task_id, session_id, title, .. } = self.claimed;
        format!("t{task_id} of s{session_id}\n\n{title}")
    }
}
