//! How long a turn stands still whose worker is killed: real workers of this program, real servers of the agent, real SIGKILLs.
//!
//! Counted from just before the signal until the next attempt has the agent's conversation open again, as the database says. In between lies, on the same
//! host, a new worker that takes over leases and servers; on another one, the end of the lease, and the tree built from what was recorded.
//! By default a session waits longer than here for its own host to come back (`timings.rehome`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::Instant,
};

use super::{
    Bench, Figure, Samples,
    place::{Place, stop},
    turns::{opencode, operator_config, start_model, unique_prompt},
};
use crate::{
    config::{self, Home},
    git::Git,
    scripted::{ScriptedModel, model_name},
    store::{LoadedTask, Store},
};

const GROUP: &str = "recovery";
/// How long a turn may take to begin, and to go on.
const WITHIN: Duration = Duration::from_secs(180);
/// Between looks.
const LOOK: Duration = Duration::from_millis(5);
/// How long git's server may take to listen.
const SERVED_WITHIN: Duration = Duration::from_secs(20);

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Kills with a new worker on the same host.
    pub same: usize,
    /// Kills of a host for good.
    pub across: usize,
}

impl Size {
    /// What the README's figures are made with.
    pub const FULL: Self = Self { same: 30, across: 10 };
    /// A quick look.
    pub const QUICK: Self = Self { same: 5, across: 2 };
}

/// Measures with workers of this program on this database, in a folder below the home.
pub async fn run(bench: &Bench<'_>, store: &Store, size: Size, report: &mut dyn FnMut(Figure)) -> Result<()> {
    let binary = opencode(bench.settings).await?;
    let place = Place::new(bench.settings)?;
    let model = start_model().await?;
    let rig = Rig { bench, store, place: &place, model: &model, binary };
    let measured = bench.unless_stopped(rig.measure(size, report)).await;
    model.shutdown().await;
    place.remove().await?;
    measured
}

struct Rig<'a> {
    bench: &'a Bench<'a>,
    store: &'a Store,
    place: &'a Place,
    model: &'a ScriptedModel,
    binary: PathBuf,
}

/// A worker with a home of its own.
struct Host {
    home: Home,
    worker: Child,
}

impl Rig<'_> {
    async fn measure(&self, size: Size, report: &mut dyn FnMut(Figure)) -> Result<()> {
        let git = Git::new(None, self.place.environment().0.into_iter().collect(), self.place.home()).await?;
        let source = self.place.repository(git.binary(), "source", 20).await?;
        let mut hosts = vec![self.start("here")?];
        let measured = self.on_the_same(&mut hosts[0], &source, size.same).await;
        let measured = match measured {
            Ok(samples) => {
                report(samples.figure(GROUP, "SIGKILL → running again, worker restarted at once").aim("p99 ≤ 3 s"));
                hosts.push(self.start("there")?);
                self.on_another(&mut hosts, &git, size.across).await
            }
            Err(error) => Err(error),
        };
        for host in &mut hosts {
            stop(&mut host.worker).await?;
        }
        let samples = measured.map_err(|error| match self.last_words() {
            words if words.is_empty() => error,
            words => error.context(format!("the workers say: {words}")),
        })?;
        report(samples.figure(GROUP, "SIGKILL for good → running again on another host").aim("p99 ≤ 30 s"));
        Ok(())
    }

    /// Each time a project of its own, and so a server that was never adopted before.
    async fn on_the_same(&self, host: &mut Host, source: &Path, kills: usize) -> Result<Samples> {
        let mut samples = Samples::default();
        for kill in 0..kills {
            let project = format!("same-{kill}");
            self.store.load_repository(&project, &source.to_string_lossy()).await?;
            let task = self.begin(&project).await?;
            let struck = Instant::now();
            host.worker.kill().await?;
            host.worker = self.spawn(&host.home)?;
            self.goes_on(task).await?;
            samples.push(struck.elapsed());
            self.end(task).await?;
        }
        Ok(samples)
    }

    /// Each time the host that has the turn.
    async fn on_another(&self, hosts: &mut [Host], git: &Git, kills: usize) -> Result<Samples> {
        let served = Served::start(git, self.place).await?;
        let url = format!("git://127.0.0.1:{}/source/.git", served.port);
        self.store.load_repository("across", &url).await?;
        let mut samples = Samples::default();
        for _ in 0..kills {
            let task = self.begin("across").await?;
            let mut scopes =
                hosts.iter().map(|host| config::host_id(&host.home)).collect::<Result<Vec<_>, _>>()?.into_iter();
            let its = self.store.host_of_attempt(task.task).await?;
            let at = scopes.position(|scope| scope == its).context("the host that has the turn")?;
            let struck = Instant::now();
            hosts[at].worker.kill().await?;
            self.goes_on(task).await?;
            samples.push(struck.elapsed());
            ensure!(self.store.host_of_attempt(task.task).await? != its, "the turn went on on the host that is gone");
            self.end(task).await?;
            hosts[at].worker = self.spawn(&hosts[at].home)?;
        }
        Ok(samples)
    }

    fn start(&self, name: &str) -> Result<Host> {
        let home = Home::new(self.place.root().join(name));
        Ok(Host { worker: self.spawn(&home)?, home })
    }

    fn spawn(&self, home: &Home) -> Result<Child> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.place.root().join("workers.log"))?;
        let mut command = self.place.millhand(self.bench, self.store)?;
        command
            .arg("worker")
            .env("MILLHAND_HOME", home.root())
            .env("MILLHAND_AGENT_OPENCODE_BINARY", &self.binary)
            .env("MILLHAND_AGENT_OPENCODE_CONFIG", operator_config(self.model).to_string())
            .env("MILLHAND_TIMINGS_REHOME", "1s")
            // The server of the kill before is not in the way of the next one.
            .env("MILLHAND_TIMINGS_SERVER_IDLE", "1s")
            .env("MILLHAND_TIMINGS_DRAIN", "1s")
            .env("MILLHAND_API_LISTEN", "off")
            .stderr(Stdio::from(log));
        command.spawn().context("start millhand worker")
    }

    /// A turn that would go on for ever, once its model was asked.
    async fn begin(&self, project: &str) -> Result<LoadedTask> {
        let prompt = unique_prompt();
        let task = self.store.load_task(project, None, &prompt, &model_name("stalling")).await?;
        let is_asked = |requests: &[crate::scripted::RecordedRequest]| {
            requests.iter().any(|request| request.tools_offered && request.prompt.contains(&prompt))
        };
        let asked = self.model.wait_for_requests(WITHIN, is_asked).await;
        asked.with_context(|| format!("a turn did not begin within {WITHIN:?}"))?;
        Ok(task)
    }

    async fn goes_on(&self, task: LoadedTask) -> Result<()> {
        let until = Instant::now() + WITHIN;
        while !self.store.is_open_again(task.task).await? {
            ensure!(Instant::now() < until, "a turn did not go on within {WITHIN:?}");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    async fn end(&self, task: LoadedTask) -> Result<()> {
        self.store.cancel_task(task.task).await?;
        let until = Instant::now() + WITHIN;
        while !self.store.is_at_rest(task.task).await? {
            ensure!(Instant::now() < until, "a cancelled turn did not end within {WITHIN:?}");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.place.root().join("workers.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(3)..].join(" / ")
    }
}

/// git's own server, for what every host can clone. Ends when it is dropped.
struct Served {
    port: u16,
    _process: Child,
}

impl Served {
    async fn start(git: &Git, place: &Place) -> Result<Self> {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let programs = Command::new(git.binary()).arg("--exec-path").output().await?.stdout;
        // The program itself: `git daemon` would be its parent, and leave it behind.
        let program = Path::new(String::from_utf8(programs)?.trim()).join("git-daemon");
        let process = place
            .command(&program, place.root())
            .args(["--export-all", "--reuseaddr", "--listen=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", place.root().display()))
            .arg(place.root())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let until = Instant::now() + SERVED_WITHIN;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            ensure!(Instant::now() < until, "git-daemon does not listen");
            tokio::time::sleep(LOOK).await;
        }
        Ok(Self { port, _process: process })
    }
}
