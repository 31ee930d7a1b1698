//! What there is: rows with what would become of them, and folders that the database does not know.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use serde::Serialize;

use super::{WorktreeError, Worktrees};
use crate::{
    model::worktree::{Decision, decide},
    store::worktrees::{WorktreeFilter, WorktreeRow},
};

/// The most worktrees that a plan looks at.
const AT_MOST: i64 = 1_000_000;

/// A worktree, and what a round would do with it.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The worktree.
    pub row: WorktreeRow,
    /// What would be done.
    pub decision: Decision,
}

/// A folder that looks like one of ours, and that this database does not know: it is never touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct UnknownFolder {
    /// Where it is.
    pub path: String,
}

impl Worktrees {
    /// What a round would do with each worktree of this host, or with those given. `asked`: as if a person had asked for it. `at_once`: as
    /// if the grace of those whose sessions ended was over; what goes to make room has a grace of its own.
    pub async fn plan(&self, ids: Option<Vec<i64>>, asked: bool, at_once: bool) -> Result<Vec<Planned>, WorktreeError> {
        let filter = WorktreeFilter { ids, host_id: Some(self.host_id.clone()), ..WorktreeFilter::default() };
        let rows = self.store.worktrees(&filter, AT_MOST).await?;
        let mut room: HashMap<Option<i64>, i64> = HashMap::new();
        let make_room = self.rooms(&rows);
        let mut plan = Vec::with_capacity(rows.len());
        for mut row in rows {
            row.facts.asked |= asked;
            if at_once {
                row.facts.let_go = row.facts.let_go.map(|_| Duration::MAX);
            }
            row.facts.makes_room = make_room.contains(&row.id);
            let left = match room.get(&row.project_id) {
                Some(left) => *left,
                None => self.pool_room(row.project_id).await?,
            };
            let limits = self.limits_with(left > 0);
            let decision = decide(&row.facts, &limits);
            room.insert(row.project_id, left - i64::from(decision == Decision::Pool));
            plan.push(Planned { row, decision });
        }
        Ok(plan)
    }

    /// The worktrees that would go to make room.
    fn rooms(&self, rows: &[WorktreeRow]) -> HashSet<i64> {
        let Some(quota) = self.settings.quota else { return HashSet::new() };
        let mut projects: HashMap<i64, Vec<WorktreeRow>> = HashMap::new();
        for row in rows {
            projects.entry(row.project_id.unwrap_or_default()).or_default().push(row.clone());
        }
        projects.into_values().flat_map(|rows| self.to_make_room(rows, quota)).map(|row| row.id).collect()
    }

    /// Folders of sessions, and slots of the trash, that this database does not know.
    pub async fn unknown_folders(&self) -> Result<Vec<UnknownFolder>, WorktreeError> {
        let filter = WorktreeFilter { host_id: Some(self.host_id.clone()), ..WorktreeFilter::default() };
        let rows = self.store.worktrees(&filter, AT_MOST).await?;
        let paths: HashSet<&str> = rows.iter().map(|row| row.path.as_str()).collect();
        let slots: HashSet<&str> = rows.iter().filter_map(|row| row.slot.as_deref()).collect();
        let folders = self.git.session_folders().await?.into_iter().map(|(_, _, path)| path.display().to_string());
        let mut unknown: Vec<_> = folders.filter(|path| !paths.contains(path.as_str())).collect();
        let trash = self.home.trash();
        let trashed = self.git.trash_slots().await?.into_iter();
        unknown.extend(
            trashed
                .filter(|name| !slots.contains(name.trim_end_matches(".emptying")))
                .map(|name| trash.join(name).display().to_string()),
        );
        Ok(unknown.into_iter().map(|path| UnknownFolder { path }).collect())
    }
}
