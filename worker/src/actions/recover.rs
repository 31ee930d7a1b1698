//! After a kill: applies that the journal has as begun are finished or forgotten, by where their branch is found to be.

use super::{ActionError, Result, apply::Applier};
use crate::{
    git::{Applies, Base, Landed, Landing, Mirror, Where},
    model::apply::Taken,
    store::{changes::ApplyRow, projects::ProjectRow},
};

impl Applier {
    /// Settles what is unfinished of a project on this host; what cannot be settled is returned, with why. The caller holds the project's
    /// lock, so nobody is still at it.
    pub(super) async fn recover(&self, project: &ProjectRow, held: &Applies) -> Result<Vec<(ApplyRow, ActionError)>> {
        let mut unsettled = Vec::new();
        for row in self.store.unfinished_applies(&self.host_id, project.id, self.timings.rehome).await? {
            if let Err(error) = self.recover_one(project, &row, held).await {
                unsettled.push((row, error));
            }
        }
        Ok(unsettled)
    }

    async fn recover_one(&self, project: &ProjectRow, row: &ApplyRow, held: &Applies) -> Result<()> {
        if row.state == "begun" && !self.settle(project, row, held).await? {
            return Ok(());
        }
        if let Some(mirror) = self.git.mirror_with(project.id, &row.new_commit).await? {
            self.git.forget_change(&mirror, row.change_set_id).await?;
        }
        let Some(set) = self.store.change_set_by_id(row.change_set_id).await? else { return Ok(()) };
        if row.rebases {
            let onto = Base { branch: Some(row.branch.clone()), commit: row.new_commit.clone() };
            let taken = row.tree_id.clone().map(|tree_id| Taken { base_commit: set.base_commit.clone(), tree_id });
            self.rebase(project, &set, Some(row.id), &onto, taken).await?;
        }
        Ok(())
    }

    /// Settles what is unfinished of all projects that this host applies to; what cannot be settled is logged, and stays.
    pub async fn recover_all(&self) -> Result<()> {
        for name in self.store.projects_with_unfinished_applies(&self.host_id, self.timings.rehome).await? {
            let Some(project) = self.store.projects(Some(&name)).await?.pop() else { continue };
            let held = self.git.lock_applies(project.id).await?;
            for (row, error) in self.recover(&project, &held).await? {
                let (project, branch) = (&project.name, &row.branch);
                tracing::warn!(project, apply = row.id, branch, %error, "an apply that was interrupted cannot be settled yet");
            }
        }
        Ok(())
    }

    /// Whether it has landed.
    async fn settle(&self, project: &ProjectRow, row: &ApplyRow, held: &Applies) -> Result<bool> {
        let landing = Landing {
            source: &project.source,
            branch: &row.branch,
            old: row.old_commit.as_deref(),
            new: &row.new_commit,
            key: row.change_set_id,
            patience: self.timings.apply_lock,
        };
        let mirror = match self.git.mirror_with(project.id, &row.new_commit).await? {
            Some(mirror) => mirror,
            // Another host's, to a remote: where that is can be told from here.
            None if row.host_id != self.host_id => self.git.ensure_mirror(project.id, &project.source, None).await?,
            None => {
                // Not even the commit was kept, so the branch was not moved.
                self.store.undo_apply(row.id, "interrupted before the branch moved").await?;
                return Ok(false);
            }
        };
        let found = if row.remote {
            let tip = self.git.remote_tip(&project.source, &row.branch).await?;
            if tip.is_some() {
                self.git.fetch_remote_branch(&mirror, &project.source, &row.branch, row.change_set_id, held).await?;
            }
            match tip {
                Some(tip) if tip == row.new_commit => Where::New,
                tip if tip == row.old_commit => Where::Old,
                other => Where::Elsewhere(other),
            }
        } else {
            self.git.whereabouts_of(&landing).await?
        };
        let landed = match found {
            Where::New => row.remote || self.finish(&mirror, &landing, held).await?,
            Where::Old => false,
            // Somebody has gone on from it, or has never had it.
            Where::Elsewhere(Some(tip)) => {
                self.git.ensure_mirror(project.id, &project.source, None).await?;
                self.git.is_in_history(&mirror, &row.new_commit, &tip).await?
            }
            Where::Elsewhere(None) => false,
        };
        if landed {
            self.store.land_apply(row.id).await?;
        } else {
            self.store.undo_apply(row.id, "interrupted before the branch moved").await?;
        }
        self.git.forget_change(&mirror, row.change_set_id).await?;
        tracing::info!(apply = row.id, branch = row.branch, landed, "settled an apply that was interrupted");
        Ok(landed)
    }

    async fn finish(&self, mirror: &Mirror, landing: &Landing<'_>, held: &Applies) -> Result<bool> {
        match self.git.finish_landing(mirror, landing, held).await? {
            Landed::Yes(_) => Ok(true),
            Landed::Moved => Ok(false),
            Landed::Refused(why) => Err(ActionError::Refused {
                what: format!(
                    "an apply to {} was interrupted after the branch had moved to {}, and its files cannot be brought along: {why}",
                    landing.branch, landing.new
                ),
                hint: Some(
                    "settle that, or take the files as they are on the branch (git checkout HEAD -- PATH), and apply again"
                        .to_owned(),
                ),
            }),
        }
    }
}
