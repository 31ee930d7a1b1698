//! A host: a home, a worker process, and its own way to the database.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use millhand::postgres::Running;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::support::{
    self, millhand,
    proxy::{TcpProxy, Upstream},
};

/// How long a worker that is told to stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(120);
/// The host that hears no NOTIFY, as behind a pooler of connections, and has to poll.
const POLLS: usize = 1;

/// A home with its worker.
pub(super) struct ChaosHost {
    pub(super) name: String,
    home: PathBuf,
    proxy: TcpProxy,
    environment: Vec<(&'static str, String)>,
    worker: Child,
    is_stopped: bool,
}

impl ChaosHost {
    /// Starts a worker in a home, behind a proxy.
    pub(super) async fn start(
        number: usize,
        home: PathBuf,
        database: &Running,
        opencode: &serde_json::Value,
    ) -> Result<Self> {
        let config = database.config();
        let socket = match config.get_hosts() {
            [tokio_postgres::config::Host::Unix(folder)] => folder.join(".s.PGSQL.5432"),
            other => anyhow::bail!("the private Postgres is at {other:?}"),
        };
        let proxy = TcpProxy::start(Upstream::Unix(socket)).await?;
        let password = String::from_utf8_lossy(config.get_password().context("password")?).into_owned();
        let user = config.get_user().context("user")?;
        let name = config.get_dbname().context("database")?;
        let url = format!("postgres://{user}:{password}@127.0.0.1:{}/{name}?sslmode=disable", proxy.port());
        fs::create_dir_all(home.join("user"))?;
        let text = |value: &str| value.to_owned();
        let environment = vec![
            ("PATH", std::env::var("PATH").unwrap_or_default()),
            ("HOME", home.join("user").to_string_lossy().into_owned()),
            ("MILLHAND_HOME", home.to_string_lossy().into_owned()),
            ("DATABASE_URL", url),
            ("MILLHAND_API_LISTEN", text("off")),
            ("MILLHAND_AGENT_OPENCODE_BINARY", support::programs::opencode()?.path.to_string_lossy().into_owned()),
            ("MILLHAND_AGENT_OPENCODE_CONFIG", opencode.to_string()),
            ("MILLHAND_AGENT_OPENCODE_DEFAULT_MODEL", text("scripted/work")),
            ("MILLHAND_WORKER_CONCURRENCY", text("4")),
            ("MILLHAND_TIMINGS_LEASE", text("4s")),
            ("MILLHAND_TIMINGS_HEARTBEAT", text("500ms")),
            ("MILLHAND_TIMINGS_RESCUE", text("500ms")),
            ("MILLHAND_TIMINGS_POLL_MAX", text("2s")),
            ("MILLHAND_TIMINGS_LISTEN_CHECK", text("1s")),
            ("MILLHAND_TIMINGS_SETTLE_POLL", text("2s")),
            ("MILLHAND_TIMINGS_STREAM_SILENCE", text("12s")),
            ("MILLHAND_TIMINGS_DRAIN", text("2s")),
            ("MILLHAND_RETRY_MAX_INFRA_LOSSES", text("1000")),
            ("MILLHAND_RETRY_BACKOFF_BASE", text("200ms")),
        ];
        let mut environment = environment;
        if number == POLLS {
            environment.push(("MILLHAND_DATABASE_LISTEN", text("false")));
        }
        let worker = spawn(&home, &environment)?;
        Ok(Self { name: format!("host{number}"), home, proxy, environment, worker, is_stopped: false })
    }

    pub(super) fn proxy(&self) -> &TcpProxy {
        &self.proxy
    }

    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    /// What its processes are marked with; none before its first start came so far.
    pub(super) fn scope(&self) -> Option<String> {
        scope(&self.home)
    }

    /// Its agent's servers.
    pub(super) fn servers(&self) -> Vec<u32> {
        let Some(scope) = self.scope() else { return Vec::new() };
        support::worker::servers(&scope)
    }

    /// A command of `millhand` in its home.
    pub(super) fn command(&self) -> HomeCommand {
        HomeCommand { home: self.home.clone(), environment: self.environment.clone() }
    }

    /// Kills the shims of its servers, so that nobody is left to end those.
    pub(super) fn kill_shims(&self) {
        let shims = self.servers().into_iter().filter_map(parent);
        // Not the worker: a server that lost its shim hangs elsewhere.
        let is_ours = |pid: &u32| *pid > 1 && Some(*pid) != self.worker.id();
        shims.filter(is_ours).for_each(|pid| signal_pid(pid, Signal::KILL));
    }

    /// Sends its worker a signal, if it is there.
    pub(super) fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(pid) = self.worker.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            kill_process(pid, signal)?;
            self.is_stopped = match signal {
                Signal::STOP => true,
                Signal::CONT => false,
                _ => self.is_stopped,
            };
        }
        Ok(())
    }

    /// Kills its worker and starts another, as a service manager does.
    pub(super) async fn kill_and_restart(&mut self, pause: Duration) -> Result<()> {
        self.worker.kill().await?;
        tokio::time::sleep(pause).await;
        self.is_stopped = false;
        self.worker = spawn(&self.home, &self.environment)?;
        Ok(())
    }

    /// Deploys: tells its worker to stop, waits for it, starts another.
    pub(super) async fn deploy(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        tokio::time::timeout(STOP_WITHIN, self.worker.wait()).await.context("a worker that was told to stop")??;
        self.worker = spawn(&self.home, &self.environment)?;
        Ok(())
    }

    /// Starts its worker again if it has ended by itself, which it may when the database is away at its start.
    pub(super) fn see_to_it(&mut self) -> Result<()> {
        if self.worker.try_wait()?.is_some() {
            self.worker = spawn(&self.home, &self.environment)?;
        }
        Ok(())
    }

    /// Ends every fault that lasts.
    pub(super) async fn heal(&mut self) -> Result<()> {
        self.proxy.forward();
        if self.is_stopped {
            self.signal(Signal::CONT)?;
        }
        for pid in self.servers() {
            signal_pid(pid, Signal::CONT);
        }
        self.see_to_it()
    }

    /// Stops its worker in order.
    pub(super) async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = tokio::time::timeout(STOP_WITHIN, self.worker.wait()).await.context("a worker at the end")??;
        ensure!(status.success(), "{}: the worker ended with {status}", self.name);
        Ok(())
    }
}

/// Runs `millhand` as the user of a home does.
#[derive(Clone)]
pub(super) struct HomeCommand {
    home: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl HomeCommand {
    /// The id of the home; none before its worker came so far.
    pub(super) fn scope(&self) -> Option<String> {
        scope(&self.home)
    }

    /// Starts a command. Dropping it kills it.
    pub(super) fn spawn(&self, arguments: &[&str]) -> Result<Child> {
        let log = fs::File::options().create(true).append(true).open(self.home.join("commands.log"))?;
        let mut command = Command::new(millhand());
        command
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        Ok(command.spawn()?)
    }
}

fn scope(home: &Path) -> Option<String> {
    let text = fs::read_to_string(home.join("private/host")).ok()?;
    text.split_whitespace().next().map(str::to_owned)
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// Sends a process a signal, if it is there.
pub(super) fn signal_pid(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

fn spawn(home: &Path, environment: &[(&'static str, String)]) -> Result<Child> {
    let log = fs::File::options().create(true).append(true).open(home.join("worker.log"))?;
    let mut command = Command::new(millhand());
    command
        .arg("worker")
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true);
    Ok(command.spawn()?)
}
