//! Applying: what was approved becomes a commit on a branch, once, or nothing is changed.
//!
//! Everything happens under the project's lock on this host. The journal's row comes before the branch moves: whoever comes next after a kill
//! looks where the branch is, and finishes or forgets the apply. See `git::land` for what happens in the repository.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    ActionError, Changes, Result, changes,
    decide::{chosen, held_against, not_those, open_changes},
    no_session,
};
use crate::{
    config::{ApplySettings, Timings},
    git::{
        Applies, Approved, Base, Git, GitError, Landed, Landing, Mirror, Push, Pushed, SourceKind, Step, headers_of,
    },
    model::{
        apply::Taken,
        ids::{AnyId, SessionId},
    },
    store::{
        Store,
        changes::{ApplyRow, Begun, NewApply},
        projects::ProjectRow,
        reads_turns::ChangeSetRow,
    },
    worktrees::{Moved, WorktreeError, Worktrees},
};

/// How often a target that moves under our hands is merged with again.
const TRIES: usize = 5;
/// What an apply must not take: nobody could have read it in the patch, or it is not what a checkout would store.
const UNREADABLE: [(&str, &str); 2] = [
    ("too_large", "is too large to be part of the patch, so nobody can have approved it"),
    ("encoding", "has a working-tree-encoding, in which it cannot be stored"),
];

/// What applying needs.
#[derive(Clone, Debug)]
pub struct Applier {
    /// The database.
    pub store: Store,
    /// Mirrors, and the user's repository.
    pub git: Git,
    /// The sessions' worktrees.
    pub worktrees: Worktrees,
    /// This host.
    pub host_id: String,
    /// What commits say.
    pub settings: ApplySettings,
    /// How long locks are waited for.
    pub timings: Timings,
}

/// Which branch takes the changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// The one that the session started from.
    #[default]
    Base,
    /// This one, new or not.
    Branch(String),
}

/// What a person wants applied.
#[derive(Clone, Debug, Default)]
pub struct ApplyRequest {
    /// Only these files, or the files in these folders; none: all.
    pub only: Vec<String>,
    /// The hash that was seen: a change set with another is refused.
    pub expect: Option<String>,
    /// Where to.
    pub target: Target,
    /// To the remote, rather than to the repository.
    pub push: bool,
    /// The message, instead of the template's.
    pub message: Option<String>,
    /// Refuse changes whose checks have not all passed; none: if the project says so.
    pub require_checks: Option<bool>,
    /// Who says so.
    pub who: String,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Applied {
    /// The change set, as it is now.
    #[serde(flatten)]
    pub set: ChangeSetRow,
    /// The files that were taken.
    pub taken: Vec<String>,
    /// The commit; none: the target had it all already.
    pub commit: Option<String>,
    /// The branch that has it.
    pub branch: String,
    /// The remote that it was pushed to.
    pub remote: Option<String>,
    /// Where a pull request is opened.
    pub pull_request: Option<String>,
    /// What the remote said.
    pub remote_message: Option<String>,
    /// The user's worktree that was updated.
    pub worktree: Option<String>,
    /// Why the session is still measured against its old base, if it is.
    pub not_rebased: Option<String>,
    /// What speaks against the changes: they failed checks, or are not checked yet.
    pub unchecked: Option<String>,
}

pub(super) fn refused<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T> {
    Err(ActionError::Refused { what: what.into(), hint: Some(hint.into()) })
}

/// The repository, or remote, and the branch that takes the changes.
pub(super) struct Goal {
    pub(super) project: ProjectRow,
    pub(super) branch: String,
    /// To a remote.
    pub(super) remote: bool,
    /// It is the branch that the session is measured against.
    pub(super) is_base: bool,
}

/// A commit that is ready to land.
pub(super) struct Ready {
    pub(super) old: Option<String>,
    pub(super) new: String,
    /// What was merged.
    pub(super) tree: Taken,
}

pub(super) enum Prepared {
    Ready(Ready),
    /// The target has it all, at this commit.
    Nothing {
        /// The commit.
        tip: String,
        /// What was merged.
        tree: Taken,
    },
}

impl Applier {
    /// Applies the open change set of a session or task, or some files of it.
    pub async fn apply(
        &self,
        id: AnyId,
        request: &ApplyRequest,
        on_step: &(dyn Fn(Step) + Send + Sync),
    ) -> Result<Applied> {
        let found = changes(&self.store, id).await?;
        let Some(project) = found.as_ref().map(|found| found.set.project.clone()) else {
            open_changes(&self.store, id).await?;
            return refused("there is nothing to apply", "see: millhand ls");
        };
        let project = super::project_named(&self.store, &project).await?;
        let held = match self.git.try_lock_applies(project.id).await? {
            Some(held) => held,
            None => {
                on_step(Step::Waiting);
                self.git.lock_applies(project.id).await?
            }
        };
        let unsettled = self.recover(&project, &held).await?;
        // As it is now: whoever had the lock may have applied it.
        let found = open_changes(&self.store, id).await?;
        let goal = self.goal(project, &found.set, request).await?;
        // One that is in the way; of others the settler speaks.
        let in_the_way = |row: &ApplyRow| {
            row.change_set_id == found.set.id || (row.branch == goal.branch && row.remote == goal.remote)
        };
        if let Some((_, error)) = unsettled.into_iter().find(|(row, _)| in_the_way(row)) {
            return Err(error);
        }
        let places = chosen(&found, &request.only)?;
        if places.is_empty() {
            return refused("there is nothing to apply", "its files are decided already; see: millhand review");
        }
        let unchecked = self.objection(&found, &goal.project, request).await?;
        let approved = self.approved(&found, places, request).await?;
        let mirror = self.mirror(&goal.project, &found.set).await?;
        self.take(&goal, &found, &approved, &mirror, unchecked, request, &held, on_step).await
    }

    /// Merges and lands, again if the target moves meanwhile.
    #[expect(clippy::too_many_arguments, reason = "the steps of one apply, called once")]
    async fn take(
        &self,
        goal: &Goal,
        found: &Changes,
        approved: &Approved,
        mirror: &Mirror,
        unchecked: Option<String>,
        request: &ApplyRequest,
        held: &Applies,
        on_step: &(dyn Fn(Step) + Send + Sync),
    ) -> Result<Applied> {
        let set = &found.set;
        let files: Vec<_> = approved.chosen.iter().map(|place| found.files[*place].id).collect();
        let mut applied = Applied {
            set: set.clone(),
            taken: approved.chosen.iter().map(|place| found.files[*place].path.clone()).collect(),
            commit: None,
            branch: goal.branch.clone(),
            remote: None,
            pull_request: None,
            remote_message: None,
            worktree: None,
            not_rebased: None,
            unchecked,
        };
        for _ in 0..TRIES {
            let ready = match self.prepare(goal, set, mirror, approved, request, held, on_step).await? {
                Prepared::Ready(ready) => ready,
                Prepared::Nothing { tip, tree } => {
                    self.store.mark_applied(set.id, &files, &request.who, &goal.branch).await?;
                    if goal.is_base {
                        let onto = Base { branch: Some(goal.branch.clone()), commit: tip };
                        applied.not_rebased = self.rebase(&goal.project, set, None, &onto, Some(tree)).await?;
                    }
                    applied.set = self.reread(set).await?;
                    return Ok(applied);
                }
            };
            on_step(Step::Merged);
            let begun = self.begin(goal, set, &ready, &files, request).await?;
            on_step(Step::Begun);
            match self.land(goal, set, mirror, &ready, held, on_step, &mut applied).await {
                Ok(None) => {
                    self.store.land_apply(begun).await?;
                    on_step(Step::Landed);
                    self.git.forget_change(mirror, set.id).await?;
                    applied.commit = Some(ready.new.clone());
                    if goal.is_base {
                        let onto = Base { branch: Some(goal.branch.clone()), commit: ready.new.clone() };
                        applied.not_rebased =
                            self.rebase(&goal.project, set, Some(begun), &onto, Some(ready.tree)).await?;
                        on_step(Step::Rebased);
                    }
                    applied.set = self.reread(set).await?;
                    return Ok(applied);
                }
                Ok(Some(Not::Moved)) => self.store.undo_apply(begun, "the branch moved meanwhile").await?,
                Ok(Some(Not::Refused(why))) => {
                    self.store.undo_apply(begun, &why).await?;
                    return refused(why, "nothing was changed; try again when that is settled");
                }
                Err(error) => {
                    // It may have come any distance: where the branch is tells.
                    if let Err(problem) = self.recover(&goal.project, held).await {
                        tracing::debug!(%problem, "an apply that failed cannot be settled yet");
                    }
                    return Err(error.into());
                }
            }
        }
        refused(format!("{} moves faster than changes can be merged with it", goal.branch), "try again")
    }

    /// What its checks say against a change set; refused if they are required.
    async fn objection(&self, found: &Changes, project: &ProjectRow, request: &ApplyRequest) -> Result<Option<String>> {
        let objection = super::checks_of(&self.store, found).await?.objection();
        match objection {
            Some(objection) if request.require_checks.unwrap_or(project.checks_required) => {
                refused(objection, "see: millhand check show; apply them all the same: --require-checks=false")
            }
            objection => Ok(objection),
        }
    }

    pub(super) async fn goal(&self, project: ProjectRow, set: &ChangeSetRow, request: &ApplyRequest) -> Result<Goal> {
        let source = self.git.kind_of(&project.source)?;
        if project.host_id.as_ref().is_some_and(|host| *host != self.host_id) {
            let what = format!("the repository {} is on another host", project.source);
            return refused(what, "run this command there");
        }
        let session_id = set.session_id.unwrap_or_default();
        let base = self.store.session(session_id).await?.ok_or_else(|| no_session(session_id))?.base_branch;
        let base = base.or_else(|| project.base_branch.clone());
        let branch = match (&request.target, &base) {
            (Target::Branch(name), _) => name.clone(),
            (Target::Base, Some(base)) if !request.push => base.clone(),
            (Target::Base, Some(_)) => format!("millhand/{}", SessionId(session_id)),
            (Target::Base, None) => {
                return refused("the session did not start from a branch", "name one: --to BRANCH");
            }
        };
        if !Git::is_branch_name(&branch) {
            return refused(format!("\"{branch}\" is no name for a branch"), "name another: --to BRANCH");
        }
        let remote = request.push || source == SourceKind::Url;
        let is_base = base.as_ref() == Some(&branch) && (!remote || source == SourceKind::Url);
        Ok(Goal { project, branch, remote, is_base })
    }

    /// What was approved, held against what is stored.
    async fn approved(&self, found: &Changes, places: Vec<usize>, request: &ApplyRequest) -> Result<Approved> {
        let set = &found.set;
        held_against(set, request.expect.as_deref())?;
        for place in &places {
            let file = &found.files[*place];
            if let Some((_, why)) = UNREADABLE.iter().find(|(flag, _)| file.flags.iter().any(|found| found == flag)) {
                return refused(format!("{} {why}", file.path), "take the others: --only PATH");
            }
        }
        let (mut hash, mut headers, mut after) = (Sha256::new(), Vec::with_capacity(found.files.len()), 0);
        loop {
            let patches = self.store.next_patches(set.id, after).await?;
            let Some((last, _)) = patches.last() else { break };
            after = *last;
            for (_, patch) in &patches {
                hash.update(patch);
                headers.push(headers_of(patch));
            }
        }
        let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if hash != set.patch_sha256 {
            return not_those(set);
        }
        // One that is too large has no patch, and so no headers: it is not to be taken, but it is there.
        Ok(Approved {
            base_commit: set.base_commit.clone(),
            commit_id: set.commit_id.clone(),
            tree_id: set.tree_id.clone(),
            headers,
            chosen: places,
        })
    }

    async fn begin(
        &self,
        goal: &Goal,
        set: &ChangeSetRow,
        ready: &Ready,
        files: &[i64],
        request: &ApplyRequest,
    ) -> Result<i64> {
        let new = NewApply {
            change_set_id: set.id,
            patch_sha256: &set.patch_sha256,
            session_id: set.session_id,
            project_id: goal.project.id,
            host_id: &self.host_id,
            who: &request.who,
            remote: goal.remote,
            branch: &goal.branch,
            old_commit: ready.old.as_deref(),
            new_commit: &ready.new,
            tree_id: &ready.tree.tree_id,
            rebases: goal.is_base,
            files,
        };
        match self.store.begin_apply(&new).await? {
            Begun::Yes(id) => Ok(id),
            Begun::No(why) => refused(why, "look at them again: millhand review"),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the steps of one apply, called once")]
    async fn land(
        &self,
        goal: &Goal,
        set: &ChangeSetRow,
        mirror: &Mirror,
        ready: &Ready,
        held: &Applies,
        on_step: &(dyn Fn(Step) + Send + Sync),
        applied: &mut Applied,
    ) -> std::result::Result<Option<Not>, GitError> {
        let (source, branch) = (goal.project.source.as_str(), goal.branch.as_str());
        let (old, new) = (ready.old.as_deref(), ready.new.as_str());
        if goal.remote {
            return Ok(match self.git.push(mirror, &Push { source, branch, old, new }, held).await? {
                Pushed::Moved => Some(Not::Moved),
                Pushed::Refused(why) => Some(Not::Refused(why)),
                Pushed::Yes { remote, link, message } => {
                    on_step(Step::Moved);
                    applied.remote = Some(remote);
                    applied.pull_request = link.filter(|_| !goal.is_base);
                    applied.remote_message = (!message.is_empty()).then_some(message);
                    None
                }
            });
        }
        let landing = Landing { source, branch, old, new, key: set.id, patience: self.timings.apply_lock };
        Ok(match self.git.land(mirror, &landing, held, on_step).await? {
            Landed::Moved => Some(Not::Moved),
            Landed::Refused(why) => Some(Not::Refused(why)),
            Landed::Yes(worktree) => {
                applied.worktree = worktree.map(|path| path.display().to_string());
                None
            }
        })
    }

    /// Measures the session against the new commit; why not, if it stays.
    pub(super) async fn rebase(
        &self,
        project: &ProjectRow,
        set: &ChangeSetRow,
        apply_id: Option<i64>,
        onto: &Base,
        taken: Option<Taken>,
    ) -> Result<Option<String>> {
        let Some(session_id) = set.session_id else {
            if let Some(apply_id) = apply_id {
                self.store.settle_applies(None, apply_id, Some("its session is gone")).await?;
            }
            return Ok(None);
        };
        // The commit is in the user's repository now: the mirror is to have it from there, as all others. One that it has already, from
        // having made it, is not waited for.
        let has_it = self.git.mirror_with(project.id, &onto.commit).await?.is_some();
        let fetch = self.git.ensure_mirror(project.id, &project.source, None);
        let rebase = self.worktrees.rebase(session_id, onto, taken.as_ref());
        let moved = if has_it {
            let (fetched, moved) = tokio::join!(fetch, rebase);
            fetched?;
            moved
        } else {
            fetch.await?;
            rebase.await
        };
        let moved = match moved {
            Err(WorktreeError::Store(error)) => return Err(error.into()),
            // It may be half way there; the settler goes on with it.
            Err(WorktreeError::Git(error)) if !error.is_refusal() => Moved::Later(error.to_string()),
            Err(error) => Moved::No(error.to_string()),
            Ok(moved) => moved,
        };
        let (problem, settled) = match moved {
            Moved::Yes => (None, true),
            Moved::No(why) => (Some(why), true),
            Moved::Later(why) => (Some(why), false),
        };
        if let Some(apply_id) = apply_id.filter(|_| settled) {
            self.store.settle_applies(Some(session_id), apply_id, problem.as_deref()).await?;
        }
        Ok(problem)
    }

    pub(super) async fn reread(&self, set: &ChangeSetRow) -> Result<ChangeSetRow> {
        Ok(self.store.change_set_by_id(set.id).await?.unwrap_or_else(|| set.clone()))
    }
}

/// Why a commit did not land.
enum Not {
    Moved,
    Refused(String),
}
