//! The command line's words about this host: the worker, the database, the projects.

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand up --detach        in the background; millhand down stops it
  millhand up                 in the foreground; Ctrl-C stops it, twice at once

Checks that all is there (millhand setup installs it), starts the private Postgres where you name no database,
brings the schema up to date, and starts the worker.")]
pub(super) struct Up {
    /// Run it in the background, and return when it works
    #[arg(long, short)]
    pub(super) detach: bool,
    /// Turns at once [default: by cores and memory]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) concurrency: Option<u16>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand api
  millhand api --listen 127.0.0.1:8080
  curl -s http://127.0.0.1:7341/api/inbox | jq -r '.items[].prompt'

Serves the HTTP API without running tasks. What there is: /openapi.json.")]
pub(super) struct Api {
    /// Address and port [default: api.listen]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) listen: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Worker {
    /// Turns at once [default: by cores and memory]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) concurrency: Option<u16>,
    /// Leave the terminal's session: how `up --detach` starts it
    #[arg(long, hide = true)]
    pub(super) background: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Turns that run may go on for a while (timings.drain), then their tasks are handed back, uncharged, and start again with
the next worker. Nothing that an agent has done is lost.")]
pub(super) struct Down {
    /// Hand running tasks back at once
    #[arg(long)]
    pub(super) now: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
It really runs: Postgres, git worktrees, opencode and its tools. Only what the model says is scripted.")]
pub(super) struct Demo {}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  millhand models\n  millhand models --refresh\n  millhand models --json | jq -r '.models[]'"
)]
pub(super) struct Models {
    /// Ask the agent anew
    #[arg(long)]
    pub(super) refresh: bool,
}

#[derive(Debug, Args)]
pub(super) struct Uninstall {
    /// Do not ask
    #[arg(long, short)]
    pub(super) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Project {
    /// Register a repository, or change the options of one that is registered
    Add(ProjectAdd),
    /// List projects
    Ls,
    /// Say how a project's worktrees are set up, and what becomes of failed checks
    Set(ProjectSet),
    /// Remove a project with its sessions and tasks; costs stay recorded, your repository is left alone
    Rm(ProjectRm),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand project add                                  the repository that you are in
  millhand project add ~/src/acme --branch develop --model anthropic/claude-sonnet-4-5
  millhand project add git@github.com:acme/acme.git --name acme
  millhand project add --env-pass DATABASE_URL --on-failure continue

Your repository is read only: agents work in copies below MILLHAND_HOME.")]
pub(super) struct ProjectAdd {
    /// Path or URL of the repository
    #[arg(value_name = "PATH|URL", default_value = ".")]
    pub(super) source: String,
    /// What to call it [default: the last part of the path]
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// Branch that sessions start from [default: the one checked out at the time]
    #[arg(long, value_name = "BRANCH")]
    pub(super) branch: Option<String>,
    /// Agent of tasks that name none [default: opencode]
    #[arg(long, value_name = "AGENT")]
    pub(super) agent: Option<String>,
    /// Model (provider/model) of tasks that name none [default: the agent's own]
    #[arg(long, short, value_name = "MODEL")]
    pub(super) model: Option<String>,
    /// Whether a failed task holds its session's line, or the next one runs [default: hold]
    #[arg(long, value_name = "WHAT")]
    pub(super) on_failure: Option<OnFailure>,
    /// Whether a turn that was lost with its worker or server goes on by itself, or a person is asked first, as it
    /// may pay for a step again [default: continue]
    #[arg(long, value_name = "WHAT")]
    pub(super) resend: Option<Resend>,
    /// What answers when agents ask: no, yes (permissions, not questions), or you, from the inbox [default: reject]
    #[arg(long, value_name = "ANSWER")]
    pub(super) asks: Option<Asks>,
    /// Load the repository's own agent configuration, which is code that runs as the agent
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(super) trust: Option<bool>,
    /// Variable of the worker's environment that agents may see; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(super) env_pass: Vec<String>,
    /// Attempts that a task gets before it has failed [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=100))]
    pub(super) max_attempts: Option<i32>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand project set acme --setup \"npm ci\" --copy .env
  millhand project set acme --copy ~/secrets/acme.env:config/.env
  millhand project set acme --setup \"\"                     no setup any more
  millhand project set acme --check-resends 2 --require-checks

The setup runs once in each new worktree before its first turn, in the sandbox, as the agents do: what it may write is the project's own
folder. Copied files are read where they are on the host, through no link, and are never part of a change set; the agents can read them.")]
pub(super) struct ProjectSet {
    /// Name of the project
    #[arg(value_name = "NAME")]
    pub(super) name: String,
    /// Shell command that sets up each new worktree, such as one that installs dependencies; \"\": none
    #[arg(long, value_name = "COMMAND")]
    pub(super) setup: Option<String>,
    /// File to copy into each new worktree, to PATH there [default: its path in the repository, else its name]; may be repeated
    #[arg(long, value_name = "FILE[:PATH]")]
    pub(super) copy: Vec<String>,
    /// Path in the worktree to which nothing is copied any more; may be repeated
    #[arg(long, value_name = "PATH")]
    pub(super) no_copy: Vec<String>,
    /// Keep ignored files, such as installed dependencies, in worktrees that wait for the next session, although an earlier agent may
    /// have changed them; the setup runs all the same
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(super) keep_ignored: Option<bool>,
    /// How often in a row failed checks are sent back to the agent as the next prompt [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=20))]
    pub(super) check_resends: Option<i32>,
    /// Refuse to apply changes whose checks have not all passed
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(super) require_checks: Option<bool>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum OnFailure {
    Hold,
    Continue,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Resend {
    Continue,
    Ask,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Asks {
    Reject,
    Allow,
    Inbox,
}

#[derive(Debug, Args)]
pub(super) struct ProjectRm {
    /// Name of the project
    pub(super) name: String,
    /// Also if tasks wait or changes are not reviewed; they are lost
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// Only say which migrations the database has
    #[arg(long, conflicts_with = "dry_run")]
    pub(super) status: bool,
    /// Only say what would be done
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Db {
    /// Print the database's URL, password included
    Url,
    /// Open psql on the database; further arguments go to psql
    #[command(after_help = "Examples:\n  millhand db psql\n  millhand db psql -- -c 'SELECT * FROM millhand.inbox'")]
    Psql {
        /// Arguments for psql
        #[arg(last = true, value_name = "ARG")]
        arguments: Vec<std::ffi::OsString>,
    },
}
