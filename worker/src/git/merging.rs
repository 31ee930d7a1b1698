//! Merging another commit into a session's worktree before a turn, conflicts and all.

use git2::Oid;

use super::{
    Base, Git, GitError, Merged, Mirror, Rebased, blocking,
    checkpoint::Lasting,
    error::Context,
    mirror,
    session_refs::{merging, rebased},
    worktree::Place,
};
use crate::model::apply::Taken;

impl Git {
    /// Merges a commit into a session's worktree, for the turn that has its lease: where the two do not go together, the files get git's marks, for
    /// the agent to resolve. The worktree is measured against that commit from then on. `taken` is what the commit has of the session already. A kill
    /// in between leaves what the same call, made again, finishes.
    pub async fn merge_into_worktree(
        &self,
        mirror: &Mirror,
        session_id: i64,
        onto: &Base,
        taken: Option<&Taken>,
    ) -> Result<Rebased, GitError> {
        let place = Place::of(self, mirror, session_id);
        let Some(base) = place.read_marker() else {
            return Ok(Rebased::Stays("it has no worktree".to_owned()));
        };
        let worktree = place.worktree(&base);
        let reference = rebased(session_id);
        let message = format!("s{session_id} before {} was merged into it", onto.commit);
        let before = self.checkpoint_to(mirror, &worktree, reference.clone(), &message, Lasting::Written).await?;
        // What is half written has marks in it that must not be merged again.
        let after = match self.merging_tree(mirror, session_id, &onto.commit).await? {
            Some(tree) => tree,
            None => {
                let from = match taken {
                    Some(taken) => self.base_with(mirror, &base.commit, taken).await?,
                    None => None,
                };
                let from = from.as_ref().unwrap_or(&base.commit);
                let tree = match self.merge(mirror, from, Some(&onto.commit), &before.tree).await? {
                    Merged::Clean(tree) | Merged::Conflicts { marked: tree, .. } => tree,
                };
                self.keep_merging(mirror, session_id, &tree, &onto.commit).await?;
                tree
            }
        };
        if after != before.tree {
            let moved = self.write_difference(mirror, &place, &before.tree, &after).await?;
            if let Rebased::Stays(_) = moved {
                blocking(move || place.forget_merging()).await?;
                return Ok(moved);
            }
            self.checkpoint_to(mirror, &worktree, reference, &message, Lasting::Written).await?;
        }
        self.move_to(mirror, place.clone(), onto).await?;
        blocking(move || place.forget_merging()).await?;
        Ok(Rebased::Yes)
    }

    /// The tree that an earlier try was about to write, when it merged the same commit.
    async fn merging_tree(&self, mirror: &Mirror, session_id: i64, onto: &str) -> Result<Option<String>, GitError> {
        let (path, onto) = (mirror.path.clone(), onto.to_owned());
        blocking(move || {
            let repository = mirror::open(&path)?;
            let found = repository.find_reference(&merging(session_id)).and_then(|found| found.peel_to_commit());
            let found = found.ok().filter(|commit| commit.parent_id(0).is_ok_and(|id| id.to_string() == onto));
            Ok(found.map(|commit| commit.tree_id().to_string()))
        })
        .await
    }

    async fn keep_merging(&self, mirror: &Mirror, session_id: i64, tree: &str, onto: &str) -> Result<(), GitError> {
        let commit = self.merging_commit(mirror, tree, onto).await?;
        let path = mirror.path.clone();
        blocking(move || {
            let repository = mirror::open(&path)?;
            let name = merging(session_id);
            mirror::remove_stale_lock(&path.join(format!("{name}.lock")))?;
            let id = Oid::from_str(&commit).doing("read the merge")?;
            repository.reference(&name, id, true, "being merged").doing("keep the merge")?;
            Ok(())
        })
        .await
    }
}
