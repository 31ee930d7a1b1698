//! Moving a session's worktree to another base: what the agent changed stays, on top of the new commit.
//!
//! The folder is the agent's, so git does not write there: the files that differ are checked out where no agent can write, and moved in one by one,
//! through no link. A kill in between leaves what the same call, made again, finishes.

use std::{
    ffi::OsStr,
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use git2::{Oid, Repository};
use rustix::fs::{AtFlags, Mode, RenameFlags, mkdirat, renameat_with, unlinkat};

use super::{
    Base, Git, GitError, Merged, Mirror, Worktree, apply, blocking,
    checkouts::{self, Difference},
    checkpoint::Lasting,
    diff::Change,
    error::{Context, PathContext},
    folder, mirror,
    patch::Side,
    session_refs::rebased,
    stat_cache::GITLINK,
    worktree::Place,
    write_whole,
};
use crate::model::apply::Taken;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rebased {
    /// The worktree is measured against the new commit.
    Yes,
    /// It stays as it was, and why.
    Stays(String),
}

impl Git {
    /// Moves a worktree to a new base, a commit with what was `taken` of its changes. The caller holds its gate, and knows that no turn runs
    /// in it.
    pub async fn rebase_worktree(
        &self,
        mirror: &Mirror,
        worktree: &Worktree,
        onto: &Base,
        taken: Option<&Taken>,
    ) -> Result<Rebased, GitError> {
        let place = Place::of(self, mirror, worktree.session_id);
        let Some(base) = place.read_marker() else {
            return Ok(Rebased::Stays("it has no worktree".to_owned()));
        };
        let worktree = place.worktree(&base);
        let reference = rebased(worktree.session_id);
        let message = format!("s{} before it moved to {}", worktree.session_id, onto.commit);
        let before = self.checkpoint_to(mirror, &worktree, reference.clone(), &message, Lasting::Written).await?;
        let from = match taken {
            Some(taken) => self.base_with(mirror, &base.commit, taken).await?,
            None => None,
        };
        let from = from.as_ref().unwrap_or(&base.commit);
        let after = match self.merge(mirror, from, Some(&onto.commit), &before.tree).await? {
            Merged::Clean(tree) => tree,
            Merged::Conflicts { conflicts, .. } => {
                let paths: Vec<_> = conflicts.into_iter().take(3).map(|conflict| conflict.path).collect();
                return Ok(Rebased::Stays(format!("what it has beside conflicts with it: {}", paths.join(", "))));
            }
        };
        if after != before.tree {
            let moved = self.write_difference(mirror, &place, &before.tree, &after).await?;
            if let Rebased::Stays(_) = moved {
                return Ok(moved);
            }
            // The index learns of what was written.
            self.checkpoint_to(mirror, &worktree, reference, &message, Lasting::Written).await?;
        }
        self.move_to(mirror, place, onto).await?;
        Ok(Rebased::Yes)
    }

    /// The worktree's files are on top of another base: the agent gets a repository that says so, and the marker comes last.
    pub(super) async fn move_to(&self, mirror: &Mirror, place: Place, onto: &Base) -> Result<(), GitError> {
        let (building, onto) = (self.building(), onto.clone());
        let index = self.index_of(mirror, &place, &onto.commit).await?;
        blocking(move || {
            place.keep_base(&onto)?;
            place.replace_agent_repository(&onto, &building, &index)?;
            write_whole(&place.meta.join("HEAD"), format!("{}\n", onto.commit).as_bytes())?;
            place.write_marker(&onto)
        })
        .await
    }

    /// An index for the agent's repository: the commit's, with what is known of the files' times, so that its `git status` is quick.
    async fn index_of(&self, mirror: &Mirror, place: &Place, commit: &str) -> Result<tempfile::TempPath, GitError> {
        let building = self.building();
        let index = tempfile::Builder::new().prefix("index-").tempfile_in(&building).on("create in", &building)?;
        let index = index.into_temp_path();
        fs::copy(place.meta.join("index"), &index).on("copy the index to", &*index)?;
        self.plain("make the agent's index")
            .git_dir(&mirror.path)
            // It wants one, and writes nothing into it.
            .work_tree(&self.scratch())
            .env("GIT_INDEX_FILE", &*index)
            .args(["read-tree", "-m", commit])
            .run()
            .await?;
        Ok(index)
    }

    /// Takes a worktree to the files of a checkpoint that was measured against `base`, on top of the base that it has now; what is not
    /// tracked in either stays. The caller holds its gate, and knows that no turn runs in it.
    pub async fn roll_back_worktree(
        &self,
        mirror: &Mirror,
        worktree: &Worktree,
        base: &str,
        tree: &str,
    ) -> Result<Rebased, GitError> {
        let place = Place::of(self, mirror, worktree.session_id);
        let Some(now) = place.read_marker() else {
            return Ok(Rebased::Stays("it has no worktree".to_owned()));
        };
        let worktree = place.worktree(&now);
        let after = match now.commit == base {
            true => tree.to_owned(),
            false => match self.merge(mirror, base, Some(&now.commit), tree).await? {
                Merged::Clean(tree) => tree,
                Merged::Conflicts { .. } => {
                    return Ok(Rebased::Stays(
                        "it has moved to a commit that conflicts with that checkpoint".to_owned(),
                    ));
                }
            },
        };
        let message = format!("s{} before it was rolled back", worktree.session_id);
        let before = match self.is_rolling_back(mirror, worktree.session_id).await? {
            // An earlier try has stopped half way: what was there before that is what is kept.
            true => rebased(worktree.session_id),
            false => rolling_back(worktree.session_id),
        };
        let before = self.checkpoint_to(mirror, &worktree, before, &message, Lasting::Written).await?;
        let moved = match after == before.tree {
            true => Rebased::Yes,
            false => self.write_difference(mirror, &place, &before.tree, &after).await?,
        };
        let reference = rebased(worktree.session_id);
        self.checkpoint_to(mirror, &worktree, reference, &message, Lasting::Written).await?;
        self.end_rolling_back(mirror, worktree.session_id).await?;
        Ok(moved)
    }

    async fn is_rolling_back(&self, mirror: &Mirror, session_id: i64) -> Result<bool, GitError> {
        let path = mirror.path.clone();
        blocking(move || Ok(mirror::open(&path)?.find_reference(&rolling_back(session_id)).is_ok())).await
    }

    async fn end_rolling_back(&self, mirror: &Mirror, session_id: i64) -> Result<(), GitError> {
        let path = mirror.path.clone();
        blocking(move || {
            let repository = mirror::open(&path)?;
            let kept = format!("refs/millhand/rolled-back/{session_id}");
            mirror::remove_stale_lock(&path.join(format!("{kept}.lock")))?;
            let mut found = repository.find_reference(&rolling_back(session_id)).doing("read what was there before")?;
            found.rename(&kept, true, "rolled back").doing("keep what was there before")?;
            Ok(())
        })
        .await
    }

    pub(super) async fn write_difference(
        &self,
        mirror: &Mirror,
        place: &Place,
        before: &str,
        after: &str,
    ) -> Result<Rebased, GitError> {
        let (path, top) = (mirror.path.clone(), place.path.clone());
        let (old, new) = (before.to_owned(), after.to_owned());
        let (differences, obstacle) = blocking(move || checkouts::compare(&path, Some(&old), &new, Some(&top))).await?;
        if let Some(path) = obstacle {
            return Ok(Rebased::Stays(format!("{} is in its way there", path.display())));
        }
        let staged = self.stage(mirror, after, &differences).await?;
        let lock = self.lock_session(place.session_id).await?;
        let place = place.clone();
        blocking(move || {
            let _lock = lock;
            let top = place.open()?;
            folder::unlock(&top).on("open", &place.path)?;
            for difference in &differences {
                move_in(&top, staged.path(), difference).on("write", &place.path)?;
            }
            Ok(Rebased::Yes)
        })
        .await
    }

    /// Checks the new files out where no agent can write: line ends and encodings as the tree's attributes say.
    async fn stage(
        &self,
        mirror: &Mirror,
        after: &str,
        differences: &[Difference],
    ) -> Result<tempfile::TempDir, GitError> {
        let building = self.building();
        let staged = tempfile::Builder::new().prefix("staged-").tempdir_in(&building).on("create in", &building)?;
        let files = staged.path().join("files");
        fs::create_dir(&files).on("create", &files)?;
        let tree = {
            let (path, after, differences) = (mirror.path.clone(), after.to_owned(), differences.to_vec());
            blocking(move || part_of(&mirror::open(&path)?, &after, &differences)).await?
        };
        self.plain("check out what has changed")
            .git_dir(&mirror.path)
            .work_tree(&files)
            .env("GIT_INDEX_FILE", staged.path().join("index"))
            .args(["read-tree", "--reset", "-u", &tree])
            .run()
            .await?;
        Ok(staged)
    }
}

/// The ref that keeps what was in a worktree until it is rolled back.
fn rolling_back(session_id: i64) -> String {
    format!("refs/millhand/rolling-back/{session_id}")
}

/// A tree with only those files of another that differ, and the attributes that hold for them.
fn part_of(repository: &Repository, tree: &str, differences: &[Difference]) -> Result<String, GitError> {
    let whole = repository.find_tree(Oid::from_str(tree).doing("read a tree")?).doing("read a tree")?;
    let side =
        |path: &[u8], (mode, id): (u32, Oid)| Change { old: None, new: Some(Side { path: path.to_owned(), mode, id }) };
    let mut parts: std::collections::BTreeMap<Vec<u8>, Change> = std::collections::BTreeMap::new();
    for difference in differences {
        let Some(new) = difference.new else { continue };
        parts.insert(difference.path.clone(), side(&difference.path, new));
        let ends = difference.path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at + 1);
        for end in std::iter::once(0).chain(ends) {
            let path = [&difference.path[..end], b".gitattributes"].concat();
            if parts.contains_key(&path) {
                continue;
            }
            if let Ok(entry) = whole.get_path(Path::new(OsStr::from_bytes(&path)))
                && entry.kind() == Some(git2::ObjectType::Blob)
            {
                let mode = u32::try_from(entry.filemode()).unwrap_or(0o100_644);
                parts.insert(path.clone(), side(&path, (mode, entry.id())));
            }
        }
    }
    let parts: Vec<_> = parts.into_values().collect();
    Ok(apply::with_changes(repository, None, &parts)?.to_string())
}

/// One path of the worktree, taken from the one tree to the other, through no link.
fn move_in(top: &OwnedFd, staged: &Path, difference: &Difference) -> std::io::Result<()> {
    let parts: Vec<&[u8]> = difference.path.split(|byte| *byte == b'/').collect();
    let Some((name, folders)) = parts.split_last() else { return Ok(()) };
    let Some((mode, _)) = difference.new else { return remove(top, name, folders) };
    let mut parent: OwnedFd = rustix::io::dup(top)?;
    for folder in folders {
        parent = match open_writable(&parent, folder) {
            Err(error) => match rustix::io::Errno::from_io_error(&error) {
                Some(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                    // A file or link that is in the way was tracked, and goes.
                    unlinkat(&parent, *folder, AtFlags::empty())?;
                    mkdirat(&parent, *folder, Mode::from_raw_mode(0o755))?;
                    folder::open_folder(&parent, folder)?
                }
                Some(rustix::io::Errno::NOENT) => {
                    mkdirat(&parent, *folder, Mode::from_raw_mode(0o755))?;
                    folder::open_folder(&parent, folder)?
                }
                _ => return Err(error),
            },
            Ok(next) => next,
        };
    }
    if folder::is_folder(&parent, OsStr::from_bytes(name)) {
        if mode == GITLINK {
            return Ok(());
        }
        folder::remove(parent.as_fd(), name)?;
    }
    if mode == GITLINK {
        return Ok(mkdirat(&parent, *name, Mode::from_raw_mode(0o755))?);
    }
    let from = staged.join("files").join(OsStr::from_bytes(&difference.path));
    Ok(renameat_with(rustix::fs::CWD, &from, &parent, *name, RenameFlags::empty())?)
}

/// Opens a folder that an agent may have closed to itself and to us.
fn open_writable(parent: &OwnedFd, name: &[u8]) -> std::io::Result<OwnedFd> {
    let folder = folder::open_even_if_closed(parent.as_fd(), name)?;
    folder::unlock(&folder)?;
    Ok(folder)
}

/// Removes a file, and the folders that are empty then.
fn remove(top: &OwnedFd, name: &[u8], folders: &[&[u8]]) -> std::io::Result<()> {
    let mut parents: Vec<OwnedFd> = vec![rustix::io::dup(top)?];
    for folder in folders {
        let last = &parents[parents.len() - 1];
        match open_writable(last, folder) {
            Ok(next) => parents.push(next),
            Err(error) => match rustix::io::Errno::from_io_error(&error) {
                // It is gone already, or something else has taken its place.
                Some(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => return Ok(()),
                _ => return Err(error),
            },
        }
    }
    match unlinkat(&parents[parents.len() - 1], name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        // A submodule's folder, or a folder that has taken the file's place.
        Err(rustix::io::Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    for (parent, folder) in parents.iter().zip(folders).rev() {
        if unlinkat(parent, *folder, AtFlags::REMOVEDIR).is_err() {
            break;
        }
    }
    Ok(())
}

impl Place {
    /// Gives the agent a repository on the new base; the one that it had is kept inside as `before-apply`. It is built before the old one is
    /// touched, and changes places with it: wherever this ends, the agent has one of them.
    fn replace_agent_repository(&self, base: &Base, building: &Path, index: &Path) -> Result<(), GitError> {
        let folder = self.open()?;
        let aside = self.build_agent_repository(base, building, index)?;
        let beside = aside.path().join("git");
        match renameat_with(rustix::fs::CWD, &beside, &folder, ".git", RenameFlags::EXCHANGE) {
            Ok(()) => {}
            Err(rustix::io::Errno::NOENT) => {
                return rustix::fs::renameat(rustix::fs::CWD, &beside, &folder, ".git")
                    .on("put the .git into", &self.path);
            }
            Err(error) => return Err(error).on("change the .git of", &self.path),
        }
        let kept = self.keep_inside(&folder, aside.path(), &beside);
        if kept.is_err() {
            renameat_with(rustix::fs::CWD, &beside, &folder, ".git", RenameFlags::EXCHANGE)
                .on("put back the .git of", &self.path)?;
        }
        kept
    }

    /// Puts the `.git` that the agent had into the one that it has now.
    fn keep_inside(&self, folder: &OwnedFd, aside: &Path, old: &Path) -> Result<(), GitError> {
        // One is enough: what an earlier apply kept goes.
        let aside = fs::File::open(aside).on("open", aside)?;
        if let Ok(old) = folder::open_folder(&aside, b"git") {
            folder::remove(old.as_fd(), b"before-apply").on("remove the older .git of", &self.path)?;
        }
        let new = folder::open_folder(folder, b".git").on("open the .git of", &self.path)?;
        rustix::fs::renameat(rustix::fs::CWD, old, &new, "before-apply").on("keep the .git of", &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agents_repository_that_cannot_be_replaced_stays() {
        let folder = tempfile::tempdir().expect("folder");
        let root = folder.path().canonicalize().expect("canonical");
        let source = Repository::init(root.join("acme")).expect("repository");
        let who = git2::Signature::now("Ada", "ada@example.org").expect("name");
        let tree = source.treebuilder(None).and_then(|tree| tree.write()).expect("tree");
        let tree = source.find_tree(tree).expect("tree");
        source.commit(Some("HEAD"), &who, &who, "first\n", &tree, &[]).expect("commit");
        let environment = vec![("PATH".into(), std::env::var_os("PATH").expect("PATH"))];
        let git = Git::new(None, environment, crate::config::Home::new(root.join("home"))).await.expect("git");
        let mirror = git.ensure_mirror(1, &root.join("acme").display().to_string(), None).await.expect("mirror");
        let base = git.resolve_base(&mirror, None).await.expect("base");
        let worktree = git.create_worktree(&mirror, 7, &base).await.expect("worktree");
        let own = worktree.path.join(".git/own");
        fs::write(&own, "the agent's\n").expect("write");
        let place = Place::of(&git, &mirror, 7);
        let failed = place.replace_agent_repository(&base, &git.building(), Path::new("/no/such/index"));
        assert!(failed.is_err());
        assert!(own.exists(), "it cannot be built, and the old one is there");
        place.replace_agent_repository(&base, &git.building(), &place.meta.join("index")).expect("replaced");
        assert!(!own.exists() && worktree.path.join(".git/before-apply/own").exists());
    }
}
