//! What is applied, made ready in the mirror: the change set's tree is found or made again, merged with where the target is, and becomes a commit.

use super::{
    ActionError, Result,
    apply::{Applier, ApplyRequest, Goal, Prepared, Ready, Target, refused},
};
use crate::{
    git::{Applies, Approved, CommitText, Merged, Mirror, Patched, Step},
    model::{
        apply::{CommitFacts, Taken, author, message},
        ids::{SessionId, TaskId},
    },
    store::{projects::ProjectRow, reads_turns::ChangeSetRow},
};

impl Applier {
    pub(super) async fn mirror(&self, project: &ProjectRow, set: &ChangeSetRow) -> Result<Mirror> {
        if let Some(mirror) = self.git.mirror_with(project.id, &set.commit_id).await? {
            return Ok(mirror);
        }
        // Its session has come from another host, or the mirror was lost: the same tree, by another name or from the recorded changes.
        if let Some(mirror) = self.git.mirror_with_tree(project.id, &set.base_commit, &set.tree_id).await? {
            return Ok(mirror);
        }
        match self.rebuilt(project, set).await? {
            Some(mirror) => Ok(mirror),
            None => {
                let home = match set.session_id {
                    Some(id) => self.store.session(id).await?.and_then(|session| session.home_host),
                    None => None,
                };
                let hint = match home {
                    Some(host) => format!("run this command on the host {}", self.store.name_of_host(&host).await?),
                    None => "run this command on the host that has".to_owned(),
                };
                refused("this host does not have the work of that session", hint)
            }
        }
    }

    /// A mirror with a change set that was made on another host; none if it cannot be made again from what is recorded.
    async fn rebuilt(&self, project: &ProjectRow, set: &ChangeSetRow) -> Result<Option<Mirror>> {
        self.git.ensure_mirror(project.id, &project.source, None).await?;
        let Some(mirror) = self.git.mirror_with(project.id, &set.base_commit).await? else { return Ok(None) };
        let patches = self.store.patches(set.id).await?;
        let wanted = Patched { base_commit: &set.base_commit, patches: &patches, tree: &set.tree_id };
        match self.git.rebuild_change_set(&mirror, set.id, wanted).await {
            Ok(()) => Ok(Some(mirror)),
            Err(error) => {
                tracing::debug!(set = set.id, %error, "a change set cannot be made again here");
                Ok(None)
            }
        }
    }

    /// Fetches the target, merges with it, and makes the commit.
    #[expect(clippy::too_many_arguments, reason = "the steps of one apply, called once")]
    pub(super) async fn prepare(
        &self,
        goal: &Goal,
        set: &ChangeSetRow,
        mirror: &Mirror,
        approved: &Approved,
        request: &ApplyRequest,
        held: &Applies,
        on_step: &(dyn Fn(Step) + Send + Sync),
    ) -> Result<Prepared> {
        self.git.ensure_mirror(goal.project.id, &goal.project.source, None).await?;
        let old = self.tip(goal, set, mirror, held).await?;
        on_step(Step::Fetched);
        // A new branch starts where the session did: what was reviewed is what it has. So does one that is born now, which has no start.
        let start = match &old {
            Some(tip) => Some(tip.clone()),
            None => self.git.start_of(mirror, &set.base_commit).await?,
        };
        if old.is_none()
            && start.is_some()
            && goal.is_base
            && request.target == Target::Base
            && !self.git.has_remote_branch(mirror, &goal.branch).await?
        {
            return refused(format!("the branch {} is gone", goal.branch), "name another, new or not: --to BRANCH");
        }
        let from = self.merge_from(set, mirror, old.as_deref()).await?;
        let tree = self.git.chosen_tree(mirror, approved, &from).await?;
        let merged = match self.git.merge(mirror, &from, start.as_deref(), &tree).await? {
            Merged::Clean(merged) => merged,
            Merged::Conflicts { conflicts, .. } => {
                return Err(ActionError::Conflicts {
                    // What is only in a remote, the mirror does not have.
                    session: set.session_id.filter(|_| goal.is_base || !request.push).map(SessionId),
                    is_base: goal.is_base,
                    branch: goal.branch.clone(),
                    conflicts,
                });
            }
        };
        if let Some(old) = &old
            && self.git.tree_of(mirror, old).await? == merged
        {
            let tree = Taken { base_commit: set.base_commit.clone(), tree_id: tree };
            return Ok(Prepared::Nothing { tip: old.clone(), tree });
        }
        if goal.remote
            && let Some(path) = self.git.lfs_only_here(mirror, start.as_deref(), &merged).await?
        {
            return refused(
                format!(
                    "the content of {} belongs into Git LFS, and is only on this host: the remote would get a pointer to nothing",
                    path.display()
                ),
                "apply it to a branch of a repository on this host (--to BRANCH), and push that with git-lfs; or take the others: --only PATH",
            );
        }
        let text = self.text(set, request).await?;
        let new = self.git.commit_change(mirror, set.id, &merged, start.as_deref(), &text).await?;
        let tree = Taken { base_commit: set.base_commit.clone(), tree_id: tree };
        Ok(Prepared::Ready(Ready { old, new, tree }))
    }

    /// What the changes are merged from: what the target has of this session already is no conflict with what came after it.
    pub(super) async fn merge_from(&self, set: &ChangeSetRow, mirror: &Mirror, tip: Option<&str>) -> Result<String> {
        let base = set.base_commit.clone();
        let Some((session, tip)) = set.session_id.zip(tip) else { return Ok(base) };
        match self.worktrees.taken(mirror, session, tip).await? {
            Some(taken) => Ok(self.git.base_with(mirror, &base, &taken).await?.unwrap_or(base)),
            None => Ok(base),
        }
    }

    async fn tip(&self, goal: &Goal, set: &ChangeSetRow, mirror: &Mirror, held: &Applies) -> Result<Option<String>> {
        if !goal.remote {
            return Ok(self.git.mirrored_tip(mirror, &goal.branch).await?);
        }
        let tip = self.git.remote_tip(&goal.project.source, &goal.branch).await?;
        if tip.is_some() {
            self.git.fetch_remote_branch(mirror, &goal.project.source, &goal.branch, set.id, held).await?;
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
                    return refused(
                        format!("apply.author: \"{text}\" is not of the form Name <address>"),
                        "set it in millhand.toml, such as: author = \"Millhand <millhand@example.org>\"",
                    );
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
}
