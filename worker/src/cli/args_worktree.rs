//! The command line's words about worktrees and the ends of sessions.

use clap::{Args, Subcommand};

use crate::model::ids::AnyId;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand close s7
  millhand reopen s7

A closed session takes no more tasks. Its worktree goes to the trash, or is reset for the next session, an hour later
(timings.reap_grace). What it changed stays to be reviewed.")]
pub(super) struct Close {
    /// Session (s7)
    #[arg(value_name = "SESSION")]
    pub(super) session: AnyId,
}

#[derive(Debug, Args)]
pub(super) struct Reopen {
    /// Session (s7)
    #[arg(value_name = "SESSION")]
    pub(super) session: AnyId,
}

#[derive(Debug, Subcommand)]
pub(super) enum Worktree {
    /// List worktrees, and folders that the database does not know
    Ls(WorktreeLs),
    /// Bring a worktree back to its place, and open its session again
    #[command(after_help = "\
Examples:
  millhand worktree restore s7     the worktree of session s7
  millhand worktree restore w12

From the trash it comes back with all that was in it, ignored files too. When the trash is emptied, it is made again from
its checkpoint, which has all but ignored files.")]
    Restore {
        /// Worktree (w12), or its session (s7)
        #[arg(value_name = "ID")]
        id: WorktreeId,
    },
    /// Let go now of worktrees that nobody needs
    Reap(Reap),
}

#[derive(Debug, Args)]
pub(super) struct WorktreeLs {
    /// Only of this project
    #[arg(long, short, value_name = "NAME")]
    pub(super) project: Option<String>,
    /// Those that are not on disk any more, too
    #[arg(long)]
    pub(super) gone: bool,
    /// Those of other hosts, too
    #[arg(long)]
    pub(super) all_hosts: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand worktree reap --dry-run        what would go, and why
  millhand worktree reap                  what is due, now
  millhand worktree reap --no-grace       sessions closed a moment ago, too
  millhand worktree reap s7               this one, open session or not, unless a task is in its way

The work in a worktree is kept as a checkpoint first; then the folder goes to the trash.")]
pub(super) struct Reap {
    /// Only these worktrees (w12), or those of these sessions (s7), even if they are not due
    #[arg(value_name = "ID")]
    pub(super) ids: Vec<WorktreeId>,
    /// Only say what would go, and why
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not wait for the grace after a session's end
    #[arg(long)]
    pub(super) no_grace: bool,
}

/// A worktree, or the one of a session.
#[derive(Clone, Copy, Debug)]
pub(super) enum WorktreeId {
    Row(i64),
    Session(i64),
}

impl std::str::FromStr for WorktreeId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("\"{text}\" is neither a worktree (w12) nor a session (s7)");
        let (kind, digits) = text.split_at_checked(1).ok_or_else(expected)?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(expected());
        }
        let number = digits.parse().map_err(|_| expected())?;
        match kind {
            "w" => Ok(Self::Row(number)),
            "s" => Ok(Self::Session(number)),
            _ => Err(expected()),
        }
    }
}
