//! Taking over the servers of a worker that died, with the turns that run on them.
//!
//! A turn of such a server is **left** until the attempt that goes on with it comes: until then it has a seat, its directory is not let
//! go of, and the server lives by the deadline of turns. One that nobody comes for (its task was cancelled meanwhile, say) is
//! aborted: nobody would record what it costs.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{OpencodeBackend, config::Plan, directories::InUse, folders::Folders, server::Server, wire::Status};
use crate::{
    agent::{AgentProject, Seat},
    model::{
        adoption::{self, ADOPTIONS_WITHIN, Choice, choose},
        counters::Count,
    },
    supervise::{Busy, Leftover, end_family_except},
};

/// How long an adopted server may take to show that it is well.
const WELL_WITHIN: Duration = Duration::from_secs(10);
/// Between looks whether an aborted turn is over.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What the next worker needs to know of a server.
#[derive(Serialize, Deserialize)]
pub(super) struct HandOver {
    pub(super) project: i64,
    pub(super) port: u16,
    pub(super) password: String,
    pub(super) config_hash: String,
    /// Of environment and sandbox.
    pub(super) launch: String,
    pub(super) trusted: bool,
}

impl HandOver {
    pub(super) fn into_secret(self) -> Option<SecretString> {
        serde_json::to_string(&self).ok().map(SecretString::from)
    }
}

/// What it needs to know of a turn.
#[derive(Serialize, Deserialize)]
pub(super) struct TurnNote {
    pub(super) session: String,
    pub(super) directory: PathBuf,
}

impl TurnNote {
    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A turn that runs, and whose attempt has not come yet.
#[derive(Debug)]
pub(super) struct LeftTurn {
    directory: PathBuf,
    _seat: Seat,
    _in_use: InUse,
    _busy: Busy,
}

impl OpencodeBackend {
    /// Takes over what an earlier worker of this host left running, and ends the rest of it.
    pub(super) async fn take_over_leftovers(&self) {
        let supervisor = &self.setup.supervisor;
        let (mut adopting, mut ending) = (Vec::new(), Vec::new());
        let mut taken = Vec::new();
        for leftover in supervisor.leftovers().await {
            let handed = serde_json::from_str::<HandOver>(leftover.hand_over().expose_secret()).ok();
            let process = Arc::clone(&self.pool.processes).try_acquire_owned().ok();
            let is_first = handed.as_ref().is_some_and(|handed| !taken.contains(&handed.project));
            let described = adoption::Leftover {
                same_version: leftover.speaks_as_we_do(),
                ending: leftover.is_ending(),
                understood: handed.is_some(),
                adoptions: leftover.adoptions(ADOPTIONS_WITHIN),
                room: process.is_some() && is_first,
            };
            match (choose(&described), handed, process) {
                (Choice::Adopt, Some(handed), Some(process)) => {
                    taken.push(handed.project);
                    adopting.push(self.adopt(leftover, handed, process));
                }
                (Choice::End(reason), ..) => {
                    tracing::warn!(name = leftover.name(), why = reason.as_str(), "ending a server that was left");
                    ending.push(leftover.end());
                }
                (Choice::Adopt | Choice::Leave, ..) => {}
            }
        }
        let (adopting, ending) = (futures::future::join_all(adopting), futures::future::join_all(ending));
        let (adopted, _) = tokio::join!(adopting, ending);
        let kept: Vec<String> = adopted.into_iter().flatten().collect();
        let ended = end_family_except(supervisor.scope(), &kept, self.setup.timings.kill_grace).await;
        if ended > 0 {
            tracing::warn!(processes = ended, "ended processes that an earlier worker left behind");
        }
    }

    /// Adopts one. Gives the marker of its family; none if nothing came of it.
    async fn adopt(&self, leftover: Leftover, handed: HandOver, process: OwnedSemaphorePermit) -> Option<String> {
        let project = handed.project;
        let (child, busy) = self.setup.supervisor.adopt(leftover).await?;
        let marker = child.marker().to_owned();
        let server = match Server::adopted(&self.setup, child, handed) {
            Ok(server) => Arc::new(server),
            Err(error) => {
                tracing::warn!(project, %error, "opencode's server could not be adopted");
                return None;
            }
        };
        if let Err(error) = server.become_healthy(Instant::now() + WELL_WITHIN).await {
            tracing::warn!(project, %error, "opencode's server was left, but is not well");
            server.stop().await;
            return None;
        }
        let Some(seat) = self.pool.sit(project) else {
            server.stop().await;
            return None;
        };
        let mut turns = 0;
        for (note, busy) in busy {
            let Ok(note) = serde_json::from_str::<TurnNote>(&note) else { continue };
            let in_use = server.directories.enter(&note.directory).await;
            server.directories.set_warm(&note.directory);
            let left = LeftTurn { directory: note.directory, _seat: seat.clone(), _in_use: in_use, _busy: busy };
            server.leave_turn(note.session, left);
            turns += 1;
        }
        tracing::info!(project, pid = server.pid(), turns, "adopted opencode's server");
        self.setup.counters.add(Count::ServersAdopted, 1);
        self.setup.counters.add(Count::TurnsAdopted, turns);
        self.pool.slot(project).put(Arc::clone(&server), process);
        if turns > 0 {
            let wait = self.setup.timings.lease;
            tokio::spawn(abort_what_is_left(Arc::downgrade(&server), wait, self.setup.timings.server_request));
        }
        Some(marker)
    }

    /// Whether a server is what would be started now. One of our own is; an adopted one may have been started by a worker with another
    /// environment, or another sandbox.
    pub(super) async fn is_as_we_would_start_it(&self, server: &Server, plan: &Plan, project: &AgentProject) -> bool {
        let Some(then) = server.unproven_launch() else { return true };
        let (plan, setup, folders) = (plan.clone(), self.setup.clone(), Folders::of_project(project));
        let now = tokio::task::spawn_blocking(move || plan.launch(&setup, &folders).print()).await;
        let is_same = now.is_ok_and(|now| now == then);
        if is_same {
            server.prove_launch();
        }
        is_same
    }
}

/// Waits for the attempts of the turns that were left, and aborts those that none came for.
async fn abort_what_is_left(server: Weak<Server>, wait: Duration, within: Duration) {
    tokio::time::sleep(wait).await;
    let Some(server) = server.upgrade().filter(|server| server.is_alive()) else { return };
    for (session, left) in server.take_left_turns() {
        tracing::warn!(session, "nobody came for a turn that was left; aborting it");
        if !server.put_to_rest(&session, &left.directory, within).await && server.turns() == 0 {
            server.stop().await;
        }
    }
}

impl Server {
    /// Aborts what runs in a session, and waits until it is at rest. If it is not in time, this server takes no new turns, and this
    /// is false.
    pub(super) async fn put_to_rest(&self, session: &str, directory: &Path, within: Duration) -> bool {
        let is_over = async {
            loop {
                // Whatever it answers, whether the turn is over is what counts.
                let _ = self.client.abort(session, directory).await;
                tokio::time::sleep(LOOK_EVERY).await;
                let statuses = self.client.statuses(directory).await;
                if statuses.is_ok_and(|statuses| matches!(statuses.get(session), None | Some(Status::Idle))) {
                    return;
                }
            }
        };
        let is_over = tokio::time::timeout(within, is_over).await.is_ok();
        if !is_over {
            tracing::warn!(pid = self.pid(), "opencode did not abort a turn; replacing its server");
            self.retire();
        }
        is_over
    }
}
