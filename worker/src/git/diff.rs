//! The change set: base tree against checkpoint tree, as files with patches.
//!
//! The patches, one after another, are what `git apply --index --binary` takes on the base, and give exactly the checkpoint's tree.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use git2::{Delta, DiffDelta, DiffFile, DiffFindOptions, DiffOptions, FileMode, Oid, Repository};
use sha2::{Digest, Sha256};

use super::{
    Checkpoint, Git, GitError, Mirror, blocking,
    error::Context,
    flags, mirror,
    patch::{self, Part, Side},
    stat_cache::GITLINK,
};
use crate::model::change::{ChangeKind, ChangeSet, FileChange};

/// Above this many pairs of added and deleted files, only identical content counts as a rename.
const RENAME_PAIRS: usize = 250_000;

/// Below this, threads cost more than they save.
const RENDER_ALONE_UP_TO: usize = 200;
/// Other turns run beside this one.
const MOST_THREADS: usize = 4;

impl Git {
    /// Measures a checkpoint against a base commit.
    pub async fn diff(
        &self,
        mirror: &Mirror,
        base_commit: &str,
        checkpoint: &Checkpoint,
    ) -> Result<ChangeSet, GitError> {
        let (path, base, checkpoint) = (mirror.path.clone(), base_commit.to_owned(), checkpoint.clone());
        blocking(move || change_set(&path, base, checkpoint)).await
    }
}

impl Git {
    /// Measures a tree against another.
    pub async fn compare_trees(&self, mirror: &Mirror, from: &str, to: &str) -> Result<Vec<FileChange>, GitError> {
        let (path, from, to) = (mirror.path.clone(), from.to_owned(), to.to_owned());
        blocking(move || {
            let repository = mirror::open(&path)?;
            let changes = changes(&repository, &from, &to)?;
            render_all(&path, &repository, changes, &mut Vec::new())
        })
        .await
    }
}

fn change_set(mirror: &Path, base_commit: String, checkpoint: Checkpoint) -> Result<ChangeSet, GitError> {
    let repository = mirror::open(mirror)?;
    let changes = changes(&repository, &base_commit, &checkpoint.tree)?;
    let flagged: HashMap<&[u8], &'static str> =
        checkpoint.flagged.iter().map(|(path, flag)| (path.as_slice(), *flag)).collect();
    let mut notes = checkpoint.notes;
    let mut files = Vec::with_capacity(changes.len());
    let mut hash = Sha256::new();
    for mut file in render_all(mirror, &repository, changes, &mut notes)? {
        if let Some(flag) = flagged.get(file.path.as_slice()) {
            file.flags.push((*flag).to_owned());
        }
        hash.update(&file.patch);
        files.push(file);
    }
    if files.iter().any(|file| file.flags.iter().any(|flag| flag == "ignore_rules")) {
        notes.push("ignore rules changed: files that they hide are not in the change set".to_owned());
    }
    Ok(ChangeSet {
        base_commit,
        commit_id: checkpoint.commit,
        tree_id: checkpoint.tree,
        patch_sha256: hash.finalize().into(),
        files,
        notes,
    })
}

/// Renders the changes in order; many of them on all cores, each with a handle of its own to the mirror.
fn render_all(
    mirror: &Path,
    repository: &Repository,
    changes: Vec<Change>,
    notes: &mut Vec<String>,
) -> Result<Vec<FileChange>, GitError> {
    if changes.len() <= RENDER_ALONE_UP_TO {
        return changes.into_iter().map(|change| change.render(repository, notes)).collect();
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let size = changes.len().div_ceil(threads);
    let mut chunks: Vec<Vec<Change>> = Vec::with_capacity(threads);
    let mut rest = changes.into_iter().peekable();
    while rest.peek().is_some() {
        chunks.push(rest.by_ref().take(size).collect());
    }
    let render = |chunk: Vec<Change>| -> Result<_, GitError> {
        let (repository, mut notes) = (mirror::open(mirror)?, Vec::new());
        let files: Result<Vec<_>, _> = chunk.into_iter().map(|change| change.render(&repository, &mut notes)).collect();
        Ok((files?, notes))
    };
    let rendered: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = chunks.into_iter().map(|chunk| scope.spawn(|| render(chunk))).collect();
        running.into_iter().map(|thread| thread.join()).collect()
    });
    let mut files = Vec::new();
    for part in rendered {
        let (some, more) = part.map_err(|_| GitError::Interrupted("a diff thread panicked".to_owned()))??;
        files.extend(some);
        notes.extend(more);
    }
    Ok(files)
}

/// One path's change; a rename has two paths.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) old: Option<Side>,
    pub(super) new: Option<Side>,
}

/// All that differs between a base and a tree, in the order of the patch.
pub(super) fn changes(repository: &Repository, base: &str, tree: &str) -> Result<Vec<Change>, GitError> {
    let tree_of = |id: &str| repository.find_object(Oid::from_str(id)?, None)?.peel_to_tree();
    let (before, after) = (tree_of(base).doing("read the base")?, tree_of(tree).doing("read the checkpoint")?);
    let mut options = DiffOptions::new();
    options.ignore_submodules(false);
    let mut diff =
        repository.diff_tree_to_tree(Some(&before), Some(&after), Some(&mut options)).doing("compare with the base")?;
    let count = |kind| diff.deltas().filter(|delta| delta.status() == kind).count();
    let (added, deleted) = (count(Delta::Added), count(Delta::Deleted));
    if added > 0 && deleted > 0 {
        let mut find = DiffFindOptions::new();
        find.renames(true).exact_match_only(added.saturating_mul(deleted) > RENAME_PAIRS).rename_limit(1000);
        diff.find_similar(Some(&mut find)).doing("look for renames")?;
    }
    Ok(join(diff.deltas().map(|delta| Change::of(&delta)).collect()))
}

/// Brings the two halves of a type change together, and takes renames apart that `git apply` would read otherwise: those from or to a
/// path that is also on the other side.
fn join(changes: Vec<Change>) -> Vec<Change> {
    let mut seen_old: HashSet<Vec<u8>> = HashSet::new();
    let mut seen_new: HashSet<Vec<u8>> = HashSet::new();
    let mut twice: HashSet<Vec<u8>> = HashSet::new();
    for change in &changes {
        if let Some(old) = &change.old
            && !seen_old.insert(old.path.clone())
        {
            twice.insert(old.path.clone());
        }
        if let Some(new) = &change.new
            && !seen_new.insert(new.path.clone())
        {
            twice.insert(new.path.clone());
        }
    }
    // By path: what was there, what is there.
    let mut by_path: BTreeMap<Vec<u8>, Change> = BTreeMap::new();
    let mut renames = Vec::new();
    for change in changes {
        let is_rename = matches!((&change.old, &change.new), (Some(old), Some(new)) if old.path != new.path);
        let is_clean = match (&change.old, &change.new) {
            (Some(old), Some(new)) => {
                !seen_new.contains(&old.path)
                    && !seen_old.contains(&new.path)
                    && !twice.contains(&old.path)
                    && !twice.contains(&new.path)
                    && !is_below(&old.path, &new.path)
                    && !is_below(&new.path, &old.path)
            }
            _ => false,
        };
        if is_rename && is_clean {
            renames.push(change);
            continue;
        }
        if let Some(old) = change.old {
            let path = old.path.clone();
            by_path.entry(path).or_insert(Change { old: None, new: None }).old = Some(old);
        }
        if let Some(new) = change.new {
            let path = new.path.clone();
            by_path.entry(path).or_insert(Change { old: None, new: None }).new = Some(new);
        }
    }
    let mut all: Vec<Change> = by_path.into_values().chain(renames).collect();
    // libgit2 lists a submodule that stayed the same as deleted and added.
    all.retain(|change| change.old != change.new);
    all.sort_by(|a, b| a.path().cmp(b.path()));
    all
}

fn is_below(long: &[u8], short: &[u8]) -> bool {
    long.strip_prefix(short).is_some_and(|rest| rest.starts_with(b"/"))
}

/// What kind of thing a mode is: file, link or submodule.
fn type_of(mode: u32) -> u32 {
    mode & 0o170_000
}

impl Change {
    fn of(delta: &DiffDelta<'_>) -> Self {
        let side = |file: DiffFile<'_>| {
            let mode = u32::from(file.mode());
            let exists = file.mode() != FileMode::Unreadable && file.exists() && mode != 0;
            exists.then(|| Side { path: file.path_bytes().unwrap_or_default().to_owned(), mode, id: file.id() })
        };
        match delta.status() {
            Delta::Added => Self { old: None, new: side(delta.new_file()) },
            Delta::Deleted => Self { old: side(delta.old_file()), new: None },
            _ => Self { old: side(delta.old_file()), new: side(delta.new_file()) },
        }
    }

    /// Path now, or the path that is gone.
    pub(super) fn path(&self) -> &[u8] {
        self.new.as_ref().or(self.old.as_ref()).map_or(b"", |side| &side.path)
    }

    fn kind(&self) -> ChangeKind {
        match (&self.old, &self.new) {
            (None, _) => ChangeKind::Added,
            (_, None) => ChangeKind::Deleted,
            (Some(old), Some(new)) if old.path != new.path => ChangeKind::Renamed,
            (Some(old), Some(new)) if type_of(old.mode) != type_of(new.mode) => ChangeKind::TypeChanged,
            _ => ChangeKind::Modified,
        }
    }

    /// The headers that its patch has, which name both blobs.
    pub(super) fn headers(&self) -> Vec<u8> {
        let (old, new) = (self.old.as_ref(), self.new.as_ref());
        match self.kind() {
            ChangeKind::TypeChanged => [patch::header(old, None), patch::header(None, new)].concat(),
            _ => patch::header(old, new),
        }
    }

    fn render(self, repository: &Repository, notes: &mut Vec<String>) -> Result<FileChange, GitError> {
        let kind = self.kind();
        let (old, new) = (self.old.as_ref(), self.new.as_ref());
        let part = match kind {
            // git writes a type change as a deletion and a creation.
            ChangeKind::TypeChanged => {
                match (patch::render(repository, old, None)?, patch::render(repository, None, new)?) {
                    (Some(first), Some(second)) => Some(Part {
                        bytes: [first.bytes, second.bytes].concat(),
                        is_binary: first.is_binary || second.is_binary,
                        additions: second.additions,
                        deletions: first.deletions,
                        is_lfs: first.is_lfs || second.is_lfs,
                    }),
                    _ => None,
                }
            }
            _ => patch::render(repository, old, new)?,
        };
        let mut flags = self.flags();
        let part = part.unwrap_or_else(|| {
            flags.push("too_large".to_owned());
            let limit = patch::PATCH_UP_TO >> 20;
            notes.push(format!(
                "above {limit} MB, so not in the patch, only in the checkpoint: {}",
                self.path().escape_ascii()
            ));
            Part { bytes: Vec::new(), is_binary: true, additions: 0, deletions: 0, is_lfs: false }
        });
        flags.extend(part.is_lfs.then(|| "lfs".to_owned()));
        let unresolved = !part.is_binary && flags::adds_conflict_markers(&part.bytes);
        flags.extend(unresolved.then(|| "conflict_markers".to_owned()));
        let mode = |side: Option<&Side>| side.and_then(|side| i32::try_from(side.mode).ok()).unwrap_or(0);
        let count = |lines: usize| i32::try_from(lines).unwrap_or(i32::MAX);
        Ok(FileChange {
            path: self.path().to_owned(),
            old_path: (kind == ChangeKind::Renamed).then(|| old.map(|side| side.path.clone())).flatten(),
            kind,
            old_mode: mode(old),
            new_mode: mode(new),
            old_blob: old.map(|side| side.id.to_string()),
            new_blob: new.map(|side| side.id.to_string()),
            is_binary: part.is_binary,
            flags,
            additions: count(part.additions),
            deletions: count(part.deletions),
            patch: part.bytes,
        })
    }

    fn flags(&self) -> Vec<String> {
        let sides = || [self.old.as_ref(), self.new.as_ref()].into_iter().flatten();
        let is_executable = |mode: u32| mode == 0o100_755;
        let becomes_executable = self.new.as_ref().is_some_and(|new| is_executable(new.mode))
            && !self.old.as_ref().is_some_and(|old| is_executable(old.mode));
        [
            ("executes", becomes_executable || sides().any(|side| flags::executes(&side.path))),
            ("ignore_rules", sides().any(|side| flags::is_ignore_rules(&side.path))),
            ("submodule", sides().any(|side| side.mode == GITLINK || side.path == b".gitmodules")),
        ]
        .into_iter()
        .filter(|(_, holds)| *holds)
        .map(|(flag, _)| flag.to_owned())
        .collect()
    }
}
