//! Taking what was approved: held against the mirror, merged with the target's tip in memory, made a commit. Nothing here writes
//! outside the mirror; [`land`](super::land) brings the commit to the user's repository, [`push`](super::push) to a remote.

use std::collections::{BTreeMap, HashSet};

use git2::{Oid, Repository};

use super::{
    Git, GitError, Mirror, blocking,
    diff::{self, Change},
    error::Context,
    mirror,
    store_object::{Objects, Proof},
    writable,
};
use crate::model::apply::{self, Taken};

const FOLDER: i32 = 0o040_000;

/// What a person approved.
#[derive(Clone, Debug)]
pub struct Approved {
    /// Commit that it is measured against.
    pub base_commit: String,
    /// The checkpoint.
    pub commit_id: String,
    /// Its tree.
    pub tree_id: String,
    /// The headers of each file's patch, in order, as the hash that was approved holds them.
    pub headers: Vec<Vec<u8>>,
    /// Which of the files are to be taken, by their places.
    pub chosen: Vec<usize>,
}

/// A path that two sides changed differently.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Conflict {
    /// The path; bytes that are not UTF-8 as U+FFFD.
    pub path: String,
    /// git's words on it.
    pub message: String,
}

/// What came of a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merged {
    /// The tree with both.
    Clean(String),
    /// They do not go together.
    Conflicts {
        /// Where, by path.
        conflicts: Vec<Conflict>,
        /// The tree with what does, and git's marks where it does not.
        marked: String,
    },
}

/// What a commit says.
#[derive(Clone, Debug)]
pub struct CommitText {
    /// Name and address; none: the user's own.
    pub author: Option<(String, String)>,
    /// The message.
    pub message: String,
    /// Sign it, as the user's configuration says how.
    pub sign: bool,
}

impl Git {
    /// The tree of what was chosen: those changes made to `onto`. Refused if the mirror does not hold exactly what was approved, or if
    /// it would write where nobody may.
    pub async fn chosen_tree(&self, mirror: &Mirror, approved: &Approved, onto: &str) -> Result<String, GitError> {
        let (path, approved, onto) = (mirror.path.clone(), approved.clone(), onto.to_owned());
        blocking(move || {
            let repository = mirror::open(&path)?;
            // On another host, or in another mirror, the same tree has a commit of another name.
            let commit = Oid::from_str(&approved.commit_id).and_then(|id| repository.find_commit(id));
            if commit.is_ok_and(|commit| commit.tree_id().to_string() != approved.tree_id) {
                return Err(GitError::refused("the checkpoint is not the one that was recorded"));
            }
            let changes = diff::changes(&repository, &approved.base_commit, &approved.tree_id)?;
            // What is too large for a patch has no headers, and cannot be chosen.
            let is_same = |place: usize, change: &Change| {
                let headers = &approved.headers[place];
                *headers == change.headers() || (headers.is_empty() && !approved.chosen.contains(&place))
            };
            let same = changes.len() == approved.headers.len()
                && changes.iter().enumerate().all(|(place, change)| is_same(place, change));
            if !same {
                return Err(GitError::refused("the checkpoint holds other changes than those that were recorded"));
            }
            if approved.chosen.len() == changes.len() {
                changes.iter().try_for_each(|change| writable::check(&repository, change))?;
                return Ok(approved.tree_id);
            }
            let chosen = pick(changes, &approved.chosen);
            chosen.iter().try_for_each(|change| writable::check(&repository, change))?;
            Ok(with_changes(&repository, Some(&onto), &chosen)?.to_string())
        })
        .await
    }

    /// Merges a tree that was made from `base` with a commit, in memory. Without a commit there is nothing to merge with.
    pub async fn merge(
        &self,
        mirror: &Mirror,
        base: &str,
        ours: Option<&str>,
        theirs: &str,
    ) -> Result<Merged, GitError> {
        let Some(ours) = ours else { return Ok(Merged::Clean(theirs.to_owned())) };
        let work = {
            let (path, base, ours, theirs) = (mirror.path.clone(), base.to_owned(), ours.to_owned(), theirs.to_owned());
            move || short_cut(&path, &base, &ours, &theirs)
        };
        let theirs_commit = match blocking(work).await? {
            ShortCut::Tree(tree) => return Ok(Merged::Clean(tree)),
            ShortCut::Merge(commit) => commit,
        };
        let what = "merge the changes";
        let ended = self
            .plain(what)
            .git_dir(&mirror.path)
            // The attributes of the branch that is merged into: what an agent wrote does not say how it is merged.
            .arg(format!("--attr-source={ours}"))
            .args(["merge-tree", "--write-tree", "--messages", "--name-only", "-z"])
            .arg(format!("--merge-base={base}"))
            .args([ours, &theirs_commit])
            .run_to_end()
            .await?;
        match ended.status {
            Some(0) => Ok(Merged::Clean(field(&ended.stdout).0.to_owned())),
            Some(1) => {
                Ok(Merged::Conflicts { conflicts: conflicts(&ended.stdout), marked: field(&ended.stdout).0.to_owned() })
            }
            _ => Err(ended.failure(what)),
        }
    }

    /// What a tree that was made from `base` is merged from, after an earlier apply has brought some of it to the target: a commit of `base`
    /// with what was taken then, so that what has changed since does not conflict with it. None if that is not to be had.
    pub async fn base_with(&self, mirror: &Mirror, base: &str, taken: &Taken) -> Result<Option<String>, GitError> {
        let is_known = {
            let (path, taken) = (mirror.path.clone(), taken.clone());
            blocking(move || {
                let repository = mirror::open(&path)?;
                let base = Oid::from_str(&taken.base_commit).and_then(|id| repository.find_commit(id));
                let tree = Oid::from_str(&taken.tree_id).and_then(|id| repository.find_tree(id));
                Ok(base.is_ok() && tree.is_ok())
            })
            .await?
        };
        if !is_known {
            return Ok(None);
        }
        let tree = match self.merge(mirror, &taken.base_commit, Some(base), &taken.tree_id).await? {
            Merged::Clean(tree) => tree,
            Merged::Conflicts { .. } => return Ok(None),
        };
        Ok(Some(self.merging_commit(mirror, &tree, base).await?))
    }

    /// A commit of a tree on top of another commit, for merges only: nothing refers to it.
    pub async fn merging_commit(&self, mirror: &Mirror, tree: &str, parent: &str) -> Result<String, GitError> {
        let (path, tree, parent) = (mirror.path.clone(), tree.to_owned(), parent.to_owned());
        blocking(move || {
            let repository = mirror::open(&path)?;
            let made = Oid::from_str(&tree).and_then(|tree| to_merge(&repository, tree, &parent));
            Ok(made.doing("make a commit to merge with")?.to_string())
        })
        .await
    }

    /// A tree with some of the changes between a base and a tree, by their places, made to `onto`.
    pub async fn tree_with_some(
        &self,
        mirror: &Mirror,
        base: &str,
        tree: &str,
        chosen: &[usize],
        onto: &str,
    ) -> Result<String, GitError> {
        let path = mirror.path.clone();
        let (base, tree, onto, chosen) = (base.to_owned(), tree.to_owned(), onto.to_owned(), chosen.to_vec());
        blocking(move || {
            let repository = mirror::open(&path)?;
            let changes = diff::changes(&repository, &base, &tree)?;
            Ok(with_changes(&repository, Some(&onto), &pick(changes, &chosen))?.to_string())
        })
        .await
    }

    /// The tree of a commit.
    pub async fn tree_of(&self, mirror: &Mirror, commit: &str) -> Result<String, GitError> {
        let (path, commit) = (mirror.path.clone(), commit.to_owned());
        blocking(move || {
            let repository = mirror::open(&path)?;
            let found = Oid::from_str(&commit).and_then(|id| repository.find_commit(id));
            Ok(found.doing("read a commit")?.tree_id().to_string())
        })
        .await
    }

    /// The commit that a new branch starts from: the base, unless that is no commit of the project's.
    pub async fn start_of(&self, mirror: &Mirror, base: &str) -> Result<Option<String>, GitError> {
        let (path, base) = (mirror.path.clone(), base.to_owned());
        blocking(move || {
            let unborn = mirror::unborn_base(&mirror::open(&path)?, String::new())?;
            Ok((unborn.commit != base).then_some(base))
        })
        .await
    }

    /// Makes a commit in the mirror, kept from being pruned by `refs/millhand/applying/<key>`.
    pub async fn commit_change(
        &self,
        mirror: &Mirror,
        key: i64,
        tree: &str,
        parent: Option<&str>,
        text: &CommitText,
    ) -> Result<String, GitError> {
        let ours = {
            let path = mirror.path.clone();
            blocking(move || user_of(&path)).await?
        };
        let (name, address) = text.author.as_ref().unwrap_or(&ours);
        let command = if text.sign { self.as_user("sign the commit") } else { self.plain("make the commit") };
        let made = command
            .git_dir(&mirror.path)
            .env("GIT_AUTHOR_NAME", name)
            .env("GIT_AUTHOR_EMAIL", address)
            .env("GIT_COMMITTER_NAME", &ours.0)
            .env("GIT_COMMITTER_EMAIL", &ours.1)
            .args(["commit-tree", tree, "-m", &text.message])
            .args(text.sign.then_some("-S"))
            .args(parent.iter().flat_map(|parent| ["-p", parent]))
            .run()
            .await?;
        let commit = String::from_utf8_lossy(&made).trim().to_owned();
        let (path, id, reference) = (mirror.path.clone(), commit.clone(), applying(key));
        blocking(move || {
            let repository = mirror::open(&path)?;
            let id = Oid::from_str(&id).doing("read the commit")?;
            mirror::remove_stale_lock(&path.join(format!("{reference}.lock")))?;
            repository.reference(&reference, id, true, "being applied").doing("keep the commit")?;
            Ok(())
        })
        .await?;
        Ok(commit)
    }

    /// Lets go of what [`commit_change`](Self::commit_change) kept.
    pub async fn forget_change(&self, mirror: &Mirror, key: i64) -> Result<(), GitError> {
        let path = mirror.path.clone();
        blocking(move || {
            let repository = mirror::open(&path)?;
            match repository.find_reference(&applying(key)) {
                Ok(mut found) => found.delete().doing("let go of the commit"),
                Err(_) => Ok(()),
            }
        })
        .await
    }

    /// The tip of a branch as the mirror knows it; none if there is no such branch.
    pub async fn mirrored_tip(&self, mirror: &Mirror, branch: &str) -> Result<Option<String>, GitError> {
        let (path, name) = (mirror.path.clone(), format!("refs/mirror/heads/{branch}"));
        blocking(move || {
            let repository = mirror::open(&path)?;
            let found = repository.find_reference(&name).and_then(|found| found.peel_to_commit());
            Ok(found.ok().map(|commit| commit.id().to_string()))
        })
        .await
    }

    /// Whether one commit is in the history of another, as far as the mirror knows.
    pub async fn is_in_history(&self, mirror: &Mirror, commit: &str, tip: &str) -> Result<bool, GitError> {
        let (path, commit, tip) = (mirror.path.clone(), commit.to_owned(), tip.to_owned());
        blocking(move || {
            let repository = mirror::open(&path)?;
            let ids = Oid::from_str(&commit).and_then(|commit| Ok((commit, Oid::from_str(&tip)?)));
            let (commit, tip) = ids.doing("read a commit")?;
            Ok(commit == tip || repository.graph_descendant_of(tip, commit).unwrap_or(false))
        })
        .await
    }

    /// Whether git takes this for the name of a branch.
    pub fn is_branch_name(name: &str) -> bool {
        git2::Reference::is_valid_name(&format!("refs/heads/{name}")) && !name.starts_with('-') && name != "HEAD"
    }
}

/// Those at these places.
fn pick(changes: Vec<Change>, chosen: &[usize]) -> Vec<Change> {
    let chosen: HashSet<usize> = chosen.iter().copied().collect();
    let picked = changes.into_iter().enumerate().filter(|(place, _)| chosen.contains(place));
    picked.map(|(_, change)| change).collect()
}

/// The ref in the mirror that holds a commit until it has landed.
pub(super) fn applying(key: i64) -> String {
    format!("refs/millhand/applying/{key}")
}

/// The user's name and address, as they were when the mirror was last fetched.
fn user_of(mirror: &std::path::Path) -> Result<(String, String), GitError> {
    let config = git2::Config::open(&mirror.join("config")).doing("read the mirror's configuration")?;
    let value = |name: &str, other: &str| config.get_string(name).unwrap_or_else(|_| other.to_owned());
    Ok((value("millhand.userName", "Millhand"), value("millhand.userEmail", "millhand@localhost")))
}

enum ShortCut {
    /// Nothing to merge: this is it.
    Tree(String),
    /// A commit of theirs, to be merged.
    Merge(String),
}

/// Only one side has changed: the result is the other, byte for byte.
fn short_cut(path: &std::path::Path, base: &str, ours: &str, theirs: &str) -> Result<ShortCut, GitError> {
    let repository = mirror::open(path)?;
    let read = |id: &str| repository.find_commit(Oid::from_str(id)?);
    let base = read(base).doing("read the base")?;
    let (ours, theirs) = (read(ours).doing("read the target")?.tree_id(), Oid::from_str(theirs).doing("read a tree")?);
    if ours == base.tree_id() || ours == theirs {
        return Ok(ShortCut::Tree(theirs.to_string()));
    }
    if theirs == base.tree_id() {
        return Ok(ShortCut::Tree(ours.to_string()));
    }
    let made = to_merge(&repository, theirs, &base.id().to_string()).doing("make a commit to merge")?;
    Ok(ShortCut::Merge(made.to_string()))
}

/// A commit for git to merge, which nothing refers to; the same one each time.
fn to_merge(repository: &Repository, tree: Oid, base: &str) -> Result<Oid, git2::Error> {
    let base = repository.find_commit(Oid::from_str(base)?)?;
    let who = git2::Signature::new("Millhand", "millhand@localhost", &git2::Time::new(0, 0))?;
    repository.commit(None, &who, &who, "to be merged\n", &repository.find_tree(tree)?, &[&base])
}

/// A field and what follows it.
fn field(text: &[u8]) -> (&str, &[u8]) {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    (std::str::from_utf8(&text[..end]).unwrap_or_default(), text.get(end + 1..).unwrap_or_default())
}

/// Reads what `merge-tree -z --name-only --messages` says: tree, paths, an empty field, then messages.
fn conflicts(output: &[u8]) -> Vec<Conflict> {
    let mut fields = output.split(|byte| *byte == 0).skip(1).map(|field| String::from_utf8_lossy(field).into_owned());
    let mut found: BTreeMap<String, String> =
        fields.by_ref().take_while(|path| !path.is_empty()).map(|path| (path, String::new())).collect();
    while let Some(count) = fields.next().and_then(|count| count.parse::<usize>().ok()) {
        let paths: Vec<_> = fields.by_ref().take(count).collect();
        let (kind, message) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        if !kind.starts_with("CONFLICT") && kind != "Auto-merging" {
            continue;
        }
        for path in paths {
            if let Some(known) = found.get_mut(&path)
                && kind != "Auto-merging"
            {
                message.trim().clone_into(known);
            }
        }
    }
    found.into_iter().map(|(path, message)| Conflict { path, message }).collect()
}

/// A tree with changes made to it.
pub(super) fn with_changes(repository: &Repository, base: Option<&str>, changes: &[Change]) -> Result<Oid, GitError> {
    let mut edits: BTreeMap<&[u8], Edit> = BTreeMap::new();
    for change in changes {
        if let Some(old) = &change.old {
            edits.entry(&old.path).or_default().remove = true;
        }
        if let Some(new) = &change.new {
            edits.entry(&new.path).or_default().put = Some((new.mode, new.id));
        }
    }
    let edits: Vec<_> = edits.into_iter().collect();
    let tree = base.map(|base| repository.find_object(Oid::from_str(base)?, None)?.peel_to_tree());
    let tree = tree.transpose().doing("read the base")?.map(|tree| tree.id());
    let objects = Objects::of(repository, Proof::Name)?;
    match edited(repository, &objects, tree, &edits)? {
        Some(tree) => Ok(tree),
        None => objects.put_tree(&[]),
    }
}

/// What becomes of a path.
#[derive(Clone, Copy, Debug, Default)]
struct Edit {
    remove: bool,
    put: Option<(u32, Oid)>,
}

fn edited(
    repository: &Repository,
    objects: &Objects<'_>,
    tree: Option<Oid>,
    edits: &[(&[u8], Edit)],
) -> Result<Option<Oid>, GitError> {
    let mut entries: BTreeMap<Vec<u8>, (i32, Oid)> = BTreeMap::new();
    if let Some(tree) = tree {
        let tree = repository.find_tree(tree).doing("read a folder")?;
        entries.extend(tree.iter().map(|entry| (entry.name_bytes().to_owned(), (entry.filemode_raw(), entry.id()))));
    }
    let mut below: BTreeMap<&[u8], Vec<(&[u8], Edit)>> = BTreeMap::new();
    for (path, edit) in edits {
        match path.iter().position(|byte| *byte == b'/') {
            Some(slash) => below.entry(&path[..slash]).or_default().push((&path[slash + 1..], *edit)),
            None if edit.remove && entries.get(*path).is_some_and(|(mode, _)| *mode != FOLDER) => {
                entries.remove(*path);
            }
            None => {}
        }
    }
    for (name, edits) in below {
        let inner = match entries.get(name) {
            Some((FOLDER, id)) => Some(*id),
            Some(_) if edits.iter().any(|(_, edit)| edit.put.is_some()) => return Err(stands_in_the_way(name)),
            Some(_) => continue,
            None => None,
        };
        match edited(repository, objects, inner, &edits)? {
            Some(id) => entries.insert(name.to_owned(), (FOLDER, id)),
            None => entries.remove(name),
        };
    }
    for (path, edit) in edits.iter().filter(|(path, _)| !path.contains(&b'/')) {
        let Some((mode, id)) = edit.put else { continue };
        if entries.get(*path).is_some_and(|(mode, _)| *mode == FOLDER) {
            return Err(stands_in_the_way(path));
        }
        entries.insert((*path).to_owned(), (i32::try_from(mode).unwrap_or_default(), id));
    }
    if entries.is_empty() {
        return Ok(None);
    }
    let mut sorted: Vec<_> =
        entries.into_iter().map(|(name, (mode, id))| (name, u32::try_from(mode).unwrap_or_default(), id)).collect();
    // A folder sorts as if its name ended in a slash.
    sorted.sort_by_cached_key(|(name, mode, _)| {
        let mut key = name.clone();
        key.extend((*mode == FOLDER.unsigned_abs()).then_some(b'/'));
        key
    });
    Ok(Some(objects.put_tree(&sorted)?))
}

fn stands_in_the_way(name: &[u8]) -> GitError {
    let name = name.escape_ascii();
    GitError::refused(format!("{name} is a file on the one side and a folder on the other: take both changes together"))
}

/// A link for opening a pull request of a branch, if the remote's host is known.
pub(super) fn pull_request(remote: &str, branch: &str) -> Option<String> {
    apply::pull_request_link(remote, branch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_are_read_with_gits_words() {
        let output = b"0123\0a.txt\0b\0\x001\0a.txt\0Auto-merging\0Auto-merging a.txt\n\x001\0a.txt\0CONFLICT (contents)\0CONFLICT (content): Merge conflict in a.txt\n\x002\0b\0c\0CONFLICT (modify/delete)\0b deleted\n\0";
        let found = conflicts(output);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].path.as_str(), found[0].message.as_str()),
            ("a.txt", "CONFLICT (content): Merge conflict in a.txt")
        );
        assert_eq!(found[1].message, "b deleted");
    }
}
