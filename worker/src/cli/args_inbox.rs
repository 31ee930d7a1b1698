//! Arguments of the commands on the inbox.

use clap::Args;

use crate::model::ids::{AnyId, AskId};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand inbox
  millhand inbox --watch                  and what comes, until Ctrl-C
  millhand inbox --project acme --json")]
pub(super) struct Inbox {
    /// Go on and print what comes
    #[arg(long, short)]
    pub(super) watch: bool,
    /// Only of this project
    #[arg(long, short, value_name = "NAME")]
    pub(super) project: Option<String>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand answer a12                                 what is asked, and what may be answered
  millhand answer a12 once                            it may, this time; always: in this worktree
  millhand answer a12 reject --message \"Use make test\"  it may not, and goes on with that
  millhand answer a12 2                               the second of the answers that it proposes
  millhand answer a12 \"Neither: keep both\"            in your own words

Agents ask people in projects with: millhand project add --asks inbox. The turn waits meanwhile; after timings.person_answer it is a no.")]
pub(super) struct Answer {
    /// The ask (a12), see: millhand inbox
    #[arg(value_name = "ASK")]
    pub(super) ask: AskId,
    /// once, always or reject; for questions one answer each, by number or in words
    #[arg(value_name = "REPLY")]
    pub(super) reply: Vec<String>,
    /// Do not answer, or say no: without --message the turn stops
    #[arg(long, conflicts_with = "reply")]
    pub(super) reject: bool,
    /// With a no: what the agent is to do instead
    #[arg(long, value_name = "TEXT")]
    pub(super) message: Option<String>,
}

/// Which tasks.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Tasks (t42, or 42)
    #[arg(value_name = "TASK", required_unless_present = "all")]
    pub(super) tasks: Vec<AnyId>,
    /// All failed and blocked ones of the inbox
    #[arg(long, conflicts_with = "tasks")]
    pub(super) all: bool,
    /// With --all: only of this project
    #[arg(long, short, value_name = "NAME", requires = "all")]
    pub(super) project: Option<String>,
    /// With --all: only with this reason, as the inbox shows it (agent_failed, infrastructure_lost, ...)
    #[arg(long, value_name = "REASON", requires = "all")]
    pub(super) class: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand retry t42
  millhand retry t42 --prompt \"Add a --json flag; leave the tests alone\"
  millhand retry t42 --edit
  millhand retry t42 t43 --model anthropic/claude-opus-4-1
  millhand retry --all --class infrastructure_lost

The task keeps its id and goes first in its session's line.")]
pub(super) struct Retry {
    #[command(flatten)]
    pub(super) which: Which,
    /// Ask this instead; - reads it from stdin
    #[arg(long, value_name = "PROMPT")]
    pub(super) prompt: Option<String>,
    /// Change the prompt in your editor
    #[arg(long, conflicts_with_all = ["prompt", "all"])]
    pub(super) edit: bool,
    /// With another model (provider/model)
    #[arg(long, short, value_name = "MODEL")]
    pub(super) model: Option<String>,
    /// With another agent, or mode of it (opencode/plan)
    #[arg(long, value_name = "AGENT")]
    pub(super) agent: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  millhand dismiss t42\n  millhand dismiss --all --project acme")]
pub(super) struct Dismiss {
    #[command(flatten)]
    pub(super) which: Which,
}
