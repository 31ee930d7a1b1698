//! Bringing a worktree back: out of the trash with all that was in it, else as of its last checkpoint.

use serde::Serialize;

use super::{WorktreeError, Worktrees, base_of, pool::is_pool_slot, reap::is_spoilt};
use crate::{git::GateOf, model::worktree::State, store::worktrees::WorktreeRow};

/// A worktree that was brought back.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Restored {
    /// As it is now.
    #[serde(flatten)]
    pub row: WorktreeRow,
    /// What it was made from: place (it was there), trash (all of it), checkpoint (ignored files are missing).
    pub from: &'static str,
}

impl Worktrees {
    /// Brings a worktree of this host back to its place and opens its session again.
    pub async fn restore(&self, id: i64) -> Result<Restored, WorktreeError> {
        let row = self.worktree_here(id).await?;
        let Some(session_id) = row.last_session_id else {
            return Err(WorktreeError::Problem("it is in the pool, and belongs to no session".to_owned()));
        };
        let _gate = self.git.gate(GateOf::Session(session_id)).await?;
        // As it is now: whoever had the gate may have moved it.
        let row = self.worktree_here(id).await?;
        if row.facts.leased {
            return Err(WorktreeError::Problem("a turn runs in it, so it is in its place".to_owned()));
        }
        let from = match row.facts.state {
            State::Ready | State::InUse | State::Pooled => "place",
            State::Reaping | State::Trashed | State::Gone => self.bring_back(&row).await?,
        };
        self.store.mark_restored(id).await?;
        Ok(Restored { row: self.worktree_here(id).await?, from })
    }

    async fn bring_back(&self, row: &WorktreeRow) -> Result<&'static str, WorktreeError> {
        let place = self.place(row).await?;
        let slot = row.slot.as_deref();
        if let Some(slot) = slot.filter(|slot| row.facts.state == State::Reaping && is_pool_slot(slot)) {
            self.clear_pool_slot(&place.mirror, place.session_id, slot).await?;
        }
        let slot = slot.filter(|slot| !is_pool_slot(slot) && !is_spoilt(slot));
        let from = match slot {
            Some(slot) if self.git.is_in_trash(slot).await? => "trash",
            _ if self.git.is_whole(&place.mirror, place.session_id).await? => "place",
            _ => "checkpoint",
        };
        let checkpoint = match &row.checkpoint {
            Some(commit) => Some(commit.clone()),
            None => self.git.last_checkpoint(&place.mirror, place.session_id).await?,
        };
        let base = base_of(row);
        self.git.restore_worktree(&place.mirror, place.session_id, &base, slot, checkpoint.as_deref()).await?;
        Ok(from)
    }

    async fn worktree_here(&self, id: i64) -> Result<WorktreeRow, WorktreeError> {
        let Some(row) = self.store.worktree(id).await? else {
            return Err(WorktreeError::Problem(format!("there is no worktree w{id}")));
        };
        if row.host_id != self.host_id {
            return Err(WorktreeError::Problem(format!("it is on another host, {}", row.host_id)));
        }
        Ok(row)
    }
}
