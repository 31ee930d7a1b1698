//! A worker in a process of its own, which a test can stop and kill.

use std::{fs, process::Stdio};

use anyhow::{Context, Result};
use millhand::supervise::find_family;
use tokio::process::{Child, Command};

use super::{millhand, world::World};

/// A worker of the world's home, with these variables besides. It logs to `worker.log` in the world's folder.
pub fn start(world: &World, variables: &[(&str, &str)]) -> Result<Child> {
    Ok(command(world, "worker", variables)?.spawn()?)
}

/// A command of `millhand` as the user of a world gives it.
pub fn command(world: &World, name: &str, variables: &[(&str, &str)]) -> Result<Command> {
    let settings = &world.settings;
    let path = std::env::var_os("PATH").context("PATH")?;
    let log = fs::File::options().create(true).append(true).open(world.path().join("worker.log"))?;
    let mut command = Command::new(millhand());
    command
        .arg(name)
        .env_clear()
        .env("PATH", path)
        .env("HOME", world.path().join("user"))
        .env("MILLHAND_HOME", settings.home.root())
        .env("MILLHAND_DATABASE_URL", world.db.url())
        .env("MILLHAND_AGENT_OPENCODE_BINARY", settings.opencode.binary.as_deref().context("opencode")?)
        .env("MILLHAND_AGENT_OPENCODE_CONFIG", settings.opencode.config.as_deref().context("config")?)
        .env("MILLHAND_AGENT_OPENCODE_DEFAULT_MODEL", settings.opencode.default_model.as_deref().context("model")?)
        .env("MILLHAND_API_LISTEN", "off")
        .env("MILLHAND_TIMINGS_HEARTBEAT", "1s")
        .env("MILLHAND_TIMINGS_RESCUE", "1s")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true);
    Ok(command)
}

/// What the workers of a world have logged.
pub fn log(world: &World) -> String {
    fs::read_to_string(world.path().join("worker.log")).unwrap_or_default()
}

/// The agent's servers in a home, by its scope.
pub fn servers(scope: &str) -> Vec<u32> {
    let serves = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next().is_some_and(|program| program.ends_with(b"opencode")) && words.next() == Some(b"serve")
    };
    find_family(scope).into_iter().filter(serves).collect()
}
