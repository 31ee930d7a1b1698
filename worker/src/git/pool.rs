//! Worktrees that are given to another session: reset to a commit, with nothing of the session before left in them.
//!
//! While one waits it lies in `pool/`, where no agent can write, and has no session. Anything that is not as it should be is an error:
//! the caller then moves the folder to the trash.

use std::fs;

use super::{
    Base, Git, GitError, Mirror, Worktree, blocking,
    error::PathContext,
    folder,
    lock::Lock,
    stat_cache::StatCache,
    sweep,
    worktree::{MARKER, Place},
};

impl Git {
    /// Gives a worktree that nobody uses any more to another session: files reset to `base`, nothing of the old session left.
    ///
    /// The caller has ended every process in it and has its checkpoint. Much quicker than a new one: only files that differ are written.
    pub async fn reset_worktree(
        &self,
        mirror: &Mirror,
        old: &Worktree,
        session_id: i64,
        base: &Base,
    ) -> Result<Worktree, GitError> {
        let (from, to) = (Place::of(self, mirror, old.session_id), Place::of(self, mirror, session_id));
        // In order of id, so that two resets never wait for each other.
        let first = self.lock_session(old.session_id.min(session_id)).await?;
        let second = match old.session_id == session_id {
            true => None,
            false => Some(self.lock_session(old.session_id.max(session_id)).await?),
        };
        self.reset(from, to, base, second.as_ref().unwrap_or(&first)).await
    }

    /// Resets a session's worktree and moves it to the pool, under this name. The session has none then.
    pub async fn pool_worktree(
        &self,
        mirror: &Mirror,
        session_id: i64,
        slot: &str,
        base: &Base,
    ) -> Result<(), GitError> {
        let lock = self.lock_session(session_id).await?;
        let (from, to) = (Place::of(self, mirror, session_id), Place::pooled(self, mirror, slot));
        let parent = self.home().pool(mirror.project_id);
        fs::create_dir_all(&parent).on("create", &parent)?;
        self.reset(from, to, base, &lock).await.map(drop)
    }

    /// Whether a worktree lies whole in the pool.
    pub async fn is_pooled(&self, mirror: &Mirror, slot: &str) -> Result<bool, GitError> {
        let place = Place::pooled(self, mirror, slot);
        blocking(move || Ok(place.read_marker().is_some() && place.is_there())).await
    }

    /// Gives a pooled worktree to a session that has none.
    pub async fn take_pooled(
        &self,
        mirror: &Mirror,
        slot: &str,
        session_id: i64,
        base: &Base,
    ) -> Result<Worktree, GitError> {
        let lock = self.lock_session(session_id).await?;
        let (from, to) = (Place::pooled(self, mirror, slot), Place::of(self, mirror, session_id));
        let parent = self.home().agent_folder(mirror.project_id).join("worktrees");
        fs::create_dir_all(&parent).on("create", &parent)?;
        self.reset(from, to, base, &lock).await
    }

    /// Removes what is left of a pooled worktree; it holds nobody's work.
    pub async fn drop_pooled(&self, mirror: &Mirror, slot: &str) -> Result<(), GitError> {
        let place = Place::pooled(self, mirror, slot);
        blocking(move || {
            if place.path.parent().is_some_and(|parent| parent.exists()) {
                folder::remove(place.open_parent()?, place.name()).on("remove", &place.path)?;
            }
            place.forget()
        })
        .await
    }

    async fn reset(&self, from: Place, to: Place, base: &Base, lock: &Lock) -> Result<Worktree, GitError> {
        {
            let to = to.clone();
            blocking(move || from.hand_over(&to)).await?;
        }
        self.check_out(&to, &base.commit, lock).await?;
        let (base, building) = (base.clone(), self.building());
        blocking(move || {
            if to.session_id != 0 {
                to.keep_base(&base)?;
            }
            to.write_agent_repository(&base, &building)?;
            to.write_marker(&base)?;
            Ok(to.worktree(&base))
        })
        .await
    }
}

impl Place {
    /// Empties the folder of all but tracked files, and renames folder and index for the next session.
    fn hand_over(&self, to: &Self) -> Result<(), GitError> {
        self.read_marker()
            .ok_or_else(|| GitError::NoWorktree { session_id: self.session_id, path: self.path.clone() })?;
        // Before its marker goes: a folder that cannot be gone through stays whole.
        let folder = self.open()?;
        let _ = fs::remove_file(self.meta.join(MARKER));
        self.remove_stale_lock()?;
        folder::remove(&folder, b".git").on("remove the .git in", &self.path)?;
        sweep::sweep(&folder, &StatCache::read(&self.meta.join("index"))?).on("empty", &self.path)?;
        if self.path != to.path {
            let (old, new) = (self.open_parent()?, to.open_parent()?);
            folder::remove(&new, to.name()).on("remove", &to.path)?;
            to.forget()?;
            fs::rename(&self.meta, &to.meta).on("rename", &to.meta)?;
            rustix::fs::renameat(&old, self.name(), &new, to.name()).on("rename", &to.path)?;
            to.describe(&to.meta)?;
        }
        Ok(())
    }
}
