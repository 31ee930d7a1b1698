//! What should never be, found by a query each and mended: what a bug, or SQL by hand, could leave behind for good.
//!
//! What a crash leaves behind is none of it: a statement's parts are committed together, and leases run out.

use std::time::Duration;

use tokio_postgres::types::ToSql;

use super::{Result, Store, seconds};
use crate::model::counters::Count;

/// What is looked for, by name, in this order: the first ones may leave something for the last.
const REPAIRS: [(&str, &str); 5] = [
    ("lease_without_running_task", include_str!("sql/repair_leases.sql")),
    ("attempt_without_end", include_str!("sql/repair_attempts.sql")),
    ("head_without_lane", include_str!("sql/repair_lanes.sql")),
    ("line_held_by_no_failure", include_str!("sql/repair_holds.sql")),
    ("worktree_used_by_nobody", include_str!("sql/repair_worktrees.sql")),
];

/// Something that was mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// What was wrong.
    pub what: &'static str,
    /// How often.
    pub count: u64,
}

impl Store {
    /// Mends what should not be. Returns what there was of it; anything is worth a warning.
    ///
    /// What is younger than `grace` is left alone: it may be on its way.
    pub async fn repair(&self, grace: Duration, max_losses: i32) -> Result<Vec<Repaired>> {
        let leaseless = self.rescue_leaseless(grace, max_losses).await?.len() as u64;
        let mut found = vec![Repaired { what: "running_task_without_lease", count: leaseless }];
        let client = self.client().await?;
        for (what, sql) in REPAIRS {
            let statement = client.prepare_cached(sql).await?;
            // Some need no grace: what they look for is never on its way.
            let grace: [&(dyn ToSql + Sync); 1] = [&seconds(grace)];
            let values = &grace[..statement.params().len().min(1)];
            let count: i64 = client.query_one(&statement, values).await?.get(0);
            found.push(Repaired { what, count: count.unsigned_abs() });
        }
        let lines = client.prepare_cached("SELECT millhand.sweep_lines()").await?;
        let count: i32 = client.query_one(&lines, &[]).await?.get(0);
        found.push(Repaired { what: "line_without_nudge", count: u64::from(count.unsigned_abs()) });
        found.retain(|repaired| repaired.count > 0);
        for repaired in &found {
            self.counters().add(Count::Repaired(repaired.what), repaired.count);
        }
        Ok(found)
    }
}
