//! Which projects have a server, and which of them may have one now.
//!
//! A project's **place** is the right to a server; there are as many as servers fit into memory. A **seat** is a turn's
//! claim on a place, taken before the task is claimed and kept until the turn is over: a place with a seat is never taken away.
//! Who gets which is decided in [`model::server`](crate::model::server); here it is carried out.
//!
//! A place may come and go; the **slot** of a project stays, and its lock serialises starts and ends of servers: there are
//! never two on one data folder.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::server::Server;
use crate::{
    agent::Seat,
    model::{
        counters::{Count, Counters},
        server::{Leaving, Place, Want, assign},
    },
};

/// All servers of a worker.
#[derive(Debug)]
pub(super) struct Pool {
    state: Mutex<State>,
    /// One permit per process, until it has ended.
    pub(super) processes: Arc<Semaphore>,
    most: usize,
    patience: Duration,
    counters: Counters,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<i64, Arc<Slot>>,
    places: HashMap<i64, Held>,
    /// Since when projects that wait for a place do so.
    refused: HashMap<i64, Instant>,
}

#[derive(Debug)]
struct Held {
    seats: usize,
    since: Instant,
    used: Instant,
    leaving: Option<Leaving>,
}

/// Where a project's server is, if it has one.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Held while a server starts or ends.
    pub(super) turnstile: Arc<tokio::sync::Mutex<()>>,
    current: Mutex<Option<Running>>,
}

/// A server with what the pool knows of it.
#[derive(Debug)]
struct Running {
    server: Arc<Server>,
    outdated: Option<Instant>,
    _process: OwnedSemaphorePermit,
}

/// A server as it is looked after.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) project: i64,
    pub(super) seats: usize,
    pub(super) unused: Duration,
    pub(super) outdated: Option<Duration>,
    /// It takes no new turns.
    pub(super) is_leaving: bool,
    /// None: the place is held without a server.
    pub(super) server: Option<Arc<Server>>,
}

impl Slot {
    fn current(&self) -> MutexGuard<'_, Option<Running>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The project's server, whatever state it is in.
    pub(super) fn server(&self) -> Option<Arc<Server>> {
        self.current().as_ref().map(|running| Arc::clone(&running.server))
    }

    /// Puts a server here that has just been started.
    pub(super) fn put(&self, server: Arc<Server>, process: OwnedSemaphorePermit) {
        *self.current() = Some(Running { server, outdated: None, _process: process });
    }

    /// Notes that the server's configuration is an old one.
    pub(super) fn note_outdated(&self) {
        if let Some(running) = &mut *self.current() {
            running.outdated.get_or_insert_with(Instant::now);
        }
    }

    /// Ends the server, if there is one. The caller holds the turnstile.
    pub(super) async fn end(&self) {
        let running = self.current().take();
        if let Some(running) = running {
            running.server.stop().await;
        }
    }

    fn end_soon(self: Arc<Self>, turnstile: OwnedMutexGuard<()>) {
        tokio::spawn(async move {
            self.end().await;
            drop(turnstile);
        });
    }
}

/// A seat's count, given back when the last clone of it is dropped.
#[derive(Debug)]
struct Taken {
    pool: Arc<Pool>,
    project: i64,
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(held) = self.pool.state().places.get_mut(&self.project) {
            held.seats -= 1;
            held.used = Instant::now();
        }
    }
}

impl Pool {
    /// No servers yet, and never more than `most`. A project that waits for `patience` makes another drain.
    pub(super) fn new(most: usize, patience: Duration, counters: Counters) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        Self { state: Mutex::default(), processes: Arc::new(Semaphore::new(most)), most, patience, counters }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves it whole: no change is left half done in between.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot of a project.
    pub(super) fn slot(&self, project: i64) -> Arc<Slot> {
        Arc::clone(self.state().slots.entry(project).or_default())
    }

    /// All slots.
    pub(super) fn slots(&self) -> Vec<Arc<Slot>> {
        self.state().slots.values().cloned().collect()
    }

    /// Takes a seat for each of these projects that may run now. `newcomers` bounds how many are given a new place.
    pub(super) fn reserve(self: &Arc<Self>, projects: &[i64], newcomers: usize) -> Vec<Seat> {
        let now = Instant::now();
        let mut state = self.state();
        // Who does not wait any more has waited for nothing.
        state.refused.retain(|project, _| projects.contains(project));
        let wanted: Vec<Want> = projects
            .iter()
            .map(|project| Want {
                project: *project,
                refused_for: state.refused.get(project).map_or(Duration::ZERO, |since| now.duration_since(*since)),
            })
            .collect();
        let places: Vec<Place> = state.places.iter().map(|(project, held)| held.view(*project, now)).collect();
        let decided = assign(&places, &wanted, self.most, newcomers, self.patience);
        for project in &decided.evict {
            if state.end_soon(*project) {
                state.places.remove(project);
                self.counters.add(Count::ServersEvicted, 1);
                tracing::info!(project, "opencode's server makes room for another project's");
            }
        }
        for project in &decided.renew {
            state.end_soon(*project);
        }
        for project in &decided.drain {
            if let Some(held) = state.places.get_mut(project) {
                held.leaving = Some(Leaving::MakesRoom);
                tracing::info!(project, "this project has been served longest and makes room for one that waits");
            }
        }
        let mut seats = Vec::new();
        for project in projects {
            let fits = state.places.contains_key(project) || state.places.len() < self.most;
            if decided.grant.contains(project) && fits {
                state.refused.remove(project);
                seats.push(state.sit(self, *project, now));
            } else {
                state.refused.entry(*project).or_insert(now);
            }
        }
        seats
    }

    /// Takes a seat for a turn that has none yet; none if there is no place for its project.
    pub(super) fn sit(self: &Arc<Self>, project: i64) -> Option<Seat> {
        let mut state = self.state();
        if state.places.contains_key(&project) {
            return Some(state.sit(self, project, Instant::now()));
        }
        drop(state);
        self.reserve(&[project], 1).pop()
    }

    /// Has a project take no new turns until its server is idle, and a new one takes its place.
    pub(super) fn renew(&self, project: i64) -> bool {
        let mut state = self.state();
        let Some(held) = state.places.get_mut(&project).filter(|held| held.leaving.is_none()) else { return false };
        held.leaving = Some(Leaving::Renews);
        true
    }

    /// All places, as they are looked after.
    pub(super) fn look(&self) -> Vec<Looked> {
        let now = Instant::now();
        let state = self.state();
        let look = |(project, held): (&i64, &Held)| {
            let current = state.slots.get(project).map(|slot| slot.current());
            let running = current.as_ref().and_then(|current| current.as_ref());
            Looked {
                project: *project,
                seats: held.seats,
                unused: now.duration_since(held.used),
                outdated: running.and_then(|running| running.outdated).map(|since| now.duration_since(since)),
                is_leaving: held.leaving.is_some(),
                server: running.map(|running| Arc::clone(&running.server)),
            }
        };
        state.places.iter().map(look).collect()
    }

    /// Takes a place away, and ends its server in the background. Not if a turn has a seat by now.
    pub(super) fn close(&self, project: i64) -> bool {
        let mut state = self.state();
        let is_free = state.places.get(&project).is_some_and(|held| held.seats == 0);
        if is_free && state.end_soon(project) {
            state.places.remove(&project);
            return true;
        }
        false
    }
}

impl Held {
    fn view(&self, project: i64, now: Instant) -> Place {
        Place {
            project,
            seats: self.seats,
            serving: now.duration_since(self.since),
            unused: now.duration_since(self.used),
            leaving: self.leaving,
        }
    }
}

impl State {
    /// Ends a project's server in the background; the next one cannot start before. False if somebody starts or ends it just now.
    fn end_soon(&self, project: i64) -> bool {
        let Some(slot) = self.slots.get(&project) else { return true };
        let Ok(turnstile) = Arc::clone(&slot.turnstile).try_lock_owned() else { return false };
        Arc::clone(slot).end_soon(turnstile);
        true
    }

    fn sit(&mut self, pool: &Arc<Pool>, project: i64, now: Instant) -> Seat {
        let new = Held { seats: 0, since: now, used: now, leaving: None };
        let held = self.places.entry(project).or_insert(new);
        if held.seats == 0 {
            // Whatever it was to leave for has happened, or nobody waits for it any more.
            held.leaving = None;
        }
        held.seats += 1;
        held.used = now;
        Seat::new(project, Taken { pool: Arc::clone(pool), project })
    }
}
