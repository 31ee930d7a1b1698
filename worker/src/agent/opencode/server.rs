//! One running `opencode serve`: started through the shim, or adopted from a worker that died; watched, ended.
//!
//! Nothing here knows of turns, beyond counting them. A server that is gone or stuck says so by [`Server::gone`]; whoever
//! needs one then starts another.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    OpencodeSetup,
    adopt::{HandOver, LeftTurn, TurnNote},
    client::Client,
    config::{Plan, secrets},
    conversations::Conversations,
    directories::{Directories, InUse},
    facts::Facts,
    folders::Folders,
    health::{Pulse, watch_over},
    stream::{Hub, read_stream},
};
use crate::{
    agent::AgentError,
    model::{outcome::Ending, redact::Redactor},
    supervise::{Busy, Child, ChildSpec, WaitError},
    tools::{OPENCODE_FLOOR, Version},
};

/// Ports that are tried: between looking for a free one and the server taking it, someone else may.
const PORT_TRIES: usize = 5;
/// Worktrees whose first turn may begin at once: a cold one blocks the server's HTTP for a while.
const COLD_AT_ONCE: usize = 2;
/// One health request while a server starts: the very first can hang for ever.
const HEALTH_TRY: Duration = Duration::from_secs(2);
/// Between two of them.
const HEALTH_PAUSE: Duration = Duration::from_millis(50);
/// Lines of a server that did not start, for the error message.
const TAIL: usize = 5;

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) client: Client,
    pub(super) hub: Arc<Hub>,
    pub(super) config_hash: String,
    pub(super) trusted: bool,
    /// Cancelled when the process has ended, or was ended because it was dead.
    pub(super) gone: CancellationToken,
    /// Takes what it knows and nobody is to read out of what it says.
    pub(super) redactor: Redactor,
    pub(super) cold: Arc<Semaphore>,
    /// The worktrees that it has loaded.
    pub(super) directories: Arc<Directories>,
    /// The conversations that it need not be asked about.
    pub(super) conversations: Conversations,
    /// What was asked of it about modes and models, by directory.
    pub(super) facts: tokio::sync::Mutex<HashMap<PathBuf, Arc<Facts>>>,
    turns: watch::Sender<usize>,
    /// Turns of the worker that it was adopted from, by session.
    left: Mutex<HashMap<String, LeftTurn>>,
    /// What it was started with, if that was by another worker, and until it is known to be the same now.
    launch: Mutex<Option<String>>,
    pulse: Pulse,
    child: Child,
    started: Instant,
    /// The same, as people tell time.
    pub(super) started_at: DateTime<Utc>,
    kill_grace: Duration,
    /// Ends the tasks that belong to it.
    _tasks: DropGuard,
}

/// A turn that runs on a server.
#[derive(Debug)]
pub(super) struct RunningTurn {
    /// It ran before, and a worker that died had begun it.
    pub(super) was_left: bool,
    server: Arc<Server>,
    _busy: Busy,
    _directory: InUse,
}

impl Drop for RunningTurn {
    fn drop(&mut self) {
        self.server.turns.send_modify(|turns| *turns -= 1);
    }
}

impl Server {
    /// Starts a server and waits until it answers.
    pub(super) async fn start(
        setup: &OpencodeSetup,
        version: Version,
        plan: &Plan,
        folders: &Folders,
        project: Option<i64>,
    ) -> Result<Self, AgentError> {
        let password = fresh_password();
        let launch = {
            let (plan, folders, setup) = (plan.clone(), folders.clone(), setup.clone());
            let write = move || {
                plan.write(&folders)?;
                let launch = plan.launch(&setup, &folders);
                folders.hand_over(launch.run_as)?;
                Ok(launch)
            };
            tokio::task::spawn_blocking(write).await
        };
        let launch = launch.map_err(|error| lost(format!("preparing opencode's folders failed: {error}")))?.map_err(
            |error: std::io::Error| AgentError {
                ending: Ending::WorkerTrouble,
                message: format!("cannot write opencode's folders in {}: {error}", folders.root().display()),
            },
        )?;
        let deadline = Instant::now() + setup.timings.server_start;
        let config_hash = plan.hash(&version.to_string());
        let name = project.map_or("opencode-probe".to_owned(), |project| format!("opencode-{project}"));
        for _ in 0..PORT_TRIES {
            let port = free_port()?;
            let mut spec = ChildSpec::new(&name, &setup.binary, folders.root());
            spec.args = ["serve", "--hostname", "127.0.0.1", "--port", &port.to_string()].map(Into::into).to_vec();
            spec.env = launch.environment_with(&password);
            spec.sandbox.clone_from(&launch.sandbox);
            spec.run_as = launch.run_as;
            // One that is only asked a few things has nothing to go on with.
            spec.hand_over = project.and_then(|project| {
                let (password, config_hash) = (password.clone(), config_hash.clone());
                let trusted = plan.is_trusted();
                HandOver { project, port, password, config_hash, launch: launch.print(), trusted }.into_secret()
            });
            spec.kill_grace = setup.timings.kill_grace;
            spec.log = setup.logs.as_ref().map(|logs| logs.join(format!("{name}.log")));
            let child = setup
                .supervisor
                .spawn(spec)
                .await
                .map_err(|error| AgentError { ending: Ending::Misconfigured, message: error.to_string() })?;
            let within = deadline.saturating_duration_since(Instant::now());
            match child.wait_line(within, |line| line.text.contains("server listening on http://")).await {
                Ok(_) => {}
                Err(WaitError::Ended(_)) if port_was_taken(&child) => {
                    tracing::debug!(port, "somebody else took the port; trying another");
                    continue;
                }
                Err(error) => {
                    child.stop(setup.timings.kill_grace).await;
                    return Err(did_not_start(&child, &error));
                }
            }
            let redactor = redactor(setup, &password);
            let client = Client::new(port, SecretString::from(password), setup.timings.server_request)
                .map_err(|error| lost(error.to_string()))?;
            let server = Self::watch(client, child, setup, redactor, config_hash, plan.is_trusted());
            if let Err(error) = server.become_healthy(deadline).await {
                server.stop().await;
                return Err(error);
            }
            return Ok(server);
        }
        Err(lost(format!("opencode's server found its port taken {PORT_TRIES} times")))
    }

    /// The server of a worker that died.
    pub(super) fn adopted(setup: &OpencodeSetup, child: Child, handed: HandOver) -> Result<Self, AgentError> {
        let redactor = redactor(setup, &handed.password);
        let client = Client::new(handed.port, SecretString::from(handed.password), setup.timings.server_request)
            .map_err(|error| lost(error.to_string()))?;
        let server = Self::watch(client, child, setup, redactor, handed.config_hash, handed.trusted);
        *server.launch.lock().unwrap_or_else(PoisonError::into_inner) = Some(handed.launch);
        Ok(server)
    }

    fn watch(
        client: Client,
        child: Child,
        setup: &OpencodeSetup,
        redactor: Redactor,
        config_hash: String,
        trusted: bool,
    ) -> Self {
        let stop = CancellationToken::new();
        let hub = Arc::new(Hub::default());
        let (connected, is_connected) = watch::channel(false);
        let silence = setup.timings.stream_silence;
        tokio::spawn(read_stream(client.clone(), Arc::clone(&hub), silence, connected, stop.clone()));
        let pulse = Pulse::new(is_connected);
        let watcher = watch_over(client.clone(), child.clone(), pulse.clone(), setup.timings);
        tokio::spawn(stop.clone().run_until_cancelled_owned(watcher));
        Self {
            client,
            hub,
            config_hash,
            trusted,
            gone: pulse.gone.clone(),
            redactor,
            cold: Arc::new(Semaphore::new(COLD_AT_ONCE)),
            directories: Arc::default(),
            conversations: Conversations::default(),
            facts: tokio::sync::Mutex::default(),
            turns: watch::Sender::new(0),
            left: Mutex::default(),
            launch: Mutex::default(),
            pulse,
            child,
            started: Instant::now(),
            started_at: Utc::now(),
            kill_grace: setup.timings.kill_grace,
            _tasks: stop.drop_guard(),
        }
    }

    /// Waits until it answers and its stream is open, and checks its version.
    pub(super) async fn become_healthy(&self, deadline: Instant) -> Result<(), AgentError> {
        let late =
            |what: &str| lost(format!("opencode's server {what} in time; its last lines: {}", tail(&self.child)));
        let health = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late("did not answer"));
            }
            match self.client.health(HEALTH_TRY.min(left)).await {
                Ok(health) if health.healthy => break health,
                Ok(_) => {}
                Err(_) if self.gone.is_cancelled() => return Err(late("ended instead of answering")),
                Err(error) => tracing::debug!(%error, "opencode is not healthy yet"),
            }
            tokio::time::sleep(HEALTH_PAUSE).await;
        };
        if Version::find_in(&health.version).is_some_and(|version| version < OPENCODE_FLOOR) {
            let message = format!("opencode's server is version {}, older than {OPENCODE_FLOOR}", health.version);
            return Err(AgentError { ending: Ending::Misconfigured, message });
        }
        let mut connected = self.pulse.connected.clone();
        let left = deadline.saturating_duration_since(Instant::now());
        match timeout(left, connected.wait_for(|connected| *connected)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(late("did not open its event stream")),
        }
    }

    /// Whether it can take new turns.
    pub(super) fn is_usable(&self) -> bool {
        self.is_alive() && self.retired_for().is_none()
    }

    /// Whether its process runs.
    pub(super) fn is_alive(&self) -> bool {
        !self.gone.is_cancelled() && self.child.exit().is_none()
    }

    /// Whether it answers. One whose stream is down is asked, until it answers or whoever watches over it gives it up.
    pub(super) async fn answers(&self) -> bool {
        if self.is_connected() {
            return true;
        }
        self.suspect();
        let asks = async {
            while self.client.health(HEALTH_TRY).await.is_err() {
                tokio::time::sleep(HEALTH_PAUSE).await;
            }
        };
        tokio::select! {
            () = self.gone.cancelled() => false,
            () = asks => true,
        }
    }

    /// Whether its event stream is open.
    pub(super) fn is_connected(&self) -> bool {
        *self.pulse.connected.borrow()
    }

    /// Somebody got no answer: it should be looked at now.
    pub(super) fn suspect(&self) {
        self.pulse.suspect.notify_one();
    }

    /// Takes no new turns; whoever looks after it ends it once it is idle.
    pub(super) fn retire(&self) {
        self.pulse.retire();
    }

    /// For how long it has been taking no new turns.
    pub(super) fn retired_for(&self) -> Option<Duration> {
        self.pulse.retired.borrow().map(|since| since.elapsed())
    }

    /// Counts a turn of a session as running, in a directory, until the answer is dropped. If it was left by another worker, it is taken up.
    pub(super) async fn begin_turn(self: &Arc<Self>, session: &str, directory: &Path) -> RunningTurn {
        let _directory = self.directories.enter(directory).await;
        let note = TurnNote { session: session.to_owned(), directory: directory.to_owned() };
        let _busy = self.child.busy(note.text()).await;
        self.turns.send_modify(|turns| *turns += 1);
        let was_left = self.left_turns().remove(session).is_some();
        RunningTurn { was_left, server: Arc::clone(self), _busy, _directory }
    }

    fn left_turns(&self) -> MutexGuard<'_, HashMap<String, LeftTurn>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a turn that runs without an attempt.
    pub(super) fn leave_turn(&self, session: String, turn: LeftTurn) {
        self.left_turns().insert(session, turn);
    }

    /// Takes out all turns that no attempt has come for.
    pub(super) fn take_left_turns(&self) -> HashMap<String, LeftTurn> {
        std::mem::take(&mut self.left_turns())
    }

    /// What an adopted server was started with, until that is proven to be the same now.
    pub(super) fn unproven_launch(&self) -> Option<String> {
        self.launch.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It was started as it would be now.
    pub(super) fn prove_launch(&self) {
        self.launch.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Turns that run on it.
    pub(super) fn turns(&self) -> usize {
        *self.turns.borrow()
    }

    /// Forgets what was known of a directory that it lets go of.
    pub(super) async fn forget(&self, directory: &Path) {
        self.facts.lock().await.remove(directory);
        self.conversations.forget_in(directory);
    }

    /// Waits until no turn runs on it, or it is gone.
    pub(super) async fn idle(&self) {
        let mut turns = self.turns.subscribe();
        tokio::select! {
            _ = turns.wait_for(|turns| *turns == 0) => {}
            () = self.gone.cancelled() => {}
        }
    }

    /// How old it is.
    pub(super) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Ends it and all that it started.
    pub(super) async fn stop(&self) {
        self.retire();
        self.gone.cancel();
        if self.child.stop(self.kill_grace).await.is_none() {
            tracing::error!(pid = self.child.pid(), "opencode's server cannot be ended");
        }
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.pid()
    }
}

/// For what this server knows.
fn redactor(setup: &OpencodeSetup, password: &str) -> Redactor {
    let secrets = secrets(setup);
    Redactor::new(secrets.iter().map(String::as_str).chain([password]))
}

/// 256 random bits, in hexadecimal digits.
fn fresh_password() -> String {
    rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A port of loopback that is free at this moment.
fn free_port() -> Result<u16, AgentError> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    port.map(|address| address.port()).map_err(|error| lost(format!("no free port for opencode's server: {error}")))
}

fn port_was_taken(child: &Child) -> bool {
    let words = ["ServeError", "EADDRINUSE", "in use"];
    child.tail().iter().any(|line| words.iter().any(|word| line.text.contains(word)))
}

fn tail(child: &Child) -> String {
    let lines = child.tail();
    let last: Vec<_> = lines.iter().rev().take(TAIL).rev().map(|line| line.text.trim()).collect();
    if last.is_empty() { "(none)".to_owned() } else { last.join(" / ") }
}

fn did_not_start(child: &Child, error: &WaitError) -> AgentError {
    let message = format!("opencode's server did not start: {error}; its last lines: {}", tail(child));
    // One that ends by itself does not like what it was given; anything else may be the machine's trouble.
    let ended_itself = matches!(error, WaitError::Ended(crate::supervise::Exit::Code(_)));
    AgentError { ending: if ended_itself { Ending::Misconfigured } else { Ending::ServerLost }, message }
}

fn lost(message: String) -> AgentError {
    AgentError { ending: Ending::ServerLost, message }
}
