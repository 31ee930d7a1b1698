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
    stat_cache::GITLINK,
    worktree::Place,
    write_whole,
};

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rebased {
    /// The worktree is measured against the new commit.
    Yes,
    /// It stays as it was, and why.
    Stays(String),
}

impl Git {
    /// Moves a worktree to a new base. The caller holds its gate, and knows that no turn runs in it.
    pub async fn rebase_worktree(
        &self,
        mirror: &Mirror,
        worktree: &Worktree,
        onto: &Base,
    ) -> Result<Rebased, GitError> {
        let place = Place::of(self, mirror, worktree.session_id);
        let Some(base) = place.read_marker() else {
            return Ok(Rebased::Stays("it has no worktree".to_owned()));
        };
        let worktree = place.worktree(&base);
        let reference = format!("refs/millhand/rebased/{}", worktree.session_id);
        let message = format!("s{} before it moved to {}", worktree.session_id, onto.commit);
        let before = self.checkpoint_to(mirror, &worktree, reference.clone(), &message, Lasting::Written).await?;
        let after = match self.merge(mirror, &base.commit, Some(&onto.commit), &before.tree).await? {
            Merged::Clean(tree) => tree,
            Merged::Conflicts(conflicts) => {
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
        let (building, onto) = (self.building(), onto.clone());
        let index = self.index_of(mirror, &place, &onto.commit).await?;
        blocking(move || {
            place.keep_base(&onto)?;
            place.replace_agent_repository(&onto, &building, &index)?;
            write_whole(&place.meta.join("HEAD"), format!("{}\n", onto.commit).as_bytes())?;
            place.write_marker(&onto)
        })
        .await?;
        Ok(Rebased::Yes)
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
                Merged::Conflicts(_) => {
                    return Ok(Rebased::Stays(
                        "it has moved to a commit that conflicts with that checkpoint".to_owned(),
                    ));
                }
            },
        };
        let reference = format!("refs/millhand/rolled-back/{}", worktree.session_id);
        let message = format!("s{} before it was rolled back", worktree.session_id);
        let before = self.checkpoint_to(mirror, &worktree, reference, &message, Lasting::Written).await?;
        if after == before.tree {
            return Ok(Rebased::Yes);
        }
        let moved = self.write_difference(mirror, &place, &before.tree, &after).await?;
        let reference = format!("refs/millhand/rebased/{}", worktree.session_id);
        self.checkpoint_to(mirror, &worktree, reference, &message, Lasting::Written).await?;
        Ok(moved)
    }

    async fn write_difference(
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
        parent = match folder::open_folder(&parent, folder) {
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                // A file or link that is in the way was tracked, and goes.
                unlinkat(&parent, *folder, AtFlags::empty())?;
                mkdirat(&parent, *folder, Mode::from_raw_mode(0o755))?;
                folder::open_folder(&parent, folder)?
            }
            Err(rustix::io::Errno::NOENT) => {
                mkdirat(&parent, *folder, Mode::from_raw_mode(0o755))?;
                folder::open_folder(&parent, folder)?
            }
            other => other?,
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

/// Removes a file, and the folders that are empty then.
fn remove(top: &OwnedFd, name: &[u8], folders: &[&[u8]]) -> std::io::Result<()> {
    let mut parents: Vec<OwnedFd> = vec![rustix::io::dup(top)?];
    for folder in folders {
        let last = &parents[parents.len() - 1];
        match folder::open_folder(last, folder) {
            Ok(next) => parents.push(next),
            // It is gone already, or something else has taken its place.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => return Ok(()),
            Err(error) => return Err(error.into()),
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
    /// Gives the agent a repository on the new base; the one that it had is kept inside as `before-apply`.
    fn replace_agent_repository(&self, base: &Base, building: &Path, index: &Path) -> Result<(), GitError> {
        let folder = self.open()?;
        let aside = tempfile::Builder::new().prefix("repository-").tempdir_in(building).on("create in", building)?;
        let old = aside.path().join("git");
        let had = match rustix::fs::renameat(&folder, ".git", rustix::fs::CWD, &old) {
            Ok(()) => true,
            Err(rustix::io::Errno::NOENT) => false,
            Err(error) => return Err(error).on("set the .git aside of", &self.path),
        };
        self.write_agent_repository_with(base, building, &folder, index)?;
        if had {
            // One is enough: what an earlier apply kept goes.
            let aside = fs::File::open(aside.path()).on("open", aside.path())?;
            if let Ok(old) = folder::open_folder(&aside, b"git") {
                folder::remove(old.as_fd(), b"before-apply").on("remove the older .git of", &self.path)?;
            }
            let new = folder::open_folder(&folder, b".git").on("open the .git of", &self.path)?;
            rustix::fs::renameat(rustix::fs::CWD, &old, &new, "before-apply").on("keep the .git of", &self.path)?;
        }
        Ok(())
    }
}
