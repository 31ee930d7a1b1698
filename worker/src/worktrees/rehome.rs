//! Taking over a session whose host is gone.
//!
//! What its last recorded turn left is made again from the patches in the database, checked by the id of the tree. What was in the
//! worktree beyond that stays on the other host; should it come back, it is kept there as a commit before the folder goes.

use super::{WorktreeError, Worktrees};
use crate::{
    git::Patched,
    store::rehome::{AwaySession, NewHome},
};

impl Worktrees {
    /// Moves a session to this host. False if that was not to be done any more.
    ///
    /// # Errors
    ///
    /// The repository cannot be reached from here or does not hold the session's base, or the recorded changes do not lead to the
    /// recorded tree: then the session waits for its host.
    pub async fn rehome(&self, session: &AwaySession) -> Result<bool, WorktreeError> {
        let mirror = match self.git.mirror_with(session.project_id, &session.base_commit).await? {
            Some(mirror) => mirror,
            None => {
                self.git.ensure_mirror(session.project_id, &session.source, None).await?;
                self.mirror(session.project_id, &session.base_commit).await?
            }
        };
        let recorded = self.store.recorded_tree(session.session_id).await?;
        let checkpoint = match &recorded {
            None => None,
            Some(recorded) if recorded.is_rolled_back => {
                let message = "its files were taken back to an earlier checkpoint, which is recorded nowhere else";
                return Err(WorktreeError::Problem(message.to_owned()));
            }
            // After an apply the session starts from what was applied.
            Some(recorded) if recorded.base_commit != session.base_commit && recorded.is_applied => None,
            Some(recorded) if recorded.base_commit != session.base_commit => {
                let message =
                    "some of its changes were applied and others not: what its worktree has now is recorded nowhere";
                return Err(WorktreeError::Problem(message.to_owned()));
            }
            Some(recorded) => {
                let wanted =
                    Patched { base_commit: &recorded.base_commit, patches: &recorded.patches, tree: &recorded.tree_id };
                let made = self.git.rebuild_checkpoint(&mirror, session.session_id, recorded.task_id, wanted).await?;
                Some(made.commit)
            }
        };
        let start = checkpoint.as_deref().unwrap_or(&session.base_commit);
        let checkpoint = self.git.start_session_from(&mirror, session.session_id, start).await?;
        let path = self.home.worktree(session.project_id, session.session_id);
        let trash = self.home.trash();
        let to = NewHome {
            host_id: &self.host_id,
            path: &path.to_string_lossy(),
            branch: &format!("millhand/s{}", session.session_id),
            trash: &trash.to_string_lossy(),
            checkpoint: &checkpoint,
            change_set: recorded.as_ref().map(|recorded| recorded.change_set_id),
        };
        Ok(self.store.rehome_session(session, to, self.timings.rehome).await?)
    }
}
