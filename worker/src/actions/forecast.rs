//! Forecasting: which open change sets would conflict with their branch, or with each other, and an order in which they apply. And a conflict as
//! a prompt, for the agent to resolve.
//!
//! Everything is merged in the mirror, in the way that an apply merges it, and nothing is moved. What is said holds for the branch as it was then, and
//! an apply looks again.

use super::{
    ActionError, Applier, ApplyRequest, Result, Target,
    apply::{Goal, refused},
    no_session, open_changes,
};
use crate::{
    git::{Merged, Mirror, SourceKind},
    model::{
        forecast::{Footprint, conflict_prompt, order},
        ids::{AnyId, SessionId},
    },
    store::{
        forecasts::{ConflictRow, NewForecast, OpenSet, OtherRow},
        projects::ProjectRow,
    },
};

/// Open change sets of a project that are looked at, oldest first.
const SETS: i64 = 500;
/// Pairs that are merged with each other; an order is found all the same.
const PAIRS: usize = 2_000;
/// Paths that are told of a conflict.
const PATHS: usize = 50;

/// A branch, and what waits to be applied to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlook {
    /// The project.
    pub project: ProjectRow,
    /// The branch.
    pub branch: String,
    /// Where it is; none: it is not there.
    pub tip: Option<String>,
    /// The open change sets, oldest first.
    pub sets: Vec<OpenSet>,
}

/// A conflict, as a prompt, and what makes it a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictPrompt {
    /// The prompt.
    pub prompt: String,
    /// The commit that is merged into the worktree before the turn.
    pub merge_commit: String,
    /// Branch that it is of; none: the session's own.
    pub merge_branch: Option<String>,
    /// A key that queues it once.
    pub key: String,
}

/// An open change set on the way to its forecast.
struct Candidate<'a> {
    open: &'a OpenSet,
    footprint: Footprint,
    merges: std::result::Result<Merges, String>,
    conflicts: Vec<ConflictRow>,
    others: Vec<OtherRow>,
    place: Option<i32>,
}

/// What a change set is merged from and with.
struct Merges {
    from: String,
    tree: String,
    /// With the branch; none: they conflict.
    merged: Option<String>,
}

impl Candidate<'_> {
    /// What it is merged from and with, if it goes together with the branch.
    fn clean(&self) -> Option<(&Merges, &str)> {
        let merges = self.merges.as_ref().ok()?;
        Some((merges, merges.merged.as_deref()?))
    }
}

fn paths(conflicts: Vec<crate::git::Conflict>) -> impl Iterator<Item = ConflictRow> {
    conflicts.into_iter().take(PATHS).map(|conflict| ConflictRow { path: conflict.path, message: conflict.message })
}

impl Applier {
    /// Where the branches of a project are that its open change sets would go to. A remote is only asked with `fetch`.
    pub async fn outlooks(&self, project: &str, fetch: bool) -> Result<Vec<Outlook>> {
        let project = super::project_named(&self.store, project).await?;
        if project.host_id.as_ref().is_some_and(|host| *host != self.host_id) {
            return refused(format!("the repository {} is on another host", project.source), "run this command there");
        }
        let mut outlooks: Vec<Outlook> = Vec::new();
        let sets = self.store.open_sets(&project.name, SETS).await?;
        let Some(first) = sets.first().map(|set| set.id) else { return Ok(outlooks) };
        let mirror = if fetch || self.git.kind_of(&project.source)? == SourceKind::Path {
            self.git.ensure_mirror(project.id, &project.source, None).await?
        } else {
            let Some(set) = self.store.change_set_by_id(first).await? else { return Ok(outlooks) };
            self.mirror(&project, &set).await?
        };
        for set in sets {
            match outlooks.iter_mut().find(|outlook| outlook.branch == set.branch) {
                Some(outlook) => outlook.sets.push(set),
                None => outlooks.push(Outlook {
                    project: project.clone(),
                    branch: set.branch.clone(),
                    tip: self.git.mirrored_tip(&mirror, &set.branch).await?,
                    sets: vec![set],
                }),
            }
        }
        Ok(outlooks)
    }

    /// Finds out what would come of applying what waits for a branch, and records it for the sessions of this host.
    pub async fn forecast(&self, outlook: &Outlook) -> Result<Vec<NewForecast>> {
        let mut candidates = Vec::with_capacity(outlook.sets.len());
        let mut mirror = None;
        for open in &outlook.sets {
            candidates.extend(self.candidate(outlook, open, &mut mirror).await?);
        }
        if let Some(mirror) = &mirror {
            let met = self.compare(outlook, mirror, &mut candidates).await?;
            self.place(outlook, mirror, &mut candidates, &met).await?;
        }
        let forecasts: Vec<NewForecast> = candidates
            .into_iter()
            .map(|candidate| NewForecast {
                change_set_id: candidate.open.id,
                branch: outlook.branch.clone(),
                target_commit: outlook.tip.clone(),
                verdict: match &candidate.merges {
                    Err(_) => "unknown",
                    Ok(Merges { merged: None, .. }) => "conflicts",
                    Ok(_) => "clean",
                },
                conflicts: candidate.conflicts,
                others: candidate.others,
                place: candidate.place,
                problem: candidate.merges.err(),
            })
            .collect();
        let is_here = |forecast: &&NewForecast| {
            let set = outlook.sets.iter().find(|set| set.id == forecast.change_set_id);
            set.is_some_and(|set| set.home_host.as_ref() == Some(&self.host_id))
        };
        let here: Vec<NewForecast> = forecasts.iter().filter(is_here).cloned().collect();
        self.store.record_forecasts(&here).await?;
        Ok(forecasts)
    }

    /// A change set merged with the branch; none if it is not there any more.
    async fn candidate<'a>(
        &self,
        outlook: &Outlook,
        open: &'a OpenSet,
        mirror: &mut Option<Mirror>,
    ) -> Result<Option<Candidate<'a>>> {
        let Some(set) = self.store.change_set_by_id(open.id).await? else { return Ok(None) };
        let files = self.store.set_files(open.id).await?;
        let waiting = files.iter().filter(|file| file.pending);
        let footprint = Footprint::new(waiting.map(|file| (file.path.as_str(), file.old_path.as_deref())));
        let mut candidate = Candidate {
            open,
            footprint,
            merges: Err(String::new()),
            conflicts: Vec::new(),
            others: Vec::new(),
            place: None,
        };
        let merged = async {
            let found = self.mirror(&outlook.project, &set).await?;
            let from = self.merge_from(&set, &found, outlook.tip.as_deref()).await?;
            let tree = if files.iter().all(|file| file.pending) {
                set.tree_id.clone()
            } else {
                let places = files.iter().enumerate().filter(|(_, file)| file.pending).map(|(place, _)| place);
                let places: Vec<usize> = places.collect();
                self.git.tree_with_some(&found, &set.base_commit, &set.tree_id, &places, &from).await?
            };
            let start = self.start(outlook, &found, &set.base_commit).await?;
            let merged = self.git.merge(&found, &from, start.as_deref(), &tree).await?;
            Ok((found, from, tree, merged))
        };
        match merged.await {
            Ok((found, from, tree, Merged::Clean(merged))) => {
                candidate.merges = Ok(Merges { from, tree, merged: Some(merged) });
                *mirror = Some(found);
            }
            Ok((found, from, tree, Merged::Conflicts { conflicts, .. })) => {
                candidate.conflicts.extend(paths(conflicts));
                candidate.merges = Ok(Merges { from, tree, merged: None });
                *mirror = Some(found);
            }
            Err(error @ ActionError::Store(_)) => return Err(error),
            Err(error) => candidate.merges = Err(error.to_string()),
        }
        Ok(Some(candidate))
    }

    /// What a merge starts on: the branch, or where a new one would start.
    async fn start(&self, outlook: &Outlook, mirror: &Mirror, base: &str) -> Result<Option<String>> {
        match &outlook.tip {
            Some(tip) => Ok(Some(tip.clone())),
            None => Ok(self.git.start_of(mirror, base).await?),
        }
    }

    /// Merges those with each other that could conflict. Those that could, and the pairs that do.
    async fn compare(&self, outlook: &Outlook, mirror: &Mirror, candidates: &mut [Candidate<'_>]) -> Result<Met> {
        let mut met = Met { could: vec![false; candidates.len()], pairs: Vec::new() };
        let mut left = PAIRS;
        for a in 0..candidates.len() {
            let mut onto = None;
            for b in a + 1..candidates.len() {
                let (Some((first, merged)), Some((second, _))) = (candidates[a].clean(), candidates[b].clean()) else {
                    continue;
                };
                if !candidates[a].footprint.may_conflict(&candidates[b].footprint) {
                    continue;
                }
                (met.could[a], met.could[b]) = (true, true);
                if left == 0 {
                    continue;
                }
                left -= 1;
                let onto = match &onto {
                    Some(onto) => onto,
                    None => {
                        let parent = outlook.tip.as_deref().unwrap_or(&first.from);
                        &*onto.insert(self.git.merging_commit(mirror, merged, parent).await?)
                    }
                };
                let merged = self.git.merge(mirror, &second.from, Some(onto), &second.tree).await?;
                let Merged::Conflicts { conflicts, .. } = merged else { continue };
                let paths: Vec<String> = paths(conflicts).map(|conflict| conflict.path).collect();
                for (one, other) in [(a, b), (b, a)] {
                    let OpenSet { id, session_id, .. } = *candidates[other].open;
                    let other = OtherRow { change_set_id: id, session_id, paths: paths.clone() };
                    candidates[one].others.push(other);
                }
                met.pairs.push((a, b));
            }
        }
        Ok(met)
    }

    /// Gives places in an order that works, by merging one after another.
    async fn place(
        &self,
        outlook: &Outlook,
        mirror: &Mirror,
        candidates: &mut [Candidate<'_>],
        met: &Met,
    ) -> Result<()> {
        let (mut state, mut next) = (outlook.tip.clone(), 1);
        for at in order(candidates.len(), &met.pairs) {
            let Some((merges, _)) = candidates[at].clean() else { continue };
            if met.could[at] {
                let Merged::Clean(tree) = self.git.merge(mirror, &merges.from, state.as_deref(), &merges.tree).await?
                else {
                    continue;
                };
                let parent = state.as_deref().unwrap_or(&merges.from);
                state = Some(self.git.merging_commit(mirror, &tree, parent).await?);
            }
            candidates[at].place = Some(next);
            next += 1;
        }
        Ok(())
    }

    /// What conflicts between a session's open change set and a branch, as a prompt for its agent.
    pub async fn prompt_of_conflicts(
        &self,
        session_id: i64,
        target: Target,
        more: Option<&str>,
    ) -> Result<ConflictPrompt> {
        self.store.session(session_id).await?.ok_or_else(|| no_session(session_id))?;
        let found = open_changes(&self.store, AnyId::Session(SessionId(session_id))).await?;
        let set = found.set;
        let project = super::project_named(&self.store, &set.project).await?;
        // Said in the same words as for an apply.
        let request = ApplyRequest { target, ..ApplyRequest::default() };
        let Goal { branch, is_base, .. } = self.goal(project.clone(), &set, &request).await?;
        self.git.ensure_mirror(project.id, &project.source, None).await?;
        let mirror = self.mirror(&project, &set).await?;
        let Some(tip) = self.git.mirrored_tip(&mirror, &branch).await? else {
            return refused(
                format!("the branch {branch} is not there"),
                "apply it to another, new or not: --to BRANCH",
            );
        };
        let from = self.merge_from(&set, &mirror, Some(&tip)).await?;
        let Merged::Conflicts { conflicts, .. } = self.git.merge(&mirror, &from, Some(&tip), &set.tree_id).await?
        else {
            let to = if is_base { String::new() } else { format!(" --to {branch}") };
            return refused(
                format!("nothing of {} conflicts with {branch}", SessionId(session_id)),
                format!("apply it: millhand apply {}{to}", SessionId(session_id)),
            );
        };
        let told: Vec<_> =
            conflicts.iter().map(|conflict| (conflict.path.as_str(), conflict.message.as_str())).collect();
        Ok(ConflictPrompt {
            prompt: conflict_prompt(&branch, &tip, &told, more),
            key: format!("conflict-s{session_id}-c{}-{tip}", set.id),
            merge_commit: tip,
            merge_branch: (!is_base).then_some(branch),
        })
    }
}

/// Which change sets meet.
struct Met {
    /// By place: it could conflict with another.
    could: Vec<bool>,
    /// Those that do.
    pairs: Vec<(usize, usize)>,
}
