//! Reviewing: what a change set has, what has changed since it was last looked at, comments that become the next prompt, checkpoints.

use serde::Serialize;

use super::{ActionError, Applier, Changes, Result, changes, decide::open_changes, look::resolve_task, no_session};
use crate::{
    git::Merged,
    model::{
        change::FileChange,
        ids::{AnyId, SessionId},
        review::{Remark, review_prompt},
    },
    store::{
        Store,
        reads_turns::ChangeSetRow,
        reviews::{CheckpointRow, CommentRow, NewComment},
    },
    worktrees::Moved,
};

/// A change set, as a reviewer sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    /// The newest change set.
    pub changes: Changes,
    /// What was said about it, and not sent yet.
    pub comments: Vec<CommentRow>,
    /// The change set that this person looked at last, if it was another one.
    pub seen: Option<ChangeSetRow>,
}

/// What differs between two states of a session.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Interdiff {
    /// The older change set.
    pub from: ChangeSetRow,
    /// The newer one.
    pub to: ChangeSetRow,
    /// They are measured against different commits, and what came with the newer one cannot be told apart.
    pub mixed: bool,
    /// The files.
    #[serde(skip)]
    pub files: Vec<FileChange>,
}

/// The newest change set of a session or task, to look at.
pub async fn review(store: &Store, id: AnyId, who: &str) -> Result<Review> {
    let Some(found) = changes(store, id).await? else {
        open_changes(store, id).await?;
        return Err(nothing_yet());
    };
    let comments = store.comments(found.set.id).await?;
    let seen = match found.set.session_id {
        Some(session) => store.last_look(session, who).await?,
        None => None,
    };
    let seen = match seen.filter(|seen| *seen != found.set.id) {
        Some(seen) => store.change_set_by_id(seen).await?,
        None => None,
    };
    Ok(Review { changes: found, comments, seen })
}

fn nothing_yet() -> ActionError {
    ActionError::NotFound {
        what: "there is no change set yet".to_owned(),
        hint: "a turn that completes makes one; see: millhand ls".to_owned(),
    }
}

/// Remembers that a person has looked at a change set.
pub async fn looked_at(store: &Store, set: &ChangeSetRow, who: &str) -> Result<()> {
    if let Some(session) = set.session_id {
        store.look_at(session, set.id, who).await?;
    }
    Ok(())
}

/// Says something about a file of the newest change set, or about a line of it as it is now.
pub async fn comment(
    store: &Store,
    id: AnyId,
    path: &str,
    line: Option<i32>,
    text: &str,
    who: &str,
) -> Result<CommentRow> {
    let found = changes(store, id).await?.ok_or_else(nothing_yet)?;
    if !found.files.iter().any(|file| file.path == path || file.old_path.as_deref() == Some(path)) {
        return Err(ActionError::Refused {
            what: format!("\"{path}\" is not among the changes"),
            hint: Some("see: millhand diff --stat".to_owned()),
        });
    }
    if text.trim().is_empty() {
        return Err(ActionError::Refused { what: "the comment is empty".to_owned(), hint: None });
    }
    let new = NewComment { change_set_id: found.set.id, session_id: found.set.session_id, path, line, text, who };
    Ok(store.add_comment(&new).await?)
}

/// The comments of a session that were not sent, as a prompt; and what marks them as sent.
pub struct ReviewPrompt {
    /// The prompt.
    pub prompt: String,
    /// A key that queues it once.
    pub key: String,
    /// The comments.
    pub comments: Vec<i64>,
}

/// Makes a prompt of a session's comments.
pub async fn prompt_of_review(store: &Store, session_id: i64, more: Option<&str>) -> Result<ReviewPrompt> {
    let comments = store.unsent_comments(session_id).await?;
    let Some(last) = comments.last() else {
        return Err(ActionError::Refused {
            what: format!("there are no comments in {} that were not sent", SessionId(session_id)),
            hint: Some("make some: millhand review s7 --comment PATH:LINE TEXT".to_owned()),
        });
    };
    let remarks: Vec<_> = comments
        .iter()
        .map(|comment| Remark { path: &comment.path, line: comment.line, text: &comment.body })
        .collect();
    Ok(ReviewPrompt {
        prompt: review_prompt(&remarks, more),
        key: format!("review-s{session_id}-{}", last.id),
        comments: comments.iter().map(|comment| comment.id).collect(),
    })
}

/// The comments are in a task's prompt now.
pub async fn review_was_sent(store: &Store, review: &ReviewPrompt, task_id: i64) -> Result<()> {
    Ok(store.mark_comments_sent(&review.comments, task_id).await?)
}

/// The checkpoints of a session, oldest first.
pub async fn checkpoints(store: &Store, session_id: i64) -> Result<Vec<CheckpointRow>> {
    store.session(session_id).await?.ok_or_else(|| no_session(session_id))?;
    Ok(store.checkpoints(session_id).await?)
}

impl Applier {
    /// What differs between two change sets: what the later one changed beyond the earlier one, apart from what its base brought.
    pub async fn interdiff(&self, from: &ChangeSetRow, to: &ChangeSetRow) -> Result<Interdiff> {
        let project = super::project_named(&self.store, &to.project).await?;
        let mirror = self.mirror(&project, to).await?;
        if self.git.mirror_with(project.id, &from.commit_id).await?.is_none() {
            self.mirror(&project, from).await?;
        }
        let (mut tree, mut mixed) = (from.tree_id.clone(), false);
        if from.base_commit != to.base_commit {
            match self.git.merge(&mirror, &from.base_commit, Some(&to.base_commit), &from.tree_id).await? {
                Merged::Clean(merged) => tree = merged,
                Merged::Conflicts { .. } => mixed = true,
            }
        }
        let files = self.git.compare_trees(&mirror, &tree, &to.tree_id).await?;
        Ok(Interdiff { from: from.clone(), to: to.clone(), mixed, files })
    }

    /// Takes a session's worktree back to what it was after a task; its next turn starts from there.
    pub async fn roll_back(&self, session_id: i64, to: AnyId, who: &str) -> Result<ChangeSetRow> {
        self.store.session(session_id).await?.ok_or_else(|| no_session(session_id))?;
        let task = resolve_task(&self.store, to).await?;
        let found = changes(&self.store, AnyId::Task(task)).await?.ok_or_else(nothing_yet)?;
        if found.set.session_id != Some(session_id) {
            return Err(ActionError::Refused {
                what: format!("{task} is not a task of {}", SessionId(session_id)),
                hint: Some(format!("see: millhand checkpoints {}", SessionId(session_id))),
            });
        }
        match self.worktrees.roll_back(session_id, task.0, &found.set, who).await? {
            Moved::Yes => Ok(self.reread(&found.set).await?),
            Moved::Later(why) => Err(ActionError::Refused {
                what: format!("{} cannot be taken back now: {why}", SessionId(session_id)),
                hint: Some("wait for it, or cancel it: millhand ls --state running".to_owned()),
            }),
            Moved::No(why) => Err(ActionError::Refused {
                what: format!("{} cannot be taken back: {why}", SessionId(session_id)),
                hint: Some(format!("what it was like then is kept all the same: millhand diff {task}")),
            }),
        }
    }
}
