//! What a worker has done since it started, counted where it is done, and told with each heartbeat.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count<'a> {
    /// Attempts begun.
    Claimed,
    /// Attempts ended, by their outcome.
    Finished(&'a str),
    /// Results that were not taken, as somebody else had the task.
    Fenced,
    /// Tasks taken from a worker that did not answer any more.
    Rescued,
    /// Tasks taken back from an earlier worker of the host.
    TakenBack,
    /// Claims given back, as their answer was lost.
    GivenBack,
    /// Leases shortened that ended too late.
    Clamped,
    /// Things mended that should not be, by what it was.
    Repaired(&'a str),
    /// Days of transcripts dropped.
    EventDaysDropped,
    /// Tasks taken away.
    TasksPruned,
    /// Sessions taken away.
    SessionsPruned,
    /// Agents' servers started.
    ServersStarted,
    /// Ended to make room for another project's.
    ServersEvicted,
    /// Ended or replaced, by why.
    ServersEnded(&'a str),
    /// Taken over from a worker that died.
    ServersAdopted,
    /// Turns that ran on those.
    TurnsAdopted,
    /// Items noted for webhooks.
    DeliveriesNoted,
    /// Posts to webhooks, by what came of them.
    Posted(&'a str),
    /// Deliveries taken away.
    DeliveriesPruned,
    /// Mirrors whose loose objects were packed.
    MirrorsPacked,
}

impl Count<'_> {
    /// As the database and `status` name it.
    fn name(self) -> String {
        match self {
            Self::Claimed => "claimed".to_owned(),
            Self::Finished(outcome) => format!("finished.{outcome}"),
            Self::Fenced => "fenced".to_owned(),
            Self::Rescued => "rescued".to_owned(),
            Self::TakenBack => "taken_back".to_owned(),
            Self::GivenBack => "given_back".to_owned(),
            Self::Clamped => "clamped".to_owned(),
            Self::Repaired(what) => format!("repaired.{what}"),
            Self::EventDaysDropped => "event_days_dropped".to_owned(),
            Self::TasksPruned => "tasks_pruned".to_owned(),
            Self::SessionsPruned => "sessions_pruned".to_owned(),
            Self::ServersStarted => "servers_started".to_owned(),
            Self::ServersEvicted => "servers_evicted".to_owned(),
            Self::ServersEnded(why) => format!("servers_ended.{why}"),
            Self::ServersAdopted => "servers_adopted".to_owned(),
            Self::TurnsAdopted => "turns_adopted".to_owned(),
            Self::DeliveriesNoted => "deliveries_noted".to_owned(),
            Self::Posted(what) => format!("posted.{what}"),
            Self::DeliveriesPruned => "deliveries_pruned".to_owned(),
            Self::MirrorsPacked => "mirrors_packed".to_owned(),
        }
    }
}

/// The counts of one worker. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<Mutex<BTreeMap<String, u64>>>);

impl Counters {
    /// Adds to a count. One that never happened is not there.
    pub fn add(&self, what: Count<'_>, by: u64) {
        if by > 0 {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(what.name()).or_default() += by;
        }
    }

    /// All of them, by name.
    pub fn all(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_count_together_and_what_never_happened_is_not_there() {
        let counters = Counters::default();
        counters.clone().add(Count::Claimed, 2);
        counters.add(Count::Claimed, 1);
        counters.add(Count::Finished("completed"), 1);
        counters.add(Count::Rescued, 0);
        let expected = [("claimed", 3), ("finished.completed", 1)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(counters.all(), BTreeMap::from(expected));
    }
}
