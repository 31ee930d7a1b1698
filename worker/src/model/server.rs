//! What becomes of an agent's server: whether it is given up, replaced, or makes room for another.
//!
//! Three decisions. [`judge_health`]: is it dead? [`assign`]: which projects get a server, and which of the others makes room? [`tend`]:
//! should one that works be ended all the same, now or as soon as it can?

use std::{cmp::Reverse, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;

/// A server that runs, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Running {
    /// The agent.
    pub agent: &'static str,
    /// Key of its project.
    pub project_id: i64,
    /// Its process.
    pub pid: u32,
    /// Turns that run on it.
    pub turns: usize,
    /// Worktrees that it has loaded.
    pub worktrees: usize,
    /// What its process occupies, in whole megabytes; none: that is not known.
    pub resident_bytes: Option<u64>,
    /// It takes no new turns, and ends, or makes way for its successor, when it is idle.
    pub is_leaving: bool,
    /// Since when this worker has it.
    pub started_at: DateTime<Utc>,
}

/// What a server's health amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Well,
    /// It does not answer, but not for long enough to be given up.
    Suspect,
    /// It answers, but has not told of anything for too long: it takes no new turns.
    Deaf,
    /// It is dead: end what is left of it.
    Dead,
}

/// Judges a server by how long it has not answered, and how long its stream has been down. A busy one may be slow to answer, so
/// there is a grace.
pub fn judge_health(unanswered: Duration, stream_down: Duration, grace: Duration) -> Health {
    if unanswered.is_zero() {
        // Reading works without a stream, so turns go on.
        if stream_down >= grace.saturating_mul(3) { Health::Deaf } else { Health::Well }
    } else if unanswered >= grace {
        Health::Dead
    } else {
        Health::Suspect
    }
}

/// Why a place takes no new turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// Another project has waited too long.
    MakesRoom,
    /// Its server is to be replaced by a new one.
    Renews,
}

/// A project's place among the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The project.
    pub project: i64,
    /// Turns that run or are about to.
    pub seats: usize,
    /// Since it was given the place.
    pub serving: Duration,
    /// Since a turn last had a seat.
    pub unused: Duration,
    /// It takes no new turns.
    pub leaving: Option<Leaving>,
}

/// A project that has something to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// The project.
    pub project: i64,
    /// Since it was first refused, in a row.
    pub refused_for: Duration,
}

/// What is to be done so that projects can run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// These give up their places, and their servers end. None of them has a turn.
    pub evict: Vec<i64>,
    /// The servers of these end, and their places stay. None of them has a turn.
    pub renew: Vec<i64>,
    /// These take no new turns, so that another gets their place.
    pub drain: Vec<i64>,
    /// These may run now.
    pub grant: Vec<i64>,
}

/// Decides which of the wanted projects may run now. There are never more than `most` places, a place with a turn is never taken
/// away, and a project that was refused for `patience` makes the longest-serving one drain.
///
/// `newcomers` bounds how many projects are given a new place.
pub fn assign(places: &[Place], wanted: &[Want], most: usize, newcomers: usize, patience: Duration) -> Assignment {
    let mut decided = Assignment::default();
    let place_of = |project: i64| places.iter().find(|place| place.project == project);
    let keeps = |want: &&Want| place_of(want.project).is_some_and(|place| place.leaving.is_none());
    let renews = |want: &&Want| {
        place_of(want.project).is_some_and(|place| place.seats == 0 && place.leaving == Some(Leaving::Renews))
    };
    let kept: Vec<i64> = wanted.iter().filter(keeps).map(|want| want.project).collect();
    decided.renew = wanted.iter().filter(renews).map(|want| want.project).collect();

    let mut idle: Vec<&Place> = places
        .iter()
        .filter(|place| place.seats == 0 && !kept.contains(&place.project) && !decided.renew.contains(&place.project))
        .collect();
    let is_wanted = |project: i64| wanted.iter().any(|want| want.project == project);
    idle.sort_by_key(|place| (is_wanted(place.project), place.leaving.is_none(), Reverse(place.unused)));
    let mut free = most.saturating_sub(places.len());
    let mut new: Vec<&Want> = wanted
        .iter()
        .filter(|want| {
            place_of(want.project).is_none_or(|place| place.seats == 0 && place.leaving == Some(Leaving::MakesRoom))
        })
        .collect();
    new.sort_by_key(|want| Reverse(want.refused_for));
    let mut starving = 0;
    let mut admitted = 0;
    for want in new {
        let own = idle.iter().position(|place| place.project == want.project);
        if admitted >= newcomers || decided.evict.contains(&want.project) {
            continue;
        }
        if let Some(own) = own {
            idle.remove(own);
        } else if free > 0 {
            free -= 1;
        } else if !idle.is_empty() {
            decided.evict.push(idle.remove(0).project);
        } else {
            starving += usize::from(want.refused_for >= patience);
            continue;
        }
        admitted += 1;
        decided.grant.push(want.project);
    }

    let draining = places.iter().filter(|place| place.seats > 0 && place.leaving == Some(Leaving::MakesRoom)).count();
    let mut busy: Vec<&Place> = places
        .iter()
        .filter(|place| place.leaving.is_none() && (place.seats > 0 || kept.contains(&place.project)))
        .collect();
    busy.sort_by_key(|place| Reverse(place.serving));
    decided.drain = busy.iter().take(starving.saturating_sub(draining)).map(|place| place.project).collect();

    decided.grant.extend(kept.iter().filter(|project| !decided.drain.contains(project)));
    decided.grant.extend(&decided.renew);
    decided
}

/// A server that is looked after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tended {
    /// Its process has ended.
    pub dead: bool,
    /// It has been found wanting and takes no new turns, for this long.
    pub retired: Option<Duration>,
    /// Turns that run or are about to.
    pub seats: usize,
    /// Since a turn last had a seat.
    pub unused: Duration,
    /// Since it was started.
    pub age: Duration,
    /// Memory that it occupies, in bytes, where it is known.
    pub resident: Option<u64>,
    /// Since its configuration was found to be an old one.
    pub outdated: Option<Duration>,
}

/// Bounds of a server's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// One that is unused for this long is ended.
    pub unused: Duration,
    /// One that is older is replaced when it is idle; of twice that age it takes no new turns.
    pub age: Duration,
    /// One that is larger, in bytes, is replaced when it is idle; of twice that size it takes no new turns.
    pub resident: u64,
    /// How long one that is to be replaced is waited for.
    pub drain: Duration,
}

/// Why a server is ended that could go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its process has ended.
    Dead,
    /// It was found wanting.
    Retired,
    /// Nobody has used it for long.
    Unused,
    /// It is old.
    Age,
    /// It occupies much memory.
    Memory,
    /// Its configuration is an old one.
    Configuration,
}

impl Reason {
    /// As it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Retired => "retired",
            Self::Unused => "unused",
            Self::Age => "age",
            Self::Memory => "memory",
            Self::Configuration => "configuration",
        }
    }

    /// For the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dead => "its process has ended",
            Self::Retired => "it was found wanting",
            Self::Unused => "unused for long",
            Self::Age => "its age",
            Self::Memory => "its memory",
            Self::Configuration => "its configuration has changed",
        }
    }
}

/// What is to be done with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Care {
    /// Nothing.
    Keep,
    /// End it: no turn runs on it.
    End(Reason),
    /// Give it no new turns.
    Drain(Reason),
    /// End it although turns run on it, which then go on elsewhere: it was waited for long enough.
    EndBusy(Reason),
}

/// Says what is to be done with a server.
pub fn tend(server: &Tended, bounds: &Bounds) -> Care {
    let large = |times: u64| server.resident.is_some_and(|bytes| bytes >= bounds.resident.saturating_mul(times));
    if server.seats == 0 {
        return if server.dead {
            Care::End(Reason::Dead)
        } else if server.retired.is_some() {
            Care::End(Reason::Retired)
        } else if server.outdated.is_some() {
            Care::End(Reason::Configuration)
        } else if large(1) {
            Care::End(Reason::Memory)
        } else if server.age >= bounds.age {
            Care::End(Reason::Age)
        } else if server.unused >= bounds.unused {
            Care::End(Reason::Unused)
        } else {
            Care::Keep
        };
    }
    if server.dead {
        // Whoever has a seat starts the next one.
        Care::Keep
    } else if let Some(retired) = server.retired {
        if retired >= bounds.drain { Care::EndBusy(Reason::Retired) } else { Care::Drain(Reason::Retired) }
    } else if server.outdated.is_some_and(|outdated| outdated >= bounds.drain) {
        Care::Drain(Reason::Configuration)
    } else if large(2) {
        Care::Drain(Reason::Memory)
    } else if server.age >= bounds.age.saturating_mul(2) {
        Care::Drain(Reason::Age)
    } else {
        Care::Keep
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
