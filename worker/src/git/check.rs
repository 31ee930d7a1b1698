//! Checkouts that checks run on: of what a turn left, in a folder of their own that no agent can write, with a repository like the
//! agents'. Whatever the checks do there is thrown away.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    CopiedFile, Git, GitError, Mirror,
    agent_repository::{self, Contents},
    blocking,
    error::PathContext,
    folder, mirror, setup,
};

/// What is checked out.
#[derive(Clone, Debug)]
pub struct Checked<'a> {
    /// Names the folder.
    pub change_set_id: i64,
    /// The tree.
    pub tree: &'a str,
    /// The commit that it is measured against: HEAD of the checkout's repository, so that `git diff HEAD` is what the turn changed.
    pub base_commit: &'a str,
    /// The branch that this is on.
    pub base_branch: Option<&'a str>,
}

/// A checkout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkout {
    /// The folder that checks may write.
    pub folder: PathBuf,
    /// The files, in there.
    pub tree: PathBuf,
}

impl Git {
    /// Checks a turn's result out, with these files copied in; what was left of an earlier one goes.
    pub async fn check_out_result(
        &self,
        mirror: &Mirror,
        checked: &Checked<'_>,
        files: Vec<CopiedFile>,
    ) -> Result<Checkout, GitError> {
        self.remove_checkout(mirror.project_id, checked.change_set_id).await?;
        let folder = self.home().checks(mirror.project_id).join(slot(checked.change_set_id));
        let checkout = Checkout { tree: folder.join("tree"), folder };
        {
            let tree = checkout.tree.clone();
            blocking(move || fs::create_dir_all(&tree).on("create", &tree)).await?;
        }
        let index = checkout.folder.join("index");
        self.plain("check out what a turn left")
            .git_dir(&mirror.path)
            .work_tree(&checkout.tree)
            .index_file(&index)
            .args(["read-tree", "--reset", "-u", checked.tree])
            .run()
            .await?;
        let (path, home, tree) = (mirror.path.clone(), self.home().root().to_owned(), checkout.tree.clone());
        let (commit, branch) = (checked.base_commit.to_owned(), checked.base_branch.map(str::to_owned));
        blocking(move || {
            let contents = Contents {
                mirror: &mirror::open(&path)?,
                index: index.clone(),
                branch: "millhand/check",
                commit: &commit,
                base_branch: branch.as_deref(),
            };
            agent_repository::write(&tree.join(".git"), &contents)?;
            fs::remove_file(&index).on("remove", &index)?;
            setup::copy_to(&home, &tree, &files)
        })
        .await?;
        Ok(checkout)
    }

    /// Removes a checkout; not being there is fine.
    pub async fn remove_checkout(&self, project_id: i64, change_set_id: i64) -> Result<(), GitError> {
        let (root, checks) = (self.home().root().to_owned(), self.home().checks(project_id));
        blocking(move || remove(&root, &checks, slot(change_set_id).as_bytes())).await
    }

    /// Removes all checkouts, left by an earlier worker. What package managers downloaded stays.
    pub async fn clear_checkouts(&self) -> Result<(), GitError> {
        let (root, projects) = (self.home().root().to_owned(), self.home().root().join("checks"));
        blocking(move || {
            if !projects.is_dir() {
                return Ok(());
            }
            for project in folder::names(folder::open_beneath(&root, &projects)?).on("list", &projects)? {
                let checks = projects.join(String::from_utf8_lossy(&project).as_ref());
                for name in folder::names(folder::open_beneath(&root, &checks)?).on("list", &checks)? {
                    if name.strip_prefix(b"c").is_some_and(|id| id.iter().all(u8::is_ascii_digit)) {
                        remove(&root, &checks, &name)?;
                    }
                }
            }
            Ok(())
        })
        .await
    }
}

fn slot(change_set_id: i64) -> String {
    format!("c{change_set_id}")
}

fn remove(root: &Path, checks: &Path, name: &[u8]) -> Result<(), GitError> {
    if !checks.is_dir() {
        return Ok(());
    }
    folder::remove(folder::open_beneath(root, checks)?, name).on("remove a checkout in", checks)
}
