//! Deciding about changes: which are open, which are meant, and rejecting them.

use std::collections::HashSet;

use super::{ActionError, Changes, Result, apply::refused, changes};
use crate::{
    git::Conflict,
    model::ids::{AnyId, SessionId},
    store::{
        Store,
        reads_turns::{ChangeSetRow, PendingChangeRow},
    },
};

/// As much of a hash as must be named: fewer digits may fit by chance.
const HASH_SHORTEST: usize = 8;

/// The open change set of a session or a task, to be decided about.
pub async fn open_changes(store: &Store, id: AnyId) -> Result<Changes> {
    let Some(found) = changes(store, id).await? else {
        return Err(ActionError::NotFound {
            what: "there is no change set yet".to_owned(),
            hint: "a turn that completes makes one; see: millhand ls".to_owned(),
        });
    };
    let session = found.set.session_id.map(SessionId);
    match (found.set.state.as_str(), session) {
        ("open", _) => Ok(found),
        ("superseded", Some(session)) => refused(
            "a later task of the session, or going back behind them, has superseded these changes",
            format!("look at the newest: millhand review {session}"),
        ),
        (state, _) => refused(format!("these changes are {state} already"), "the next turn makes a new change set"),
    }
}

/// The files that names mean: a file, or all in a folder.
pub(super) fn chosen(changes: &Changes, only: &[String]) -> Result<Vec<usize>> {
    let is = |file: &PendingChangeRow, name: &str| {
        let name = name.trim_end_matches('/');
        let below = |path: &str| path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        below(&file.path) || file.old_path.as_deref().is_some_and(below)
    };
    for name in only {
        if !changes.files.iter().any(|file| is(file, name)) {
            return refused(format!("\"{name}\" is not among the changes"), "see: millhand diff --stat");
        }
    }
    let wanted = |file: &PendingChangeRow| only.is_empty() || only.iter().any(|name| is(file, name));
    let places = changes.files.iter().enumerate().filter(|(_, file)| file.state == "pending" && wanted(file));
    Ok(places.map(|(place, _)| place).collect())
}

/// Refuses changes that are not the ones that were seen: `expect` is their hash, or how it starts. Not given, nobody has seen any.
pub(super) fn held_against(set: &ChangeSetRow, expect: Option<&str>) -> Result<()> {
    match expect {
        Some(hash) if hash.len() < HASH_SHORTEST || !set.patch_sha256.starts_with(&hash.to_ascii_lowercase()) => {
            not_those(set)
        }
        Some(_) | None => Ok(()),
    }
}

/// They are not the ones that were seen.
pub(super) fn not_those<T>(set: &ChangeSetRow) -> Result<T> {
    let hint = format!("look at them again: millhand review; their hash is {}", set.patch_sha256);
    refused("the changes are not those that were looked at", hint)
}

/// Rejects pending files of the open change set; none given: all. With `expect`, only if that is its hash. Which files.
pub async fn reject_changes(
    store: &Store,
    id: AnyId,
    only: &[String],
    expect: Option<&str>,
    who: &str,
) -> Result<(ChangeSetRow, Vec<String>)> {
    let found = open_changes(store, id).await?;
    held_against(&found.set, expect)?;
    let places = chosen(&found, only)?;
    if places.is_empty() {
        return refused("there is nothing to reject", "its files are decided already");
    }
    let unique: HashSet<String> = places.iter().map(|place| found.files[*place].path.clone()).collect();
    let mut paths: Vec<String> = unique.into_iter().collect();
    paths.sort();
    // This change set and no other, and only if it is open still: one that a turn records meanwhile is not touched.
    store.reject_changes(found.set.id, (!only.is_empty()).then_some(paths.as_slice()), who).await?;
    let set = store.change_set_by_id(found.set.id).await?.unwrap_or(found.set);
    Ok((set, paths))
}

/// Conflicts in words, for those who take no list.
pub(super) fn conflicts_in_words(branch: &str, conflicts: &[Conflict]) -> String {
    let paths: Vec<_> = conflicts.iter().map(|conflict| conflict.path.as_str()).collect();
    format!("the changes conflict with {branch} in {}", paths.join(", "))
}
