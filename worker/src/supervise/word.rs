//! What a shim is told again and again: that its worker lives, until when its child may run without another word, and which turns
//! run on it. The next worker is handed the last word, if this one dies.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

use super::{Alive, BootTime, KILL_GRACE, Lifeline, wire::Request};

/// The turns on a child, and which of them its shim knows of. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    running: Arc<watch::Sender<Running>>,
    /// The shim knows of all up to this one.
    told: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct Running {
    /// By number, what the next worker needs to know of each.
    notes: BTreeMap<u64, String>,
    /// The number of the last that began.
    begun: u64,
}

/// A turn that runs on a child: until this is dropped, the child lives no longer than the lifeline says.
#[derive(Debug)]
pub struct Busy {
    turns: Turns,
    number: u64,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.turns.running.send_modify(|running| drop(running.notes.remove(&self.number)));
    }
}

impl Turns {
    /// None yet. Those of a child without a lifeline need not be told.
    pub(super) fn new(is_told: bool) -> Self {
        let told = if is_told { 0 } else { u64::MAX };
        Self { running: Arc::default(), told: Arc::new(watch::Sender::new(told)) }
    }

    /// One more.
    pub(super) fn begin(&self, note: String) -> Busy {
        let mut number = 0;
        self.running.send_modify(|running| {
            running.begun += 1;
            number = running.begun;
            running.notes.insert(number, note);
        });
        Busy { turns: self.clone(), number }
    }
}

impl Busy {
    /// Waits until the shim knows.
    pub(super) async fn is_told(&self) {
        let mut told = self.turns.told.subscribe();
        let _ = told.wait_for(|told| *told >= self.number).await;
    }
}

/// What keeps a shim told.
pub(super) struct Word {
    lifeline: Lifeline,
    until: watch::Receiver<Alive>,
    running: watch::Receiver<Running>,
    told: Arc<watch::Sender<u64>>,
    /// So that an idle child lives as long as this process, whatever becomes of heartbeats.
    ticks: tokio::time::Interval,
    /// All turns up to this one are being told.
    telling: u64,
}

impl Word {
    pub(super) fn new(lifeline: &Lifeline, turns: &Turns) -> Self {
        let mut ticks = tokio::time::interval(lifeline.idle() / 4);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self {
            lifeline: lifeline.clone(),
            until: lifeline.subscribe(),
            running: turns.running.subscribe(),
            told: Arc::clone(&turns.told),
            ticks,
            telling: 0,
        }
    }

    /// Waits until there is something to say.
    pub(super) async fn due(&mut self) {
        tokio::select! {
            Ok(()) = self.until.changed() => {}
            Ok(()) = self.running.changed() => {}
            _ = self.ticks.tick() => {}
        }
    }

    /// What to say. A turn that begins after this is not in it, and waits for the next word: an idle child's longer time never
    /// holds for a turn.
    pub(super) fn begin(&mut self) -> Request {
        let (begun, turns): (u64, Vec<String>) = {
            let running = self.running.borrow_and_update();
            (running.begun, running.notes.values().cloned().collect())
        };
        self.telling = begun;
        let until = *self.until.borrow_and_update();
        let alive = if turns.is_empty() { idle(&self.lifeline) } else { until };
        Request::Alive { alive, turns }
    }

    /// It is in the pipe, where the shim finds it even if this process is stopped or killed now.
    pub(super) fn was_said(&mut self) {
        self.told.send_if_modified(|told| {
            let is_news = *told < self.telling;
            *told = (*told).max(self.telling);
            is_news
        });
    }
}

/// What a child is told that has no turns.
fn idle(lifeline: &Lifeline) -> Alive {
    Alive::new(BootTime::now().plus(lifeline.idle()), KILL_GRACE)
}
