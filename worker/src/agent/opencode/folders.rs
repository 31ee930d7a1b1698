//! The folders of a server, and what is put into them where an agent can write: never through a link.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use super::OpencodeSetup;
use crate::{
    agent::{AgentProject, confine::CACHES},
    supervise::{self, RunAs},
};

/// The folders of one server, below `<project's folder>/opencode`.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    pub(super) root: PathBuf,
    /// Temporary files of the server and of what the agent runs.
    pub(super) tmp: PathBuf,
    /// What the server may write, whose insides are therefore not to be trusted.
    pub(super) own: PathBuf,
}

impl Folders {
    /// Those of a project's server.
    pub(super) fn of_project(project: &AgentProject) -> Self {
        Self { root: project.folder.join("opencode"), tmp: project.folder.join("tmp"), own: project.folder.clone() }
    }

    /// Those of a server that is only asked a few things.
    pub(super) fn of_probe(setup: &OpencodeSetup) -> Self {
        let root = match &setup.user {
            Some(user) => user.folder.join(format!("probe-{}", setup.cache.file_name().unwrap_or_default().display())),
            None => setup.cache.join("probe"),
        };
        Self { tmp: root.join("tmp"), own: root.clone(), root }
    }

    /// Hands over what the server is to write, and lets its user in. What is around it stays ours.
    pub(super) fn hand_over(&self, user: Option<RunAs>) -> io::Result<()> {
        let caches = self.own.join(CACHES);
        if let Some(user) = user {
            if let Some(around) = self.own.parent() {
                fs::set_permissions(around, fs::Permissions::from_mode(0o711))?;
            }
            chown(&self.own, Some(0), Some(user.gid))?;
            fs::set_permissions(&self.own, fs::Permissions::from_mode(0o750))?;
            create_below(&self.own, &caches)?;
        }
        for folder in [&self.root, &self.tmp, &caches].into_iter().filter(|folder| folder.is_dir()) {
            supervise::hand_over(&self.own, folder, user)?;
        }
        Ok(())
    }

    /// Where the server runs. Not a repository, and never a worktree.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn xdg(&self, kind: &str) -> PathBuf {
        self.root.join(kind)
    }

    pub(super) fn config(&self) -> PathBuf {
        self.xdg("config").join("opencode")
    }

    /// The operator's configuration, which may hold keys.
    pub(super) fn operator_config(&self) -> PathBuf {
        self.root.join("operator.json")
    }

    pub(super) fn catalogue(&self) -> PathBuf {
        self.root.join("models.json")
    }
}

/// Makes a folder below one that an agent can write, and replaces whatever is no folder on the way: an agent may have put a link there
/// that leads out. None of its processes runs by now.
pub(super) fn create_below(own: &Path, folder: &Path) -> io::Result<()> {
    create_private(own)?;
    let mut path = own.to_owned();
    for name in folder.strip_prefix(own).unwrap_or(folder) {
        path.push(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => continue,
            Ok(_) => fs::remove_file(&path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fs::DirBuilder::new().mode(0o700).create(&path)?;
    }
    Ok(())
}

/// Makes a folder, with its parents, that only we can enter.
pub(super) fn create_private(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Writes a file that only we can read, anew: a link in its place is not followed.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    io::Write::write_all(&mut file, bytes)?;
    fs::rename(fresh, path)
}
