//! The worker of a host, built from the settings: lock, leftovers, git, agents, turns, loops.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Settings as WorkerSettings, Worker};
use crate::{
    actions::Applier,
    agent::{
        Backend,
        confine::Confinement,
        opencode::{OpencodeBackend, OpencodeSetup},
    },
    config::{self, SandboxMode, Settings},
    git::Git,
    store::Store,
    supervise::{Doors, HostLock, HostLockError, Supervisor, end_family, sandbox_is_supported},
    tools::{Search, find_opencode},
    turn::{Turns, lease::Leases},
    worktrees::Worktrees,
};

/// The first process of a container: when it dies, everything does.
const CONTAINERS_FIRST: u32 = 1;
/// Worktrees that one agent server keeps loaded.
const MAX_DIRECTORIES: usize = 50;

/// A host's worker, with the lock that makes it the only one.
pub struct Host {
    worker: Worker,
    backend: Arc<OpencodeBackend>,
    drain: std::time::Duration,
    _lock: HostLock,
}

impl Host {
    /// Starts the worker of this home on a database that has the current schema.
    ///
    /// `millhand` is the path of the program itself, which the shims are.
    ///
    /// # Errors
    ///
    /// Another worker holds the home; git or opencode is missing or too old; the database cannot be reached or has another
    /// schema; the operator's opencode configuration is no JSON.
    pub async fn start(settings: &Settings, store: Store, millhand: PathBuf) -> anyhow::Result<Self> {
        let home = &settings.home;
        config::prepare_home(home).with_context(|| format!("prepare {}", home.root().display()))?;
        let lock = HostLock::acquire(&home.private())?;
        let host_id = config::host_id(home).context("read the host's id")?;

        // The lock proves that no worker of this home lives: what carries its mark is left over, and is adopted or ended when its leases
        // are taken over, before anyone goes on with those turns.
        let leases = Leases::new(settings.timings.lease);
        let lifeline = leases.lifeline().with_idle(settings.timings.adopt_grace);
        let mut supervisor = Supervisor::new(millhand, host_id.clone()).with_lifeline(lifeline);
        if settings.opencode.adopt && std::process::id() != CONTAINERS_FIRST {
            let doors = Doors::open(&home.shims()).with_context(|| format!("prepare {}", home.shims().display()))?;
            supervisor = supervisor.with_doors(doors);
        }

        let git = Git::new(None, settings.environment.0.clone().into_iter().collect(), home.clone()).await?;
        let backend = Arc::new(backend_with(settings, supervisor, home.private().join("opencode")).await?);
        tracing::info!(version = git.version(), "found git");
        let worktrees = Worktrees {
            store: store.clone(),
            git: git.clone(),
            home: home.clone(),
            host_id: host_id.clone(),
            settings: settings.worktrees,
            timings: settings.timings,
        };
        let turns = Turns {
            store: store.clone(),
            git,
            worktrees: worktrees.clone(),
            backend: backend.clone(),
            home: home.clone(),
            host_id: host_id.clone(),
            default_model: settings.opencode.default_model.clone(),
            timings: settings.timings,
            retry: settings.retry,
            step_resumes: settings.opencode.step_resumes.unsigned_abs(),
        };
        let agents = vec!["opencode".to_owned()];
        let worker_settings = WorkerSettings {
            host_id,
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            concurrency: settings.worker.turns_at_once(),
            listen: settings.database.listen,
            agents: agents.clone(),
            max_infra_losses: settings.retry.max_infra_losses,
            retention: settings.retention,
            timings: settings.timings,
        };
        let as_backend: Arc<dyn Backend> = backend.clone();
        let mut worker = Worker::start(worker_settings, store, Arc::new(turns), leases, Some(as_backend)).await?;
        let applier = Applier {
            store: worktrees.store.clone(),
            git: worktrees.git.clone(),
            worktrees: worktrees.clone(),
            host_id: worktrees.host_id.clone(),
            settings: settings.apply.clone(),
            timings: settings.timings,
        };
        worker.start_settler(applier);
        worker.start_keepers(worktrees, agents);
        Ok(Self { worker, backend, drain: settings.timings.drain, _lock: lock })
    }

    /// The worker.
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// The agent's backend.
    pub fn backend(&self) -> &OpencodeBackend {
        &self.backend
    }

    /// Stops in order; `hurry` cuts the drain short. The lock is let go last.
    pub async fn stop(self, hurry: CancellationToken) {
        self.worker.stop(self.drain, hurry).await;
    }
}

/// Ends what a worker of this home left behind that died; not while one lives. Returns how many processes there were.
///
/// # Errors
///
/// The home cannot be read or locked.
pub async fn end_leftovers(settings: &Settings) -> anyhow::Result<usize> {
    let home = &settings.home;
    if !home.private().is_dir() {
        return Ok(0);
    }
    let _lock = match HostLock::acquire(&home.private()) {
        Err(HostLockError::Held { .. }) => return Ok(0),
        lock => lock?,
    };
    let host_id = config::host_id(home).context("read the host's id")?;
    Ok(end_family(&host_id, settings.timings.kill_grace).await)
}

/// opencode as the settings have it, for asking it what it offers: no worker, no lock. `scope` and `cache` are the caller's
/// own, so that it gets in the way of no worker of this home.
///
/// # Errors
///
/// opencode is missing or too old; the operator's configuration is no JSON.
pub async fn opencode_backend(
    settings: &Settings,
    scope: &str,
    millhand: PathBuf,
    cache: PathBuf,
) -> anyhow::Result<OpencodeBackend> {
    backend_with(settings, Supervisor::new(millhand, scope), cache).await
}

/// Refuses to go on where agents are to be confined and cannot be.
fn check_sandbox(mode: SandboxMode) -> anyhow::Result<()> {
    match mode {
        SandboxMode::On if !sandbox_is_supported() => anyhow::bail!(
            "this kernel cannot confine agents: that takes Landlock with ABI 6 (Linux 6.12 or newer); run millhand in a container or as \
             a user that may touch nothing else, and set sandbox.mode = \"off\""
        ),
        SandboxMode::On => {}
        SandboxMode::Off => {
            tracing::warn!("agents are not confined (sandbox.mode = \"off\"): they can do whatever this user can");
        }
    }
    Ok(())
}

async fn backend_with(settings: &Settings, supervisor: Supervisor, cache: PathBuf) -> anyhow::Result<OpencodeBackend> {
    check_sandbox(settings.sandbox.mode)?;
    let search = Search {
        setting: settings.opencode.binary.clone(),
        path: settings.environment.get("PATH").map(ToOwned::to_owned),
        tools: settings.home.tools(),
        memory: Some(settings.home.private().join("versions")),
    };
    let opencode = tokio::task::spawn_blocking(move || find_opencode(&search)).await??;
    tracing::info!(version = %opencode.version, path = %opencode.path.display(), "found opencode");
    let backend = OpencodeBackend::new(OpencodeSetup {
        binary: opencode.path,
        supervisor,
        timings: settings.timings,
        environment: settings.environment.0.clone(),
        default_provider: settings.opencode.default_provider.clone(),
        default_model: settings.opencode.default_model.clone(),
        extra_config: operator_config(settings.opencode.config.as_deref())?,
        snapshot: settings.opencode.snapshot,
        lsp: settings.opencode.lsp,
        formatter: settings.opencode.formatter,
        max_servers: settings.opencode.servers_at_once(),
        max_directories: MAX_DIRECTORIES,
        recycle_bytes: settings.opencode.recycle_bytes(),
        show_reasoning: true,
        confinement: Confinement::new(settings),
        cache,
        logs: Some(settings.home.logs()),
    });
    Ok(backend.with_version(opencode.version))
}

/// The operator's opencode configuration: JSON as it stands, or a file with it.
fn operator_config(given: Option<&str>) -> anyhow::Result<Option<Value>> {
    let Some(given) = given.map(str::trim).filter(|given| !given.is_empty()) else { return Ok(None) };
    if given.starts_with('{') {
        return serde_json::from_str(given).context("agent.opencode.config is not valid JSON").map(Some);
    }
    let text = std::fs::read_to_string(given).with_context(|| format!("agent.opencode.config: read {given}"))?;
    serde_json::from_str(&text).with_context(|| format!("agent.opencode.config: {given} is not valid JSON")).map(Some)
}
