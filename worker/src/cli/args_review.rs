//! The command line's words about deciding what becomes of changes.

use clap::Args;

use crate::model::ids::AnyId;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand review s7                                  files, what to look at twice, then the patch, in your git pager
  millhand review s7 --interdiff                      what has changed since you looked at it last
  millhand review s7 --comment src/a.rs:12 \"Why?\"     note something, on a line or a file
  millhand send s7 --review                           and have the agent see to it

Looking at a terminal is what counts as having looked.")]
pub(super) struct Review {
    /// Session (s7), or task (t42, or 42)
    #[arg(value_name = "ID")]
    pub(super) id: AnyId,
    /// Show what has changed since you looked at it last
    #[arg(long, conflicts_with_all = ["comment", "stat"])]
    pub(super) interdiff: bool,
    /// Note something about PATH, or PATH:LINE
    #[arg(long, value_names = ["PLACE", "TEXT"], num_args = 2)]
    pub(super) comment: Option<Vec<String>>,
    /// Print the files only
    #[arg(long)]
    pub(super) stat: bool,
}

#[derive(Debug, Args)]
pub(super) struct Checkpoints {
    /// Session (s7)
    #[arg(value_name = "SESSION")]
    pub(super) session: AnyId,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand checkpoints s7
  millhand rollback s7 t42      as it was after t42

What it was before is kept as a commit of Millhand's clone (refs/millhand/rolled-back/7); ignored files stay as they are.")]
pub(super) struct Rollback {
    /// Session (s7)
    #[arg(value_name = "SESSION")]
    pub(super) session: AnyId,
    /// Task of the session
    #[arg(value_name = "TASK")]
    pub(super) to: AnyId,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand apply s7                          all of it, as one commit on the branch that the session started from
  millhand apply s7 --only src --only a.md   only these files, or the files in these folders
  millhand apply s7 --to feature             on another branch, new or not
  millhand apply s7 --push                   as a new branch of the remote, for a pull request
  millhand apply s7 --expect 3f9c2a1b        only if the changes have this hash (millhand diff --json)

The changes are merged with the newest commit of the branch. If they conflict, or a file of yours is in the way, nothing is done.
Where the branch is checked out, its files are updated. Your hooks do not run. What is left over is measured against the new commit.")]
pub(super) struct Apply {
    /// Session (s7), or task (t42, or 42)
    #[arg(value_name = "ID")]
    pub(super) id: AnyId,
    /// Only this file, or the files in this folder; may be repeated
    #[arg(long, value_name = "PATH")]
    pub(super) only: Vec<String>,
    /// Branch to put them on [default: the one that the session started from]
    #[arg(long, value_name = "BRANCH")]
    pub(super) to: Option<String>,
    /// Push the branch to the remote instead [default branch: millhand/s7]
    #[arg(long)]
    pub(super) push: bool,
    /// The commit's message [default: apply.message]
    #[arg(long, short, value_name = "TEXT")]
    pub(super) message: Option<String>,
    /// Refuse changes with another hash than this (or one that starts so)
    #[arg(long, value_name = "HASH")]
    pub(super) expect: Option<String>,
    /// Refuse changes whose checks have not all passed [default: as the project says]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) require_checks: Option<bool>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand reject s7               all that is not decided yet
  millhand reject s7 --only src/a.rs --only docs

What was rejected stays in the session's worktree: tell the agent what to do about it with millhand send, or take the worktree back to
a checkpoint with millhand rollback.")]
pub(super) struct Reject {
    /// Session (s7), or task (t42, or 42)
    #[arg(value_name = "ID")]
    pub(super) id: AnyId,
    /// Only this file, or the files in this folder; may be repeated
    #[arg(long, value_name = "PATH")]
    pub(super) only: Vec<String>,
    /// Refuse to reject changes with another hash than this (or one that starts so)
    #[arg(long, value_name = "HASH")]
    pub(super) expect: Option<String>,
}
