//! Before a turn that is to resolve conflicts: the commit that it names is merged into the worktree.

use super::{Interrupted, Turns, lease::Lease, persist::persist, transcript::Transcript};
use crate::{
    git::{Base, Mirror, Worktree},
    model::{event::AgentEvent, outcome::Ending},
    store::queue::Claimed,
    worktrees::{TakeError, Taking},
};

/// Merges what the task names into the worktree, once; a kill in between is made good by the next attempt. The worktree, as it is measured then.
pub(super) async fn merge_in(
    turns: &Turns,
    claimed: &Claimed,
    lease: &Lease,
    mirror: Mirror,
    worktree: Worktree,
    transcript: &Transcript,
) -> Result<(Mirror, Worktree), Interrupted> {
    let Some(commit) = &claimed.merge_commit else { return Ok((mirror, worktree)) };
    let mirror = match turns.git.mirror_with(claimed.project_id, commit).await? {
        Some(mirror) => mirror,
        None => {
            turns.git.ensure_mirror(claimed.project_id, &claimed.source, None).await?;
            let found = turns.git.mirror_with(claimed.project_id, commit).await?;
            found.ok_or_else(|| {
                let what =
                    format!("{commit}, which was to be merged into the worktree, is not in the repository any more");
                Interrupted::Ended(Ending::RepositoryRefused, what)
            })?
        }
    };
    // It may have come there otherwise, such as by an apply. Another branch may be behind the session's own, and is what it is to be on then.
    let is_other = claimed.merge_branch.is_some();
    if !is_other
        && worktree.base_commit != *commit
        && turns.git.is_in_history(&mirror, commit, &worktree.base_commit).await?
    {
        return Ok((mirror, worktree));
    }
    let is_new = worktree.base_commit != *commit;
    let branch = claimed.merge_branch.as_ref().or(claimed.base_branch.as_ref());
    let onto = Base { branch: branch.cloned(), commit: commit.clone() };
    let taking = Taking { token: lease.token(), session_id: claimed.session_id };
    let merge = || async {
        match turns.worktrees.merge(taking, &mirror, &worktree, &onto).await {
            Err(TakeError::Store(error)) => Err(error),
            merged => Ok(merged),
        }
    };
    let merged = persist(lease, merge).await??;
    if is_new {
        turns.hand_over(&merged).await?;
        let of = branch.map(|branch| format!(" of {branch}")).unwrap_or_default();
        let message = format!("{}{of} was merged into the worktree", &commit[..commit.len().min(12)]);
        transcript.say(AgentEvent::Status { message }).await;
    }
    Ok((mirror, merged))
}
