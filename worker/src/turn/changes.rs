//! Checkpoint and diff: what the agent changed becomes a draft of changes, which the finish opens.

use super::{Interrupted, Turns, lease::Lease, persist::persist};
use crate::{
    git::{Mirror, Worktree},
    store::{queue::Claimed, turns::Owner},
};

/// Reads the worktree once into a commit, measures it against the session's base and writes the draft.
///
/// It does so however the turn ended: what an agent left behind is never lost.
pub(super) async fn record(
    turns: &Turns,
    claimed: &Claimed,
    owner: Owner<'_>,
    lease: &Lease,
    mirror: &Mirror,
    worktree: &Worktree,
) -> Result<(), Interrupted> {
    let message = format!("t{} of s{}\n\n{}", claimed.task_id, claimed.session_id, claimed.title);
    let checkpoint = turns.git.checkpoint(mirror, worktree, claimed.task_id, &message).await?;
    let changes = turns.git.diff(mirror, &worktree.base_commit, &checkpoint).await?;
    persist(lease, || turns.store.draft_changes(owner, &changes)).await
}
