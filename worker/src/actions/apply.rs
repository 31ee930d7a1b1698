//! Applying: what was approved becomes a commit on a branch, once, or nothing is changed.
//!
//! Everything happens under the project's lock on this host. The journal's row comes before the branch moves: whoever comes next after a kill
//! looks where the branch is, and finishes or forgets the apply. See `git::land` for what happens in the repository.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    ActionError, Changes, Result, changes,
    decide::{chosen, open_changes},
    no_session,
};
use crate::{
    config::{ApplySettings, Timings},
    git::{
        Applies, Approved, Base, CommitText, Git, GitError, Landed, Landing, Merged, Mirror, Push, Pushed, SourceKind,
        Step, headers_of,
    },
    model::{
        apply::{CommitFacts, author, message},
        ids::{AnyId, SessionId, TaskId},
    },
    store::{
        Store,
        changes::{Begun, NewApply},
        reads::ProjectRow,
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
    /// Who says so.
    pub who: String,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
}

pub(super) fn refused<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T> {
    Err(ActionError::Refused { what: what.into(), hint: Some(hint.into()) })
}

/// The repository, or remote, and the branch that takes the changes.
struct Goal {
    project: ProjectRow,
    branch: String,
    /// To a remote.
    remote: bool,
    /// It is the branch that the session is measured against.
    is_base: bool,
}

/// A commit that is ready to land.
struct Ready {
    old: Option<String>,
    new: String,
}

enum Prepared {
    Ready(Ready),
    /// The target has it all.
    Nothing,
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
        let held = self.git.lock_applies(project.id).await?;
        self.recover(&project, &held).await?;
        // As it is now: whoever had the lock may have applied it.
        let found = open_changes(&self.store, id).await?;
        let goal = self.goal(project, &found.set, request).await?;
        let places = chosen(&found, &request.only)?;
        if places.is_empty() {
            return refused("there is nothing to apply", "its files are decided already; see: millhand review");
        }
        let approved = self.approved(&found, places, request).await?;
        let mirror = self.mirror(&goal.project, &found.set).await?;
        let tree = self.git.chosen_tree(&mirror, &approved).await?;
        self.take(&goal, &found, &approved, &mirror, &tree, request, &held, on_step).await
    }

    /// Merges and lands, again if the target moves meanwhile.
    #[expect(clippy::too_many_arguments, reason = "the steps of one apply, called once")]
    async fn take(
        &self,
        goal: &Goal,
        found: &Changes,
        approved: &Approved,
        mirror: &Mirror,
        tree: &str,
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
        };
        for _ in 0..TRIES {
            let ready = match self.prepare(goal, set, mirror, tree, request, held, on_step).await? {
                Prepared::Ready(ready) => ready,
                Prepared::Nothing => {
                    self.store.mark_applied(set.id, &files, &request.who).await?;
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
                        applied.not_rebased = self.rebase(&goal.project, set, begun, &ready.new, &goal.branch).await?;
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

    async fn goal(&self, project: ProjectRow, set: &ChangeSetRow, request: &ApplyRequest) -> Result<Goal> {
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
        let changed = || {
            refused(
                "the changes are not those that were approved",
                format!("look at them again: millhand review; their hash is {}", set.patch_sha256),
            )
        };
        if let Some(expected) = &request.expect
            && (expected.len() < 8 || !set.patch_sha256.starts_with(&expected.to_ascii_lowercase()))
        {
            return changed();
        }
        for place in &places {
            let file = &found.files[*place];
            if let Some((_, why)) = UNREADABLE.iter().find(|(flag, _)| file.flags.iter().any(|found| found == flag)) {
                return refused(format!("{} {why}", file.path), "take the others: --only PATH");
            }
        }
        let (mut hash, mut headers, mut after) = (Sha256::new(), Vec::with_capacity(found.files.len()), 0);
        while let Some((id, patch)) = self.store.next_patch(set.id, after).await? {
            after = id;
            hash.update(&patch);
            headers.push(headers_of(&patch));
        }
        let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if hash != set.patch_sha256 {
            return changed();
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

    pub(super) async fn mirror(&self, project: &ProjectRow, set: &ChangeSetRow) -> Result<Mirror> {
        match self.git.mirror_with(project.id, &set.commit_id).await? {
            Some(mirror) => Ok(mirror),
            None => {
                let home = match set.session_id {
                    Some(id) => self.store.session(id).await?.and_then(|session| session.home_host),
                    None => None,
                };
                let home = home.map(|host| format!("on the host {host}")).unwrap_or_default();
                refused("this host does not have the work of that session", format!("run this command {home}"))
            }
        }
    }

    /// Fetches the target, merges with it, and makes the commit.
    #[expect(clippy::too_many_arguments, reason = "the steps of one apply, called once")]
    async fn prepare(
        &self,
        goal: &Goal,
        set: &ChangeSetRow,
        mirror: &Mirror,
        tree: &str,
        request: &ApplyRequest,
        held: &Applies,
        on_step: &(dyn Fn(Step) + Send + Sync),
    ) -> Result<Prepared> {
        self.git.ensure_mirror(goal.project.id, &goal.project.source, None).await?;
        let old = self.tip(goal, mirror, held).await?;
        on_step(Step::Fetched);
        // A new branch starts where the session did: what was reviewed is what it has. So does one that is born now, which has no start.
        let start = match &old {
            Some(tip) => Some(tip.clone()),
            None => self.git.start_of(mirror, &set.base_commit).await?,
        };
        let merged = match self.git.merge(mirror, &set.base_commit, start.as_deref(), tree).await? {
            Merged::Clean(merged) => merged,
            Merged::Conflicts(conflicts) => {
                return Err(ActionError::Conflicts { branch: goal.branch.clone(), conflicts });
            }
        };
        if let Some(old) = &old
            && self.git.tree_of(mirror, old).await? == merged
        {
            return Ok(Prepared::Nothing);
        }
        let text = self.text(set, request).await?;
        let new = self.git.commit_change(mirror, set.id, &merged, start.as_deref(), &text).await?;
        Ok(Prepared::Ready(Ready { old, new }))
    }

    async fn tip(&self, goal: &Goal, mirror: &Mirror, held: &Applies) -> Result<Option<String>> {
        if !goal.remote {
            return Ok(self.git.mirrored_tip(mirror, &goal.branch).await?);
        }
        let tip = self.git.remote_tip(&goal.project.source, &goal.branch).await?;
        if tip.is_some() {
            self.git.fetch_remote_branch(mirror, &goal.project.source, &goal.branch, held).await?;
        }
        Ok(tip)
    }

    async fn text(&self, set: &ChangeSetRow, request: &ApplyRequest) -> Result<CommitText> {
        let session = match set.session_id {
            Some(id) => self.store.session(id).await?,
            None => None,
        };
        let task = match set.task_id {
            Some(id) => self.store.task(id).await?,
            None => None,
        };
        let facts = CommitFacts {
            title: session.as_ref().map_or("", |session| &session.title),
            prompt: task.as_ref().map_or("", |task| &task.prompt),
            summary: task.as_ref().and_then(|task| task.output_summary.as_deref()).unwrap_or_default(),
            session: set.session_id.map(|id| SessionId(id).to_string()).unwrap_or_default(),
            task: set.task_id.map(|id| TaskId(id).to_string()).unwrap_or_default(),
            agent: &set.agent,
            project: &set.project,
        };
        let by = match &self.settings.author {
            None => None,
            Some(text) => match author(text) {
                Some((name, address)) => Some((name.to_owned(), address.to_owned())),
                None => {
                    return refused(format!("apply.author: \"{text}\" is not of the form Name <address>"), "mend it");
                }
            },
        };
        let template = request.message.as_deref().unwrap_or(&self.settings.message);
        let text = match &request.message {
            // A person's own words are not a template.
            Some(own) => message("{title}", &self.settings.trailers, &CommitFacts { title: own, ..facts }),
            None => message(template, &self.settings.trailers, &facts),
        };
        Ok(CommitText { author: by, message: text, sign: self.settings.sign })
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
        apply_id: i64,
        commit: &str,
        branch: &str,
    ) -> Result<Option<String>> {
        let Some(session_id) = set.session_id else { return Ok(None) };
        // The commit is in the user's repository now: the mirror is to have it from there, as all others.
        self.git.ensure_mirror(project.id, &project.source, None).await?;
        let onto = Base { branch: Some(branch.to_owned()), commit: commit.to_owned() };
        let moved = match self.worktrees.rebase(session_id, &onto).await {
            Err(WorktreeError::Store(error)) => return Err(error.into()),
            Err(error) => Moved::No(error.to_string()),
            Ok(moved) => moved,
        };
        let (problem, settled) = match moved {
            Moved::Yes => (None, true),
            Moved::No(why) => (Some(why), true),
            Moved::Later(why) => (Some(why), false),
        };
        if settled {
            self.store.settle_applies(session_id, apply_id, problem.as_deref()).await?;
        }
        Ok(problem)
    }

    async fn reread(&self, set: &ChangeSetRow) -> Result<ChangeSetRow> {
        Ok(self.store.change_set_by_id(set.id).await?.unwrap_or_else(|| set.clone()))
    }
}

/// Why a commit did not land.
enum Not {
    Moved,
    Refused(String),
}
