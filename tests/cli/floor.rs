//! Programs that are too old, or say nonsense: a worker says so at once, and takes nothing.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Stdio};

use anyhow::{Result, ensure};
use tokio::process::Command;

use super::{Cli, finish};
use crate::support::millhand;

/// A program that says only what version it is.
fn says(folder: &Path, name: &str, version: &str) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\necho '{version}'\n"))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

#[tokio::test]
async fn a_worker_does_not_start_with_programs_that_are_too_old_and_says_which() -> Result<()> {
    let cli = Cli::new().await?;
    for (name, version, wanted) in [
        ("git", "git version 2.43.6", ["git 2.43.6", "2.43.7", "CVE-2025-48384"]),
        ("git", "git version 2.50.0", ["git 2.50.0", "2.50.1", "CVE-2025-48384"]),
        ("opencode", "1.14.49", ["opencode", "1.14.49", "1.14.50"]),
    ] {
        let folder = tempfile::tempdir()?;
        says(folder.path(), name, version)?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(folder.path().to_owned()).chain(std::env::split_paths(&path)))?;
        let mut command = cli.command(&["worker"]);
        command.env("PATH", path);
        if name == "opencode" {
            command.env("MILLHAND_AGENT_OPENCODE_BINARY", folder.path().join(name));
        }
        let ran = finish(command).await?;
        ensure!(ran.code != 0, "{version}: it started");
        for words in wanted {
            ensure!(ran.stderr.contains(words), "{version}: {words} is not in: {}", ran.stderr);
        }
    }
    Ok(())
}

/// Runs a program on a kernel without Landlock, as far as the program can see: asking for a ruleset is answered by ENOSYS.
const WITHOUT_LANDLOCK: &str = r#"
my $filter = pack("SCCL", 0x20, 0, 0, 0) . pack("SCCL", 0x15, 0, 1, 444) . pack("SCCL", 0x06, 0, 0, 0x00050026) . pack("SCCL", 0x06, 0, 0, 0x7fff0000);
my $program = pack("S x![P] P", 4, $filter);
syscall(157, 38, 1, 0, 0, 0) == 0 or die "prctl: $!";
syscall(317, 1, 0, $program) == 0 or die "seccomp: $!";
exec @ARGV or die "exec: $!";
"#;

#[tokio::test]
async fn a_worker_does_not_start_where_agents_cannot_be_confined_unless_told_so() -> Result<()> {
    let has_perl = std::process::Command::new("perl").arg("-v").output().is_ok_and(|told| told.status.success());
    // The numbers of the system calls are those of this one.
    if !cfg!(target_arch = "x86_64") || !has_perl {
        crate::support::not_run!("a kernel without Landlock: it takes perl, on x86-64");
        return Ok(());
    }
    let cli = Cli::new().await?;
    let started = async |mode: &str| {
        let ours = cli.command(&["worker"]);
        let mut command = Command::new("perl");
        command.args(["-e", WITHOUT_LANDLOCK]).arg(millhand()).arg("worker").env_clear();
        command.envs(ours.as_std().get_envs().filter_map(|(name, value)| Some((name, value?))));
        // With the sandbox off it goes on to the next thing that is missing.
        command.env("MILLHAND_SANDBOX_MODE", mode).env("MILLHAND_AGENT_OPENCODE_BINARY", "/no/opencode");
        command.current_dir(cli.folder()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        finish(command).await
    };
    let refused = started("on").await?;
    ensure!(refused.code == 1 && refused.stderr.contains("this kernel cannot confine agents"), "{}", refused.stderr);
    ensure!(refused.stderr.contains("sandbox.mode = \"off\""), "{}", refused.stderr);
    let told = started("off").await?;
    ensure!(told.stderr.contains("agents are not confined") && told.stderr.contains("/no/opencode"), "{}", told.stderr);
    Ok(())
}
