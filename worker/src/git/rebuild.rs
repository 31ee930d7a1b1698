//! A checkpoint made again from what the database has of it, on a host that never had the worktree.

use std::{fs, path::Path};

use git2::Oid;

use super::{
    Checkpoint, Git, GitError, Mirror, blocking,
    command::LOCAL_LIMIT,
    error::{Context, PathContext},
    mirror,
};

/// A tree by the patches that lead to it.
#[derive(Clone, Copy, Debug)]
pub struct Patched<'a> {
    /// The commit that the patches apply to (40 hex digits).
    pub base_commit: &'a str,
    /// One patch per file.
    pub patches: &'a [Vec<u8>],
    /// The tree that they must lead to (40 hex digits).
    pub tree: &'a str,
}

impl Git {
    /// Makes the commit of a session's checkpoint again. Refused unless its tree is exactly the one that was recorded.
    pub async fn rebuild_checkpoint(
        &self,
        mirror: &Mirror,
        session_id: i64,
        task_id: i64,
        wanted: Patched<'_>,
    ) -> Result<Checkpoint, GitError> {
        let reference = format!("refs/millhand/sessions/{session_id}/{task_id}");
        let message = format!("t{task_id} of s{session_id}\n\nmade again from the recorded changes");
        self.rebuild(mirror, reference, message, wanted).await
    }

    /// The same for a change set that is to be looked at or applied. It is no checkpoint: nothing of the session's goes on from it.
    pub async fn rebuild_change_set(&self, mirror: &Mirror, key: i64, wanted: Patched<'_>) -> Result<(), GitError> {
        let message = format!("change set {key}\n\nmade again from the recorded changes");
        self.rebuild(mirror, format!("refs/millhand/rebuilt/{key}"), message, wanted).await?;
        Ok(())
    }

    async fn rebuild(
        &self,
        mirror: &Mirror,
        reference: String,
        message: String,
        wanted: Patched<'_>,
    ) -> Result<Checkpoint, GitError> {
        let building = self.building();
        fs::create_dir_all(&building).on("create", &building)?;
        let folder = tempfile::Builder::new().prefix("rebuild-").tempdir_in(&building).on("create in", &building)?;
        let index = folder.path().join("index");
        let file = folder.path().join("patch");
        let git = |what| self.plain(what).git_dir(&mirror.path).index_file(&index).limit(LOCAL_LIMIT);
        git("read the session's base").args(["read-tree", wanted.base_commit]).run().await?;
        let patch = wanted.patches.concat();
        if !patch.is_empty() {
            fs::write(&file, patch).on("write", &file)?;
            let apply = ["apply", "--cached", "--binary", "--whitespace=nowarn", "--unidiff-zero"];
            git("apply the recorded changes").args(apply).arg(&file).run().await?;
        }
        let tree = git("write the tree").args(["write-tree"]).run().await?;
        let tree = String::from_utf8_lossy(&tree).trim().to_owned();
        if tree != wanted.tree {
            let message = format!("the recorded changes lead to tree {tree}, not to {}", wanted.tree);
            return Err(GitError::Interrupted(message));
        }
        let (path, base) = (mirror.path.clone(), wanted.base_commit.to_owned());
        let commit = {
            let tree = tree.clone();
            blocking(move || commit(&path, &base, &tree, &reference, &message)).await?
        };
        Ok(Checkpoint { commit, tree, notes: Vec::new(), flagged: Vec::new() })
    }
}

fn commit(mirror: &Path, base: &str, tree: &str, reference: &str, message: &str) -> Result<String, GitError> {
    mirror::remove_stale_lock(&mirror.join(format!("{reference}.lock")))?;
    let repository = mirror::open(mirror)?;
    let make = || {
        let base = repository.find_commit(Oid::from_str(base)?)?;
        let who = git2::Signature::now("Millhand", "millhand@localhost")?;
        let tree = repository.find_tree(Oid::from_str(tree)?)?;
        let id = repository.commit(None, &who, &who, message, &tree, &[&base])?;
        repository.reference(reference, id, true, "checkpoint")?;
        Ok(id.to_string())
    };
    make().doing("commit the checkpoint")
}
