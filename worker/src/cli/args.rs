//! The command line's words: commands, flags, and the help that teaches them.

#![allow(rustdoc::broken_intra_doc_links, reason = "the comments here are help texts, where brackets are brackets")]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(super) use super::args_host::{
    Api, Asks, Db, Demo, Down, Migrate, Models, OnFailure, Project, ProjectAdd, ProjectSet, Resend, Uninstall, Up,
    Worker,
};
use crate::model::ids::AnyId;

const AFTER_HELP: &str = "\
Start here:
  millhand setup                    find or install what it needs
  millhand up --detach              start a worker (and a private Postgres, if you name no database)
  cd ~/src/acme                     your repository
  millhand run \"Add a --json flag\"  queue a task and follow it
  millhand review t1                look at what it changed
  millhand apply t1                 take it, as a commit on the branch that it started from

No API key at hand? `millhand demo` runs it all with a scripted model.

Ids: t42 is a task (so is a bare 42), s7 a session, c9 a chat.
Exit codes: 0 completed, 1 Millhand failed, 2 usage or config, 3 task failed, 4 needs a person,
  5 cancelled, 6 not found, 7 database unreachable, 130 detached by Ctrl-C.";

/// A worker for coding agents: queue prompts, let agents work in git worktrees, review what they changed.
#[derive(Debug, Parser)]
#[command(name = "millhand", version, after_help = AFTER_HELP, max_term_width = 110)]
#[command(disable_help_subcommand = true, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// Settings file [default: $MILLHAND_HOME/private/millhand.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Where Millhand keeps its data [MILLHAND_HOME]
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(super) home: Option<String>,
    /// Database [MILLHAND_DATABASE_URL, DATABASE_URL, PG*; none of them: a private Postgres]
    #[arg(long, global = true, value_name = "URL")]
    pub(super) database_url: Option<String>,
    /// Print JSON: one object for one thing, one object a line for lists and streams
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Find opencode and PostgreSQL, or install them into a folder of Millhand's own
    Setup,
    /// Start a worker, with the database that it needs
    Up(Up),
    /// Say what runs, and what waits
    Status,
    /// Watch what all hosts do, live; Ctrl-C ends it
    Top,
    /// Stop this host's worker
    Down(Down),
    /// Try everything out on a small sample repository, with a scripted model: no API key, no cost
    Demo(Demo),
    /// Check everything that Millhand needs, and say how to mend it
    Doctor,
    /// Queue a task in a new session, and follow it
    Run(Run),
    /// Queue a task in a session that exists, and follow it
    Send(Send),
    /// List tasks, newest first, and why those that wait do
    Ls(Ls),
    /// Show a task or session: attempts, errors, changes, cost, what to do next
    Show(Show),
    /// Follow a task live; Ctrl-C stops following, the task goes on
    Attach(Attach),
    /// Show what a task or session changed
    Diff(Diff),
    /// Look at changes, say something about them, see what is new since the last look
    Review(super::args_review::Review),
    /// Show which changes would conflict, and an order in which they apply
    Forecast(super::forecast::Forecast),
    /// Put changes on a branch: all or nothing, and only once
    Apply(super::args_review::Apply),
    /// Refuse changes, all or some files; the work stays in the session's worktree
    Reject(super::args_review::Reject),
    /// List what a session was like after each of its tasks
    Checkpoints(super::args_review::Checkpoints),
    /// Take a session's worktree back to what it was after a task
    Rollback(super::args_review::Rollback),
    /// List what needs you: failed and blocked tasks, and what agents ask
    Inbox(super::args_inbox::Inbox),
    /// Answer what an agent asks
    Answer(super::args_inbox::Answer),
    /// Run failed, blocked or cancelled tasks again
    Retry(super::args_inbox::Retry),
    /// Take failed or blocked tasks out of the inbox, and let what is behind them run
    Dismiss(super::args_inbox::Dismiss),
    /// Cancel a task
    Cancel(OneTask),
    /// Close a session: it takes no more tasks, and its worktree goes
    Close(super::args_worktree::Close),
    /// Open a closed session again
    Reopen(super::args_worktree::Reopen),
    /// List, restore and reap worktrees
    #[command(subcommand)]
    Worktree(super::args_worktree::Worktree),
    /// Register, list and remove repositories
    #[command(subcommand)]
    Project(Project),
    /// Commands of yours that are run on what each turn left, such as tests
    #[command(subcommand)]
    Check(super::args_check::Check),
    /// Have others told of what needs you: register webhooks, see what was posted
    #[command(subcommand)]
    Webhook(super::args_webhook::Webhook),
    /// Who may use the HTTP API: make, list and take back tokens
    #[command(subcommand)]
    Token(super::args_token::Token),
    /// List the models that the agents of this host offer
    Models(Models),
    /// Sum up what was paid: per project, agent, model, day, session or task
    Stats(super::args_costs::Stats),
    /// Show and set what may be spent
    Budget(super::args_costs::Budget),
    /// Run a worker in the foreground, for service managers; `up` does all around it
    Worker(Worker),
    /// Serve the HTTP API in the foreground, without a worker
    Api(Api),
    /// Create or update the database's schema
    Migrate(Migrate),
    /// Reach the database with other tools
    #[command(subcommand)]
    Db(Db),
    /// Print a script that completes commands in your shell
    #[command(
        after_help = "Examples:\n  millhand completions bash >~/.local/share/bash-completion/completions/millhand\n  millhand completions zsh >~/.zfunc/_millhand\n  millhand completions fish >~/.config/fish/completions/millhand.fish"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages into a folder
    #[command(after_help = "Example:\n  millhand man ~/.local/share/man/man1, then: man millhand-run")]
    Man {
        /// Where to; made if it is not there
        folder: PathBuf,
    },
    /// Measure how fast Millhand is on this machine, beside git and a cold opencode run
    Bench(super::bench::Arguments),
    /// Remove all that Millhand has put on this machine; your repositories are left alone
    Uninstall(Uninstall),
}

/// What to ask.
#[derive(Debug, Args)]
pub(super) struct Prompt {
    /// What to ask the agent; - reads it from stdin
    #[arg(value_name = "PROMPT", required_unless_present = "file")]
    pub(super) prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with = "prompt")]
    pub(super) file: Option<PathBuf>,
}

/// How to do it.
#[derive(Debug, Args)]
pub(super) struct TaskOptions {
    /// Agent, with a mode of its own behind a slash (opencode, opencode/plan) [default: the project's]
    #[arg(long, value_name = "AGENT")]
    pub(super) agent: Option<String>,
    /// Model (provider/model) [default: the project's, else the agent's]
    #[arg(long, short, value_name = "MODEL")]
    pub(super) model: Option<String>,
    /// Variant of the model, such as its reasoning effort
    #[arg(long, value_name = "NAME")]
    pub(super) variant: Option<String>,
    /// Lower runs first
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub(super) priority: i32,
    /// Queue the task once, however often this is repeated with the same key
    #[arg(long, value_name = "KEY")]
    pub(super) idempotency_key: Option<String>,
    /// Do not follow: print the task's id and return
    #[arg(long, short)]
    pub(super) detach: bool,
    /// Show the model's reasoning too
    #[arg(long)]
    pub(super) reasoning: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand run \"Add a --json flag to the ls command\"
  millhand run --model anthropic/claude-sonnet-4-5 --detach \"Write tests for the parser\"
  millhand run --project acme --file prompt.md
  git log -3 | millhand run -          prompt from stdin

The session starts from the commit of the project's base branch; files that are not committed are not part of it.")]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) prompt: Prompt,
    /// Project [default: the one of the repository that you are in]
    #[arg(long, short, value_name = "NAME")]
    pub(super) project: Option<String>,
    /// Register the repository that you are in without asking, if it is not a project yet
    #[arg(long, short)]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) options: TaskOptions,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand send s7 \"Now add tests for it\"
  millhand send s7 --chat new \"Review the changes\"    an agent that does not know the talk so far
  millhand send t42 \"Go on\"                           the session of t42
  millhand send s7 --review                            your comments on its changes (millhand review --comment)
  millhand send s7 --review \"Then run the tests\"      and something besides
  millhand send s7 --conflicts                         what conflicts with its branch, to be resolved
  millhand send s7 --conflicts --to release            what conflicts with another branch

The session's tasks run one after another in one worktree, in the order they were sent.")]
pub(super) struct Send {
    /// Session (s7), or a chat (c9) or task (t42) of it
    #[arg(value_name = "SESSION")]
    pub(super) session: AnyId,
    /// What to ask the agent; - reads it from stdin
    #[arg(value_name = "PROMPT", required_unless_present_any = ["file", "review", "conflicts"])]
    pub(super) prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with = "prompt")]
    pub(super) file: Option<PathBuf>,
    /// Send your comments on the session's changes, before the prompt
    #[arg(long)]
    pub(super) review: bool,
    /// Merge the branch into the session's worktree, and send what conflicts with its changes, before the prompt
    #[arg(long, conflicts_with = "review")]
    pub(super) conflicts: bool,
    /// The branch that --conflicts merges [default: the one that the session started from]
    #[arg(long, value_name = "BRANCH", requires = "conflicts")]
    pub(super) to: Option<String>,
    /// Chat of the session: an id, or new [default: the first]
    #[arg(long, value_name = "ID|new", value_parser = parse_chat)]
    pub(super) chat: Option<ChatChoice>,
    #[command(flatten)]
    pub(super) options: TaskOptions,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum ChatChoice {
    New,
    Id(i64),
}

fn parse_chat(text: &str) -> Result<ChatChoice, String> {
    if text == "new" {
        return Ok(ChatChoice::New);
    }
    match text.parse::<AnyId>() {
        Ok(AnyId::Chat(id)) => Ok(ChatChoice::Id(id.0)),
        // Where only a chat can be meant, a bare number is one.
        Ok(AnyId::Task(id)) if !text.starts_with('t') => Ok(ChatChoice::Id(id.0)),
        _ => Err("expected a chat such as c9, or new".to_owned()),
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand ls
  millhand ls --state running --state waiting
  millhand ls --project acme --limit 100
  millhand ls --sessions
  millhand ls --json | jq -r 'select(.state == \"failed\") | .id'")]
pub(super) struct Ls {
    /// List sessions instead
    #[arg(long, conflicts_with_all = ["state", "session"])]
    pub(super) sessions: bool,
    /// Only of this project
    #[arg(long, short, value_name = "NAME")]
    pub(super) project: Option<String>,
    /// Only of this session
    #[arg(long, short, value_name = "SESSION")]
    pub(super) session: Option<AnyId>,
    /// Only in this state; may be repeated
    #[arg(long, value_name = "STATE")]
    pub(super) state: Vec<State>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum State {
    Pending,
    Waiting,
    Running,
    Blocked,
    Completed,
    Failed,
    Cancelled,
}

impl State {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Blocked => "blocked",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  millhand show t42\n  millhand show s7\n  millhand show t42 --json | jq .cost_usd")]
pub(super) struct Show {
    /// Task (t42, or 42), session (s7) or chat (c9: its newest task)
    #[arg(value_name = "ID")]
    pub(super) id: AnyId,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand attach t42
  millhand attach s7            the newest task of the session
  millhand attach t42 --json    one object a line: turn_events, then the task")]
pub(super) struct Attach {
    /// Task (t42, or 42); a session or chat means its newest task
    #[arg(value_name = "ID")]
    pub(super) id: AnyId,
    /// Show the model's reasoning too
    #[arg(long)]
    pub(super) reasoning: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand diff t42                     files, then the patch, for reading
  millhand diff s7 --stat               files only
  millhand diff --patch t42 | git apply --index
  millhand diff t42 t43                 what t43 changed beyond t42

A diff is measured against the session's base commit: a later task's diff holds the earlier ones' changes too.")]
pub(super) struct Diff {
    /// Task (t42, or 42), or session (s7: its newest result)
    #[arg(value_name = "ID")]
    pub(super) id: AnyId,
    /// Another one: show what it has beyond the first
    #[arg(value_name = "OTHER", conflicts_with_all = ["patch", "stat"])]
    pub(super) other: Option<AnyId>,
    /// Print the exact patch, as git apply takes it
    #[arg(long, conflicts_with = "stat")]
    pub(super) patch: bool,
    /// Print the files only
    #[arg(long)]
    pub(super) stat: bool,
}

#[derive(Debug, Args)]
pub(super) struct OneTask {
    /// Task (t42, or 42)
    #[arg(value_name = "TASK")]
    pub(super) task: AnyId,
}
