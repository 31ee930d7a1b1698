//! How servers come and go: started for a project, replaced when they must be, ended when nobody needs them.
//!
//! A server with turns is replaced only when those are over, or when it was found wanting and they have had their time: they then
//! go on, by the ids of their prompts, on the next one.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedMutexGuard, Semaphore, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    OpencodeBackend, OpencodeSetup,
    config::Plan,
    folders::Folders,
    pool::{Looked, Slot},
    server::Server,
    trouble, unreadable_config,
};
use crate::{
    agent::{AgentError, AgentProject},
    config::resident_bytes,
    model::{
        counters::Count,
        event::AgentEvent,
        outcome::Ending,
        server::{Bounds, Care, Reason, Running, Tended, tend},
    },
    tools::Version,
};

/// One request to let go of a directory: it ends watchers and waits for what they do.
const DISPOSE_WITHIN: Duration = Duration::from_secs(30);
const MEGABYTE: u64 = 1_000_000;

impl OpencodeBackend {
    /// The project's server, started if there is none that can be used. The caller has a seat.
    pub(super) async fn server(
        &self,
        project: &AgentProject,
        events: &mpsc::Sender<AgentEvent>,
    ) -> Result<Arc<Server>, AgentError> {
        let slot = self.pool.slot(project.id);
        let turnstile = Arc::clone(&slot.turnstile).lock_owned().await;
        if self.closed.is_cancelled() {
            return Err(trouble("the worker is shutting down".to_owned()));
        }
        let version = self.version().await?;
        let catalogue = self.catalogue(version, Some(events)).await?;
        let plan = Plan::new(&self.setup, project, catalogue).map_err(unreadable_config)?;
        if let Some(server) = slot.server() {
            if server.is_usable() && server.answers().await {
                let is_same = server.config_hash == plan.hash(&version.to_string());
                if is_same && self.is_as_we_would_start_it(&server, &plan, project).await {
                    return Ok(server);
                }
                if server.turns() > 0 {
                    slot.note_outdated();
                    return self.keep_until_idle(server, project, events).await;
                }
                tracing::info!(
                    project = project.id,
                    why = Reason::Configuration.as_str(),
                    "replacing opencode's server"
                );
                self.setup.counters.add(Count::ServersEnded(Reason::Configuration.name()), 1);
            } else if server.is_alive() && server.turns() > 0 {
                self.wait_for_turns(&server, events).await;
            }
        }
        let _ = events.send(AgentEvent::Status { message: format!("starting opencode {version}") }).await;
        let setup = self.setup.clone();
        let processes = Arc::clone(&self.pool.processes);
        let (project, closed) = (project.clone(), self.closed.clone());
        let start = Start { setup, processes, slot, turnstile, closed, version, plan, project };
        let started = tokio::spawn(start.run().in_current_span()).await;
        started.map_err(|error| trouble(error.to_string()))?
    }

    /// The configuration has changed, but turns still run under the old one.
    async fn keep_until_idle(
        &self,
        server: Arc<Server>,
        project: &AgentProject,
        events: &mpsc::Sender<AgentEvent>,
    ) -> Result<Arc<Server>, AgentError> {
        if server.trusted && !project.trusted {
            self.pool.renew(project.id);
            let message = "trust was withdrawn from this project while turns run; new ones wait until those are over";
            return Err(trouble(message.to_owned()));
        }
        let message = "opencode's configuration has changed; it takes effect once no turn runs".to_owned();
        let _ = events.send(AgentEvent::Warning { message }).await;
        Ok(server)
    }

    /// Waits for the turns of a server that takes no new ones, for as long as they are given.
    async fn wait_for_turns(&self, server: &Server, events: &mpsc::Sender<AgentEvent>) {
        let message = "waiting for other turns: opencode's server is to be replaced".to_owned();
        let _ = events.send(AgentEvent::Status { message }).await;
        let waited = server.retired_for().unwrap_or_default();
        let left = self.setup.timings.server_drain.saturating_sub(waited);
        if timeout(left, server.idle()).await.is_err() {
            tracing::warn!(
                pid = server.pid(),
                turns = server.turns(),
                "replacing opencode's server although turns run"
            );
        }
    }

    /// The servers that run, in the order of their projects.
    pub(super) fn running_servers(&self) -> Vec<Running> {
        let running = |looked: Looked| {
            let server = looked.server.filter(|server| server.is_alive())?;
            Some(Running {
                agent: "opencode",
                project_id: looked.project,
                pid: server.pid(),
                turns: server.turns(),
                worktrees: server.directories.len(),
                // Whole megabytes: less is no news.
                resident_bytes: resident_bytes(server.pid()).map(|bytes| bytes / MEGABYTE * MEGABYTE),
                is_leaving: looked.is_leaving || server.retired_for().is_some(),
                started_at: server.started_at,
            })
        };
        let mut found: Vec<Running> = self.pool.look().into_iter().filter_map(running).collect();
        found.sort_by_key(|server| server.project_id);
        found
    }

    /// Looks after every server once.
    pub(super) async fn tend_servers(&self) {
        for looked in self.pool.look() {
            if self.closed.is_cancelled() {
                return;
            }
            let slot = self.pool.slot(looked.project);
            self.tend_server(&looked, &slot).await;
        }
    }

    async fn tend_server(&self, looked: &Looked, slot: &Slot) {
        let timings = &self.setup.timings;
        let bounds = Bounds {
            unused: timings.server_idle,
            age: timings.server_age,
            resident: self.setup.recycle_bytes,
            drain: timings.server_drain,
        };
        let project = looked.project;
        let care = tend(&tended(looked), &bounds);
        match care {
            Care::Keep => {}
            Care::End(reason) => {
                if self.pool.close(project) && looked.server.is_some() {
                    self.setup.counters.add(Count::ServersEnded(reason.name()), 1);
                    tracing::info!(project, why = reason.as_str(), "ended opencode's server, which was idle");
                }
                return;
            }
            Care::Drain(reason) => {
                if self.pool.renew(project) {
                    self.setup.counters.add(Count::ServersEnded(reason.name()), 1);
                    let why = reason.as_str();
                    tracing::info!(
                        project,
                        why,
                        "opencode's server takes no new turns and is replaced once it is idle"
                    );
                }
            }
            Care::EndBusy(reason) => {
                // If a start or an end is under way, that sees to it.
                if let Ok(_turnstile) = Arc::clone(&slot.turnstile).try_lock_owned() {
                    self.setup.counters.add(Count::ServersEnded(reason.name()), 1);
                    let why = reason.as_str();
                    tracing::warn!(
                        project,
                        why,
                        turns = looked.seats,
                        "ending opencode's server; its turns go on on the next"
                    );
                    slot.end().await;
                }
                return;
            }
        }
        if let Some(server) = looked.server.as_ref().filter(|server| server.is_usable()) {
            self.let_go_of_idle(server).await;
        }
    }

    /// Lets go of the directories of a server that are unused, or too many.
    pub(super) async fn let_go_of_idle(&self, server: &Server) {
        let leaving = server.directories.leave_idle(self.setup.timings.directory_idle, self.setup.max_directories);
        for leaving in leaving {
            server.forget(&leaving.directory).await;
            let disposing = server.client.patient(DISPOSE_WITHIN);
            match disposing.dispose(&leaving.directory).await {
                Ok(()) => tracing::info!(directory = %leaving.directory.display(), "opencode let go of a worktree"),
                // It is tried again when somebody uses the directory, or the server ends.
                Err(error) => tracing::debug!(%error, "opencode did not let go of a worktree"),
            }
            server.directories.forget(leaving);
        }
    }
}

/// The start of a project's server, in the place of the one that it had.
///
/// Whoever stops waiting for it stops only that: never may two run on one data folder, so that the turnstile is held until what was
/// begun is over.
struct Start {
    setup: OpencodeSetup,
    processes: Arc<Semaphore>,
    slot: Arc<Slot>,
    turnstile: OwnedMutexGuard<()>,
    closed: CancellationToken,
    version: Version,
    plan: Plan,
    project: AgentProject,
}

impl Start {
    async fn run(self) -> Result<Arc<Server>, AgentError> {
        self.slot.end().await;
        let process = timeout(self.setup.timings.server_start, self.processes.acquire_owned());
        let Ok(Ok(process)) = process.await else {
            let message = "no opencode server ended in time to make room for another".to_owned();
            return Err(AgentError { ending: Ending::ServerLost, message });
        };
        let (project, version) = (self.project.id, self.version);
        let folders = Folders::of_project(&self.project);
        let server = tokio::select! {
            server = Server::start(&self.setup, version, &self.plan, &folders, Some(project)) => Arc::new(server?),
            () = self.closed.cancelled() => return Err(trouble("the worker is shutting down".to_owned())),
        };
        tracing::info!(project, pid = server.pid(), %version, "started opencode's server");
        self.setup.counters.add(Count::ServersStarted, 1);
        self.slot.put(Arc::clone(&server), process);
        drop(self.turnstile);
        Ok(server)
    }
}

fn tended(looked: &Looked) -> Tended {
    let alive = looked.server.as_ref().filter(|server| server.is_alive());
    Tended {
        dead: looked.server.is_some() && alive.is_none(),
        retired: alive.and_then(|server| server.retired_for()),
        seats: looked.seats,
        unused: looked.unused,
        age: alive.map_or(Duration::ZERO, |server| server.age()),
        resident: alive.and_then(|server| resident_bytes(server.pid())),
        outdated: looked.outdated,
    }
}
