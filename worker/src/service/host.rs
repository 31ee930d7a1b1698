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
        command::Commands,
        confine::Confinement,
        opencode::{OpencodeBackend, OpencodeSetup, ServerUser},
    },
    api::{Api, Served, serve},
    config::{self, Environment, SandboxMode, Settings},
    git::Git,
    loops::checker::Checker,
    model::counters::Counters,
    store::Store,
    supervise::{AgentUser, Doors, HostLock, HostLockError, ServedAt, Supervisor, end_family, sandbox_is_supported},
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
    api: Option<Reachable>,
    _lock: HostLock,
}

/// The API of a worker, and the word of where it is.
struct Reachable {
    served: Served,
    url: String,
    _said: Option<ServedAt>,
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
        let plain = Supervisor::new(millhand.clone(), host_id.clone());
        let lifeline = leases.lifeline().with_idle(settings.timings.adopt_grace);
        let mut supervisor = Supervisor::new(millhand, host_id.clone()).with_lifeline(lifeline);
        if settings.opencode.adopt && std::process::id() != CONTAINERS_FIRST {
            let doors = Doors::open(&home.shims()).with_context(|| format!("prepare {}", home.shims().display()))?;
            supervisor = supervisor.with_doors(doors);
        }

        let git = Git::new(None, settings.environment.0.clone().into_iter().collect(), home.clone()).await?;
        let user = agent_user(settings)?;
        let for_commands = as_agent_user(settings, user.as_ref());
        let agents_user = user.map(|user| user.run_as);
        let commands = Commands {
            supervisor: supervisor.clone(),
            confinement: Confinement::new(&for_commands),
            environment: for_commands.environment,
            home: home.clone(),
            run_as: agents_user,
            processes: settings.worker.processes_of_a_command(),
            kill_grace: settings.timings.kill_grace,
        };
        let backend = Arc::new(
            backend_with(settings, supervisor, home.private().join("opencode"), store.counters().clone()).await?,
        );
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
            commands: commands.clone(),
            backend: backend.clone(),
            home: home.clone(),
            host_id: host_id.clone(),
            agents_user,
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
        let applier = Applier {
            store: worktrees.store.clone(),
            git: worktrees.git.clone(),
            worktrees: worktrees.clone(),
            host_id: worktrees.host_id.clone(),
            settings: settings.apply.clone(),
            timings: settings.timings,
        };
        // Before anybody sees that a worker runs here, so that whoever does can be told where it is.
        let api = serve_api(settings, applier.clone()).await?;
        let as_backend: Arc<dyn Backend> = backend.clone();
        let mut worker = Worker::start(worker_settings, store, Arc::new(turns), leases, Some(as_backend)).await?;
        worker.start_checker(Checker {
            store: worktrees.store.clone(),
            git: worktrees.git.clone(),
            // On no lease: they end with the worker, and need no switch for when it stops being heard of.
            commands: Commands { supervisor: plain, ..commands },
            host_id: worktrees.host_id.clone(),
            at_once: usize::try_from(settings.worker.checks_at_once.max(1)).unwrap_or(1),
            timings: settings.timings,
        });
        worker.start_settler(applier);
        worker.start_keepers(worktrees, agents);
        Ok(Self { worker, backend, drain: settings.timings.drain, api, _lock: lock })
    }

    /// Where its API is; none: it does not listen.
    pub fn api(&self) -> Option<&str> {
        self.api.as_ref().map(|api| api.url.as_str())
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
        if let Some(api) = self.api {
            api.served.stop().await;
        }
    }
}

/// Serves the API, as the settings have it. A worker works all the same where that cannot be.
async fn serve_api(settings: &Settings, applier: Applier) -> anyhow::Result<Option<Reachable>> {
    let Some(listen) = settings.api.listen else { return Ok(None) };
    let served = match serve(Api::new(settings, applier, CancellationToken::new())?, listen).await {
        Ok(served) => served,
        Err(error) => {
            tracing::warn!(%listen, %error, "neither API nor dashboard: api.listen names another address");
            return Ok(None);
        }
    };
    let url = format!("http://{}", served.address);
    tracing::info!(url, "the API and the dashboard listen");
    let said = ServedAt::say(&settings.home.private(), &url);
    Ok(Some(Reachable { served, url, _said: said }))
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
    backend_with(settings, Supervisor::new(millhand, scope), cache, Counters::default()).await
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

/// The user that agents are to run as, if one is named; it must be able to get to where they work.
pub(super) fn agent_user(settings: &Settings) -> anyhow::Result<Option<AgentUser>> {
    let Some(name) = &settings.sandbox.user else { return Ok(None) };
    let user = AgentUser::find(name).context("sandbox.user")?;
    user.check_reaches(settings.home.root()).context("sandbox.user")?;
    Ok(Some(user))
}

/// The settings as the agents' user would have them: its logins, configuration and toolchains.
pub(super) fn as_agent_user(settings: &Settings, user: Option<&AgentUser>) -> Settings {
    let mut settings = settings.clone();
    if let Some(user) = user {
        settings.environment = Environment(user.environment(&settings.environment.0));
    }
    settings
}

async fn backend_with(
    settings: &Settings,
    supervisor: Supervisor,
    cache: PathBuf,
    counters: Counters,
) -> anyhow::Result<OpencodeBackend> {
    check_sandbox(settings.sandbox.mode)?;
    let search = Search {
        setting: settings.opencode.binary.clone(),
        path: settings.environment.get("PATH").map(ToOwned::to_owned),
        tools: settings.home.tools(),
        memory: Some(settings.home.private().join("versions")),
    };
    let opencode = tokio::task::spawn_blocking(move || find_opencode(&search)).await??;
    tracing::info!(version = %opencode.version, path = %opencode.path.display(), "found opencode");
    let user = agent_user(settings)?;
    if let Some(user) = &user {
        user.check_reaches(&opencode.path).context("sandbox.user")?;
    }
    let settings = &as_agent_user(settings, user.as_ref());
    let user = user.map(|user| ServerUser { run_as: user.run_as, folder: settings.home.agents() });
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
        counters,
        user,
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
