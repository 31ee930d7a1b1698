//! Starting the child.

use std::{
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tokio::net::unix::pipe;

use crate::supervise::{family::FAMILY_VARIABLE, log::BoundedLog, sandbox::Prepared, wire::Spec};

/// A child that runs.
pub(super) struct Started {
    pub(super) pid: Pid,
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
    pub(super) log: Option<BoundedLog>,
}

/// Starts the child as the specification says.
pub(super) fn start(spec: &Spec) -> Result<Started> {
    let log = match &spec.log {
        Some(path) => Some(
            BoundedLog::open(path, spec.output.log_bytes)
                .with_context(|| format!("open the log {}", path.display()))?,
        ),
        None => None,
    };
    if !spec.cwd.is_dir() {
        bail!("its folder {} does not exist", spec.cwd.display());
    }
    let mut command = Command::new(&spec.program);
    command
        .args(&spec.args)
        .current_dir(&spec.cwd)
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .env(FAMILY_VARIABLE, &spec.marker)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if let Some(run_as) = spec.run_as {
        command.uid(run_as.uid).gid(run_as.gid);
    }
    let sandbox = match &spec.sandbox {
        Some(sandbox) => Some(Prepared::new(sandbox).context("prepare its sandbox")?),
        None => None,
    };
    in_child(&mut command, sandbox);
    let mut child = command.spawn().with_context(|| format!("start {}", spec.program.display()))?;
    let stdout = child.stdout.take().context("stdout")?;
    let stderr = child.stderr.take().context("stderr")?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("process id")?;
    // Dropping std's handle neither waits nor kills: the loop reaps everyone itself.
    drop(child);
    Ok(Started {
        pid,
        stdout: pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?,
        stderr: pipe::Receiver::from_owned_fd(OwnedFd::from(stderr))?,
        log,
    })
}

/// What happens in the child before it becomes the program: it will be killed when this thread, the shim's only one, ends
/// without having ended the family; then the sandbox closes.
#[expect(unsafe_code, reason = "std offers nothing else that runs between fork and exec")]
fn in_child(command: &mut Command, mut sandbox: Option<Prepared>) {
    let shim = rustix::process::getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // We may have died before that took effect.
        if getppid() != Some(shim) {
            return Err(std::io::Error::from(rustix::io::Errno::CHILD));
        }
        sandbox.take().map_or(Ok(()), Prepared::enter)
    };
    // SAFETY: the shim has one thread, so that no lock can be held by another between fork and exec.
    unsafe { command.pre_exec(prepare) };
}
