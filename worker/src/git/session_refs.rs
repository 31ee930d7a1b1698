//! A session's refs in the mirror: its base, its checkpoints, and what was in its worktree when it was reaped.

use super::{Base, Git, GitError, Mirror, blocking, error::Context, mirror, worktree::Place};

/// The ref that keeps what a worktree was made to be since its last turn: by an apply, a rollback, or on another host.
pub(super) fn rebased(session_id: i64) -> String {
    format!("refs/millhand/rebased/{session_id}")
}

/// The ref that keeps what a merge is about to write into a worktree.
pub(super) fn merging(session_id: i64) -> String {
    format!("refs/millhand/merging/{session_id}")
}

/// The ref that keeps what was in a worktree when it was reaped.
pub(super) fn reaped(session_id: i64) -> String {
    format!("refs/millhand/reaped/{session_id}")
}

impl Git {
    /// What a session that moves to this host starts from: the files of a commit, as a checkpoint of its own. Earlier ones, of another
    /// stay of the session here, count no more.
    pub async fn start_session_from(&self, mirror: &Mirror, session_id: i64, commit: &str) -> Result<String, GitError> {
        let (place, commit) = (Place::of(self, mirror, session_id), commit.to_owned());
        blocking(move || place.start_from(&commit)).await
    }
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

    /// What is known of the session's work last: the newest checkpoint of a turn, or what the worktree was made to be since. An older task
    /// may have been retried later: times tell, not numbers.
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
        // A turn's checkpoint lets go of it, so that of two from one second this one is the later.
        let since = repository.find_reference(&rebased(self.session_id)).and_then(|found| found.peel_to_commit());
        if let Ok(commit) = since
            && last.as_ref().is_none_or(|((seconds, _), _)| commit.time().seconds() >= *seconds)
        {
            return Ok(Some(commit.id().to_string()));
        }
        Ok(last.map(|(_, commit)| commit))
    }

    /// A turn has made a checkpoint: that is what is known of the work from now on.
    pub(super) fn forget_rebased(&self) -> Result<(), GitError> {
        self.let_go_of(&rebased(self.session_id))?;
        self.forget_merging()
    }

    /// The merge is written.
    pub(super) fn forget_merging(&self) -> Result<(), GitError> {
        self.let_go_of(&merging(self.session_id))
    }

    fn let_go_of(&self, name: &str) -> Result<(), GitError> {
        mirror::remove_stale_lock(&self.mirror.join(format!("{name}.lock")))?;
        match mirror::open(&self.mirror)?.find_reference(name) {
            Ok(mut found) => found.delete().doing("let go of the session's earlier state"),
            Err(_) => Ok(()),
        }
    }

    /// The session starts from the files of this commit, whatever an earlier stay of it has left here.
    fn start_from(&self, commit: &str) -> Result<String, GitError> {
        let repository = mirror::open(&self.mirror)?;
        let name = rebased(self.session_id);
        mirror::remove_stale_lock(&self.mirror.join(format!("{name}.lock")))?;
        let make = || {
            let found = repository.find_commit(git2::Oid::from_str(commit)?)?;
            let who = git2::Signature::now("Millhand", "millhand@localhost")?;
            let message = format!("s{} as it came to this host", self.session_id);
            let id = repository.commit(None, &who, &who, &message, &found.tree()?, &[&found])?;
            repository.reference(&name, id, true, "rehomed")?;
            Ok(id.to_string())
        };
        make().doing("note what the session starts from")
    }

    /// Renames the refs of whoever had this number before.
    pub(super) fn set_refs_aside(&self) -> Result<(), GitError> {
        let repository = mirror::open(&self.mirror)?;
        let id = self.session_id;
        let own = ["base", "merging", "reaped", "rebased", "rolled-back", "rolling-back"]
            .map(|kind| format!("refs/millhand/{kind}/{id}"));
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
