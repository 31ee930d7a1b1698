//! A session's refs in the mirror: its base, its checkpoints, and what was in its worktree when it was reaped.

use super::{Base, GitError, error::Context, mirror, worktree::Place};

/// The ref that keeps what was in a worktree when it was reaped.
pub(super) fn reaped(session_id: i64) -> String {
    format!("refs/millhand/reaped/{session_id}")
}

impl Place {
    /// Keeps the base commit from being pruned.
    pub(super) fn keep_base(&self, base: &Base) -> Result<(), GitError> {
        let repository = mirror::open(&self.mirror)?;
        let id = git2::Oid::from_str(&base.commit).doing("read the base commit")?;
        let name = format!("refs/millhand/base/{}", self.session_id);
        mirror::remove_stale_lock(&self.mirror.join(format!("{name}.lock")))?;
        repository.reference(&name, id, true, "base of a session").doing("keep the session's base")?;
        Ok(())
    }

    /// The newest checkpoint of a turn. An older task may have been retried later: times tell, not numbers.
    pub(super) fn last_checkpoint(&self) -> Result<Option<String>, GitError> {
        let repository = mirror::open(&self.mirror)?;
        let prefix = format!("refs/millhand/sessions/{}/", self.session_id);
        let mut last: Option<((i64, i64), String)> = None;
        for reference in repository.references_glob(&format!("{prefix}*")).doing("list checkpoints")? {
            let reference = reference.doing("list checkpoints")?;
            let task: Option<i64> = reference.name().ok().and_then(|name| name.strip_prefix(&prefix)?.parse().ok());
            let commit = reference.target().and_then(|id| repository.find_commit(id).ok());
            let Some((task, commit)) = task.zip(commit) else { continue };
            let age = (commit.time().seconds(), task);
            if last.as_ref().is_none_or(|(newest, _)| age > *newest) {
                last = Some((age, commit.id().to_string()));
            }
        }
        Ok(last.map(|(_, commit)| commit))
    }

    /// Renames the refs of whoever had this number before.
    pub(super) fn set_refs_aside(&self) -> Result<(), GitError> {
        let repository = mirror::open(&self.mirror)?;
        let id = self.session_id;
        let own = ["base", "reaped"].map(|kind| format!("refs/millhand/{kind}/{id}"));
        let mut names: Vec<String> = own.into_iter().filter(|name| repository.find_reference(name).is_ok()).collect();
        let checkpoints = repository.references_glob(&format!("refs/millhand/sessions/{id}/*"));
        for reference in checkpoints.doing("list checkpoints")? {
            names.extend(reference.doing("list checkpoints")?.name().ok().map(str::to_owned));
        }
        let aside = format!("refs/millhand/aside/{}", uuid::Uuid::new_v4().simple());
        for name in names {
            mirror::remove_stale_lock(&self.mirror.join(format!("{name}.lock")))?;
            let renamed = name.replacen("refs/millhand", &aside, 1);
            let mut reference = repository.find_reference(&name).doing("read a ref of another session")?;
            reference.rename(&renamed, false, "set aside").doing("set aside the refs of another session")?;
        }
        Ok(())
    }
}
