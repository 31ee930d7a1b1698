//! Before the first turn in a worktree: what the project's operator wants in it.
//!
//! It is noted as done when it is; a kill before that runs all of it again. It runs on the turn's lease, as an agent would.

use super::{Interrupted, Turns, interrupted, lease::Lease, persist::persist, transcript::Transcript};
use crate::{
    agent::command::Order,
    git::{GitError, Mirror, Worktree},
    model::{
        command::{Ended, setup_failure},
        event::AgentEvent,
        outcome::Ending,
    },
    store::queue::Claimed,
    worktrees::read_copied,
};

/// Copies files into a new worktree and runs the setup command in it.
pub(super) async fn set_up(
    turns: &Turns,
    claimed: &Claimed,
    lease: &Lease,
    mirror: &Mirror,
    worktree: &Worktree,
    transcript: &Transcript,
) -> Result<(), Interrupted> {
    if !claimed.has_setup || turns.git.is_set_up(mirror, claimed.session_id).await? {
        return Ok(());
    }
    let setup = persist(lease, || turns.store.setup(claimed.project_id)).await?;
    transcript.say(AgentEvent::Status { message: "setting up the worktree".to_owned() }).await;
    let files = read_copied(&turns.commands, setup.files).await.map_err(|why| failed(false, why))?;
    if !files.is_empty() {
        turns.git.copy_in(mirror, claimed.session_id, files).await.map_err(|error| match error {
            error @ (GitError::Refused { .. } | GitError::Planted { .. }) => failed(false, error.to_string()),
            error => error.into(),
        })?;
        turns.hand_over(worktree).await?;
    }
    if let Some(command) = &setup.command {
        run(turns, claimed, lease, worktree, transcript, command).await?;
    }
    Ok(turns.git.mark_set_up(mirror, claimed.session_id).await?)
}

fn failed(again: bool, why: String) -> Interrupted {
    Interrupted::Ended(Ending::SetupFailed { again }, why)
}

async fn run(
    turns: &Turns,
    claimed: &Claimed,
    lease: &Lease,
    worktree: &Worktree,
    transcript: &Transcript,
    command: &str,
) -> Result<(), Interrupted> {
    let order = Order {
        name: format!("setup-s{}", claimed.session_id),
        command,
        project_id: claimed.project_id,
        cwd: worktree.path.clone(),
        folder: turns.home.agent_folder(claimed.project_id),
        shared: turns.home.agent_folder(claimed.project_id),
        env_pass: &claimed.env_pass,
        limit: turns.timings.setup,
        on_lease: true,
    };
    let ran = turns.commands.run(&order, lease.stopped()).await;
    let ran = ran.map_err(|error| Interrupted::Ended(Ending::WorkerTrouble, error.to_string()))?;
    match ran.ended {
        Ended::Code(0) => {
            let message = format!("the worktree was set up in {} s", ran.took.as_secs());
            transcript.say(AgentEvent::Status { message }).await;
            Ok(())
        }
        Ended::Stopped => interrupted(lease),
        // A shim that its deadline has reached ends what runs on the lease.
        _ if lease.stopped().is_cancelled() => interrupted(lease),
        Ended::Lost => Err(Interrupted::Ended(Ending::WorkerTrouble, setup_failure(command, &ran))),
        Ended::Code(_) | Ended::Signal(_) | Ended::TimedOut | Ended::TooManyProcesses => {
            Err(failed(true, setup_failure(command, &ran)))
        }
    }
}
