//! Programs that are too old, or say nonsense: a worker says so at once, and takes nothing.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Result, ensure};

use super::{Cli, finish};

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
