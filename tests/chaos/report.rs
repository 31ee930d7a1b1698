//! What a run found.

use std::{collections::BTreeMap, env, fs::File, io::Write as _};

use anyhow::{Context, Result};
use serde_json::json;

/// The result of a run.
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) turns: usize,
    pub(super) seconds: u64,
    pub(super) attempts: u64,
    pub(super) faults: BTreeMap<String, u64>,
    /// All of these must be 0.
    pub(super) zeros: BTreeMap<&'static str, u64>,
    /// From a worker's SIGKILL to its turns running again, in milliseconds, ascending.
    pub(super) recovery: Vec<u64>,
    pub(super) tokens_billed: u64,
    pub(super) tokens_recorded: u64,
    pub(super) steps_recorded: u64,
    pub(super) worktrees_unknown: u64,
    /// Change sets that landed.
    pub(super) applied: u64,
    /// What the user committed to the same branch meanwhile.
    pub(super) own_commits: u64,
    pub(super) notes: Vec<String>,
}

impl Report {
    pub(super) fn new(seed: u64, turns: usize) -> Self {
        Self {
            seed,
            turns,
            seconds: 0,
            attempts: 0,
            faults: BTreeMap::new(),
            zeros: BTreeMap::new(),
            recovery: Vec::new(),
            tokens_billed: 0,
            tokens_recorded: 0,
            steps_recorded: 0,
            worktrees_unknown: 0,
            applied: 0,
            own_commits: 0,
            notes: Vec::new(),
        }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.zeros.values().all(|count| *count == 0)
    }

    /// The recovery time that this share of all is within, in milliseconds (nearest rank).
    fn recovered_within(&self, percent: usize) -> Option<u64> {
        let rank = (self.recovery.len() * percent).div_ceil(100);
        self.recovery.get(rank.checked_sub(1)?).copied()
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "chaos: seed {}, {} turns in {} s, {} attempts\n  faults:",
            self.seed, self.turns, self.seconds, self.attempts
        );
        for (what, count) in &self.faults {
            text.push_str(&format!(" {what} {count},"));
        }
        text.push('\n');
        for (what, count) in &self.zeros {
            text.push_str(&format!("  {count:6}  {what}\n"));
        }
        let percentile = |percent| self.recovered_within(percent).map_or("-".to_owned(), |ms| format!("{ms} ms"));
        text.push_str(&format!(
            "  worker killed → its turn runs again: p50 {}, p99 {}, max {} ({} turns)\n",
            percentile(50),
            percentile(99),
            percentile(100),
            self.recovery.len()
        ));
        text.push_str(&format!(
            "  tokens billed {}, recorded {} in {} steps; the rest are calls that a kill cut off\n",
            self.tokens_billed, self.tokens_recorded, self.steps_recorded
        ));
        text.push_str(&format!(
            "  change sets applied {}, to a branch with {} other commits meanwhile\n",
            self.applied, self.own_commits
        ));
        text.push_str(&format!("  worktrees without a row: {}\n", self.worktrees_unknown));
        for note in &self.notes {
            text.push_str(&format!("  note: {note}\n"));
        }
        text
    }

    /// Adds it to the results, if `MILLHAND_CHAOS_RESULTS` names a file.
    pub(super) fn keep(&self) -> Result<()> {
        let Ok(path) = env::var("MILLHAND_CHAOS_RESULTS") else { return Ok(()) };
        let line = json!({
            "seed": self.seed,
            "turns": self.turns,
            "seconds": self.seconds,
            "attempts": self.attempts,
            "faults": self.faults,
            "zeros": self.zeros,
            "recovery_ms": {
                "count": self.recovery.len(),
                "p50": self.recovered_within(50),
                "p99": self.recovered_within(99),
                "max": self.recovered_within(100),
            },
            "applied": self.applied,
            "tokens_billed": self.tokens_billed,
            "tokens_recorded": self.tokens_recorded,
            "clean": self.is_clean(),
        });
        let mut file = File::options().create(true).append(true).open(&path).with_context(|| path.clone())?;
        writeln!(file, "{line}").with_context(|| path)
    }
}
