//! The command line's words about checks.

use clap::{Args, Subcommand};

use crate::model::ids::AnyId;

#[derive(Debug, Subcommand)]
pub(super) enum Check {
    /// Add a check to a project, or change the one of this name
    Add(Add),
    /// List checks
    Ls(OfProject),
    /// Remove a check; what it said of changes stays
    Rm(Rm),
    /// Check the changes of a session or task again, by the checks that the project has now
    Run(OfChanges),
    /// Show what the checks said of changes, and what they printed
    Show(OfChanges),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand check add test \"npm test\"
  millhand check add lint \"cargo clippy -- --deny warnings\" --project acme --limit 10m

After each turn that changed something, the checks run one after another on a checkout of what it left, set up as worktrees are, in the
sandbox: they execute what the agent wrote. They can write that checkout, and nothing that agents or you can see. Exit code 0 is a pass.
Failed ones can be sent back to the agent: millhand project set acme --check-resends 2")]
pub(super) struct Add {
    /// What to call it
    #[arg(value_name = "NAME")]
    pub(super) name: String,
    /// Shell command
    #[arg(value_name = "COMMAND")]
    pub(super) command: String,
    #[command(flatten)]
    pub(super) of: OfProject,
    /// How long it may take, such as 90s or 1h [default: timings.check]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(super) limit: Option<i32>,
}

fn seconds(text: &str) -> Result<i32, String> {
    let parsed = crate::config::duration::parse(text).and_then(|time| i32::try_from(time.as_secs()).ok());
    parsed.filter(|seconds| *seconds > 0).ok_or_else(|| "expected a time such as 90s or 1h".to_owned())
}

#[derive(Debug, Args)]
pub(super) struct OfProject {
    /// Project [default: the one of the repository that you are in]
    #[arg(long, short, value_name = "NAME")]
    pub(super) project: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Rm {
    /// Name of the check
    #[arg(value_name = "NAME")]
    pub(super) name: String,
    #[command(flatten)]
    pub(super) of: OfProject,
}

#[derive(Debug, Args)]
pub(super) struct OfChanges {
    /// Session (s7), or task (t42, or 42)
    #[arg(value_name = "ID")]
    pub(super) id: AnyId,
}
