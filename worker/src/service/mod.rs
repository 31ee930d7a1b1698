//! A running worker: builds the loops, starts them, and stops them in order.
//!
//! Order of stopping: claim no more → let turns end, within the drain → tell the rest to stop and hand their tasks back →
//! end the agents' servers → stop the heartbeat, which until here has kept the leases alive → say goodbye.

mod host;
mod trial;

use std::{sync::Arc, time::Duration};

use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    actions::Applier,
    agent::Backend,
    config::{RetentionSettings, Timings},
    loops::{
        checker::Checker, claimer::Claimer, courier::Courier, forecaster::Forecaster, heartbeat::Heartbeat,
        lookout::Lookout, notifier::Notifier, packer::Packer, prober::Prober, pruner::Pruner, reaper::Reaper,
        rehomer::Rehomer, rescuer::Rescuer, settler::Settler, teller::Teller, tender::Tender,
    },
    store::{
        Store, StoreError,
        listen::{Wakes, listen},
        queue::WorkerRow,
    },
    turn::{
        Runner,
        lease::{Leases, Sent, StopReason},
    },
    worktrees::Worktrees,
};

pub use host::{Host, end_leftovers, opencode_backend};
pub use trial::{SandboxTrial, try_sandbox};

/// How long turns that were told to stop may take to save what they have.
const HAND_BACK_WITHIN: Duration = Duration::from_secs(30);
/// How long the agents' servers may take to end.
const SERVERS_WITHIN: Duration = Duration::from_secs(10);
/// How long the last words to the database may take.
const GOODBYE_WITHIN: Duration = Duration::from_secs(5);

/// What a worker is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Stable id of the host.
    pub host_id: String,
    /// Name of the machine, for people.
    pub hostname: String,
    /// Turns at once.
    pub concurrency: usize,
    /// Listen for NOTIFY; false behind a pooler that cannot pass it on: then it polls.
    pub listen: bool,
    /// Agents that this host can run.
    pub agents: Vec<String>,
    /// Infrastructure losses of a task after which a person is asked.
    pub max_infra_losses: i32,
    /// How long things are kept.
    pub retention: RetentionSettings,
    /// Intervals.
    pub timings: Timings,
}

/// A running worker.
pub struct Worker {
    id: Uuid,
    store: Store,
    leases: Leases,
    turns: TaskTracker,
    backend: Option<Arc<dyn Backend>>,
    wakes: Wakes,
    stop_claiming: CancellationToken,
    stop_loops: CancellationToken,
    outdated: CancellationToken,
    claimer: JoinHandle<()>,
    loops: Vec<JoinHandle<()>>,
}

impl Worker {
    /// Starts a worker. The caller holds the host's lock: tasks of earlier workers of this host are taken back at once.
    ///
    /// `backend` is what is probed and ended with the worker; the runner uses it.
    ///
    /// # Errors
    ///
    /// The database cannot be reached, or its schema is another one.
    pub async fn start(
        settings: Settings,
        store: Store,
        runner: Arc<dyn Runner>,
        leases: Leases,
        backend: Option<Arc<dyn Backend>>,
    ) -> Result<Self, StoreError> {
        store.schema_state().await?.require_current()?;
        let id = Uuid::new_v4();
        let timings = settings.timings;
        store
            .register_worker(&WorkerRow {
                id,
                host_id: &settings.host_id,
                hostname: &settings.hostname,
                version: env!("CARGO_PKG_VERSION"),
                capacity: settings.concurrency,
            })
            .await?;
        let sent = Sent::now();
        for task in store.rescue_host(&settings.host_id, settings.max_infra_losses, id).await? {
            tracing::warn!(task = task.task_id, state = task.state, "taken back from an earlier worker of this host");
        }
        // Their turns are nobody else's now, and this worker's for as long as a lease: time enough for the first heartbeat.
        leases.renewed(sent);
        if let Some(backend) = &backend {
            backend.take_over().await;
        }

        let wakes = Wakes::default();
        let turns = TaskTracker::new();
        let stop_claiming = CancellationToken::new();
        let stop_loops = CancellationToken::new();
        let mut loops = Vec::new();
        if settings.listen {
            loops.push(tokio::spawn(listen(
                store.connect().clone(),
                wakes.clone(),
                timings.listen_check,
                stop_loops.clone(),
            )));
        }
        let heartbeat = Heartbeat {
            store: store.clone(),
            worker: id,
            leases: leases.clone(),
            cancels: wakes.cancels.clone(),
            timings,
        };
        loops.push(tokio::spawn(heartbeat.run(stop_loops.clone())));
        let rescuer = Rescuer {
            store: store.clone(),
            wake: wakes.tasks.clone(),
            max_infra_losses: settings.max_infra_losses,
            timings,
        };
        loops.push(tokio::spawn(rescuer.run(stop_claiming.clone())));
        let outdated = CancellationToken::new();
        let lookout = Lookout {
            store: store.clone(),
            worker: id,
            stop_claiming: stop_claiming.clone(),
            outdated: outdated.clone(),
            every: timings.rescue,
        };
        loops.push(tokio::spawn(lookout.run()));
        let pruner = Pruner { store: store.clone(), retention: settings.retention, every: timings.prune };
        loops.push(tokio::spawn(pruner.run(stop_claiming.clone())));
        let courier = Courier { store: store.clone(), wake: Arc::default(), timings };
        let notifier =
            Notifier { store: store.clone(), wake: wakes.webhooks.clone(), courier: courier.wake.clone(), timings };
        loops.push(tokio::spawn(notifier.run(stop_claiming.clone())));
        loops.push(tokio::spawn(courier.run(stop_claiming.clone())));
        if let Some(backend) = &backend {
            let tender = Tender { backend: backend.clone(), every: timings.tend };
            loops.push(tokio::spawn(tender.run(stop_claiming.clone())));
            // Until the end: servers are ended after the last turn.
            let teller = Teller { store: store.clone(), worker: id, backend: backend.clone(), every: timings.tell };
            loops.push(tokio::spawn(teller.run(stop_loops.clone())));
            for agent in &settings.agents {
                let prober = Prober {
                    store: store.clone(),
                    host_id: settings.host_id.clone(),
                    agent: agent.clone(),
                    backend: backend.clone(),
                    every: timings.probe,
                };
                loops.push(tokio::spawn(prober.run(stop_claiming.clone())));
            }
        }
        let claimer = Claimer {
            store: store.clone(),
            worker: id,
            host_id: settings.host_id,
            agents: settings.agents,
            slots: Arc::new(Semaphore::new(settings.concurrency.max(1))),
            wake: wakes.tasks.clone(),
            notifier: wakes.webhooks.clone(),
            leases: leases.clone(),
            runner,
            backend: backend.clone(),
            turns: turns.clone(),
            max_infra_losses: settings.max_infra_losses,
            listens: settings.listen,
            timings,
        };
        let claimer = tokio::spawn(claimer.run(stop_claiming.clone()));
        tracing::info!(worker = %id, turns = settings.concurrency, "worker started");
        Ok(Self { id, store, leases, turns, backend, wakes, stop_claiming, stop_loops, outdated, claimer, loops })
    }

    /// Starts the loop that checks what turns changed.
    fn start_checker(&mut self, checker: Checker) {
        self.loops.push(tokio::spawn(checker.run(self.stop_claiming.clone())));
    }

    /// Starts the loops that settle applies which were interrupted, or whose session was in use, and say what would come of others.
    fn start_settler(&mut self, applier: Applier) {
        let (every, fetch_every) = (applier.timings.forecast, applier.timings.forecast_fetch);
        let forecaster = Forecaster { applier: applier.clone(), every, fetch_every };
        self.loops.push(tokio::spawn(forecaster.run(self.stop_claiming.clone())));
        let settler = Settler { applier };
        self.loops.push(tokio::spawn(settler.run(self.stop_claiming.clone())));
    }

    /// Starts the loops that let go of worktrees which nobody needs, pack the mirrors, and take over sessions whose host is gone. They end
    /// before the agents' servers do.
    fn start_keepers(&mut self, worktrees: Worktrees, agents: Vec<String>) {
        let Some(backend) = self.backend.clone() else { return };
        let rehomer = Rehomer { worktrees: worktrees.clone(), agents };
        self.loops.push(tokio::spawn(rehomer.run(self.stop_claiming.clone())));
        let packer = Packer {
            git: worktrees.git.clone(),
            counters: self.store.counters().clone(),
            every: worktrees.timings.prune,
        };
        self.loops.push(tokio::spawn(packer.run(self.stop_claiming.clone())));
        let reaper = Reaper { worktrees, backend, wake: self.wakes.worktrees.clone() };
        self.loops.push(tokio::spawn(reaper.run(self.stop_claiming.clone())));
    }

    /// Its id, new at each start.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Waits until the database's schema has moved on so far that this worker has to be stopped.
    pub async fn outdated(&self) {
        self.outdated.cancelled().await;
    }

    /// Turns under way.
    pub fn running(&self) -> usize {
        self.leases.len()
    }

    /// Stops in order. Turns that do not end within `drain`, or before `hurry` is cancelled, are stopped, and their tasks
    /// handed back without a charge.
    pub async fn stop(self, drain: Duration, hurry: CancellationToken) {
        self.stop_claiming.cancel();
        // What a claim under way brings begins its turn, and is handed back with the others.
        let claiming = self.claimer.abort_handle();
        if tokio::time::timeout(GOODBYE_WITHIN, self.claimer).await.is_err() {
            claiming.abort();
        }
        self.turns.close();
        if let Err(error) = self.store.drain_worker(self.id).await {
            tracing::debug!(%error, "could not say that this worker drains");
        }
        if !self.leases.is_empty() {
            tracing::info!(turns = self.leases.len(), seconds = drain.as_secs(), "waiting for turns to end");
        }
        tokio::select! {
            () = self.turns.wait() => {}
            () = tokio::time::sleep(drain) => {}
            () = hurry.cancelled() => {}
        }
        if !self.leases.is_empty() {
            tracing::info!(turns = self.leases.len(), "stopping turns and handing their tasks back");
            self.leases.stop_all(StopReason::Shutdown);
            if tokio::time::timeout(HAND_BACK_WITHIN, self.turns.wait()).await.is_err() {
                tracing::warn!(turns = self.leases.len(), "turns did not end in time; their leases run out");
            }
        }
        if let Some(backend) = &self.backend {
            backend.shutdown(SERVERS_WITHIN).await;
        }
        self.stop_loops.cancel();
        for handle in self.loops {
            let abort = handle.abort_handle();
            if tokio::time::timeout(GOODBYE_WITHIN, handle).await.is_err() {
                abort.abort();
            }
        }
        match tokio::time::timeout(GOODBYE_WITHIN, self.store.stop_worker(self.id)).await {
            Ok(Ok(())) => tracing::info!("worker stopped"),
            _ => tracing::debug!("could not say goodbye to the database"),
        }
    }
}
