//! The pool: worktrees of closed sessions, reset, for the next new session of their project.

use super::{
    Place, WorktreeError, Worktrees, base_of,
    reap::{spoilt_slot, trash_slot},
};
use crate::{
    git::{Base, GateOf, GitError, Mirror, Worktree},
    store::worktrees::WorktreeRow,
};

/// The name of a folder in the pool.
pub(super) fn pool_slot(row: &WorktreeRow) -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("p{}-{}", row.id, &random[..8])
}

/// Whether a slot is one of the pool, and not of the trash.
pub(super) fn is_pool_slot(slot: &str) -> bool {
    slot.starts_with('p')
}

impl Worktrees {
    /// How many more worktrees a project's pool may take.
    pub(super) async fn pool_room(&self, project_id: Option<i64>) -> Result<i64, WorktreeError> {
        let Some(project_id) = project_id.filter(|_| self.settings.pool > 0) else { return Ok(0) };
        let pooled = self.store.pooled_worktrees(&self.host_id, project_id).await?.len();
        Ok(i64::from(self.settings.pool) - i64::try_from(pooled).unwrap_or(i64::MAX))
    }

    /// Resets a worktree whose checkpoint is recorded and moves it to the pool. If anything is odd with it, its remains go to the
    /// trash. Says whether it is in the pool.
    pub(super) async fn reset_into_pool(
        &self,
        row: &WorktreeRow,
        place: &Place,
        slot: &str,
    ) -> Result<bool, WorktreeError> {
        let keep = self.store.keeps_setup(place.project_id).await?;
        let done = self.git.pool_worktree(&place.mirror, place.session_id, slot, &base_of(row), keep).await;
        if let Err(error) = done {
            tracing::warn!(worktree = row.id, %error, "it cannot be reset for another session; it goes to the trash");
            self.spoil(row, place, slot).await?;
            return Ok(false);
        }
        let path = self.home.pool(place.project_id).join(slot);
        self.store.mark_pooled(row.id, &path.to_string_lossy()).await?;
        Ok(true)
    }

    /// What was meant for the pool and is not whole there goes to the trash.
    pub(super) async fn spoil(&self, row: &WorktreeRow, place: &Place, slot: &str) -> Result<(), WorktreeError> {
        // It is emptied only once it lies in the pool: in its place it still is as the agent left it.
        let trash = match self.git.is_in_place(&place.mirror, place.session_id).await? {
            true => trash_slot(place.session_id),
            false => spoilt_slot(place.session_id),
        };
        self.git.trash_worktree(&place.mirror, place.session_id, &trash).await?;
        self.git.trash_pooled(&place.mirror, slot, &trash).await?;
        self.git.drop_pooled(&place.mirror, slot).await?;
        self.store.mark_spoilt(row.id, &trash).await?;
        Ok(())
    }

    /// Clears what a killed reaper left in the pool of a session's worktree. Reset, it holds nobody's work; half reset, it goes to the
    /// trash. The caller holds the session's gate, and the row is in `reaping`: nobody else can take it yet.
    pub(super) async fn clear_pool_slot(&self, mirror: &Mirror, session_id: i64, slot: &str) -> Result<(), GitError> {
        if !self.git.is_pooled(mirror, slot).await? {
            self.git.trash_pooled(mirror, slot, &spoilt_slot(session_id)).await?;
        }
        self.git.drop_pooled(mirror, slot).await
    }

    /// A worktree of the pool, made that of a session which has none.
    pub(super) async fn take_from_pool(
        &self,
        mirror: &Mirror,
        session_id: i64,
        base: &Base,
    ) -> Result<Option<Worktree>, WorktreeError> {
        for (id, slot) in self.store.pooled_worktrees(&self.host_id, mirror.project_id).await? {
            let Some(_gate) = self.git.try_gate(GateOf::Pooled(id)).await? else { continue };
            if !self.store.take_pooled(id).await? {
                continue;
            }
            let keep = self.store.keeps_setup(mirror.project_id).await?;
            match self.git.take_pooled(mirror, &slot, session_id, base, keep).await {
                Ok(worktree) => {
                    self.store.forget_pooled(id).await?;
                    return Ok(Some(worktree));
                }
                Err(error) => {
                    tracing::warn!(worktree = id, %error, "a pooled worktree cannot be used; it is removed");
                    self.git.drop_pooled(mirror, &slot).await?;
                    self.store.forget_pooled(id).await?;
                }
            }
        }
        Ok(None)
    }

    /// Removes a worktree of the pool.
    pub(super) async fn drop_from_pool(&self, row: &WorktreeRow) -> Result<bool, WorktreeError> {
        let Some(_gate) = self.git.try_gate(GateOf::Pooled(row.id)).await? else { return Ok(false) };
        if !self.store.take_pooled(row.id).await? {
            return Ok(false);
        }
        self.finish_dropping(row).await?;
        Ok(true)
    }

    /// Removes what was taken out of the pool, whose taker did not get far. The caller holds its gate.
    pub(super) async fn finish_dropping(&self, row: &WorktreeRow) -> Result<(), WorktreeError> {
        if let (Some(project_id), Some(slot)) = (row.project_id, &row.slot) {
            let mirror = self.mirror(project_id, &row.base_commit).await?;
            self.git.drop_pooled(&mirror, slot).await?;
        }
        self.store.forget_pooled(row.id).await?;
        Ok(())
    }
}
