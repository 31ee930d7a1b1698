//! Worktrees that are given to another session: reset to a commit, with nothing of the session before left in them.
//!
//! While one waits it lies in `pool/`, where no agent can write, and has no session. It is emptied and checked out there, never where an
//! agent can. Anything that is not as it should be is an error: the caller then moves the folder to the trash.

use std::{fs, os::fd::OwnedFd, path::Path};

use super::{
    Base, Git, GitError, Mirror, Worktree, blocking,
    error::PathContext,
    folder, setup,
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
        let slot = format!("reset-s{}", old.session_id);
        self.pool_worktree(mirror, old.session_id, &slot, base, false).await?;
        self.take_pooled(mirror, &slot, session_id, base, false).await
    }

    /// Moves a session's worktree to the pool, under this name, and resets it there. The session has none then. `keep_ignored`: what its
    /// project's own ignore rules name stays in it, but for what was copied in.
    pub async fn pool_worktree(
        &self,
        mirror: &Mirror,
        session_id: i64,
        slot: &str,
        base: &Base,
        keep_ignored: bool,
    ) -> Result<(), GitError> {
        let lock = self.lock_session(session_id).await?;
        let (from, to) = (Place::of(self, mirror, session_id), Place::pooled(self, mirror, slot));
        {
            let (to, record) = (to.clone(), self.copied_record(session_id));
            blocking(move || from.move_into_pool(&to, &record, keep_ignored)).await?;
        }
        self.fill(&to, &to.path, base, &base.commit, &lock).await
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
        keep_ignored: bool,
    ) -> Result<Worktree, GitError> {
        let lock = self.lock_session(session_id).await?;
        let (from, to) = (Place::pooled(self, mirror, slot), Place::of(self, mirror, session_id));
        let at = from.path.clone();
        {
            let to = to.clone();
            blocking(move || from.leave_pool(&to, keep_ignored)).await?;
        }
        if keep_ignored {
            // What the rules of the new base do not name would be taken for the session's work.
            self.check_out(&to, &at, &base.commit, &lock).await?;
            let (to, at) = (to.clone(), at.clone());
            blocking(move || to.sweep_at(&at)).await?;
        }
        self.fill(&to, &at, base, &base.commit, &lock).await?;
        Ok(to.worktree(base))
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
}

impl Place {
    /// Moves the folder out of the agents' reach, and only there empties it of all but tracked files.
    fn move_into_pool(&self, to: &Self, record: &Path, keep_ignored: bool) -> Result<(), GitError> {
        // Before its marker goes: what cannot be gone through stays whole.
        let (folder, known) = self.open_whole()?;
        let (old, new) = (self.open_parent()?, to.make_parent()?);
        to.set_aside()?;
        to.forget()?;
        self.remove_stale_lock()?;
        let _ = fs::remove_file(self.meta.join(MARKER));
        fs::rename(&self.meta, &to.meta).on("rename", &to.meta)?;
        folder::unlock(&folder).on("open", &self.path)?;
        rustix::fs::renameat(&old, self.name(), &new, to.name()).on("rename", &to.path)?;
        // A name can be given to something else between the look and the rename; here nobody but us can write any more.
        if !folder::are_same(&folder, to.open()?).on("look at", &to.path)? {
            return Err(GitError::Planted { path: to.path.clone() });
        }
        to.describe(&to.meta)?;
        to.forget_setup()?;
        setup::take_out(record, &folder)?;
        to.empty(&folder, &known, keep_ignored)
    }

    /// Gives the index to a session; the folder stays in the pool until it is ready.
    fn leave_pool(&self, to: &Self, keep_ignored: bool) -> Result<(), GitError> {
        let (folder, known) = self.open_whole()?;
        let _ = fs::remove_file(self.meta.join(MARKER));
        self.remove_stale_lock()?;
        self.empty(&folder, &known, keep_ignored)?;
        to.set_aside()?;
        to.forget()?;
        fs::rename(&self.meta, &to.meta).on("rename", &to.meta)?;
        to.describe(&to.meta)
    }

    /// The folder of a worktree that is whole, and its index.
    fn open_whole(&self) -> Result<(OwnedFd, StatCache), GitError> {
        self.read_marker()
            .ok_or_else(|| GitError::NoWorktree { session_id: self.session_id, path: self.path.clone() })?;
        Ok((self.open()?, StatCache::read(&self.meta.join("index"))?))
    }

    /// Removes what is not tracked from a folder of the pool, with the rules of the commit that is checked out there.
    fn sweep_at(&self, at: &Path) -> Result<(), GitError> {
        let folder = self.open_at(at)?;
        sweep::sweep(&folder, &StatCache::read(&self.meta.join("index"))?, true).on("empty", at)
    }

    fn empty(&self, folder: &OwnedFd, known: &StatCache, keep_ignored: bool) -> Result<(), GitError> {
        folder::unlock(folder).on("open", &self.path)?;
        folder::remove(folder, b".git").on("remove the .git in", &self.path)?;
        sweep::sweep(folder, known, keep_ignored).on("empty", &self.path)
    }
}
