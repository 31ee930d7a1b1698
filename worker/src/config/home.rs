//! `MILLHAND_HOME`: where all data of one host lives.

use std::path::{Path, PathBuf};

/// The layout of `MILLHAND_HOME`.
///
/// `private/` is for the supervisor alone. `mirrors/` is readable for agents, and written by the supervisor
/// only. `agents/<project id>/` is what the agents of one project may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// A home at an absolute path, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The home itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Config, keys, logs, Postgres, sockets, locks: no access for agents. Mode 0700.
    pub fn private(&self) -> PathBuf {
        self.root.join("private")
    }

    /// The private Postgres's data and sockets. Mode 0700, and owned by the user that it runs as, which is another
    /// one than ours when we are root: so it cannot be in `private/`.
    pub fn postgres(&self) -> PathBuf {
        self.root.join("postgres")
    }

    /// What belongs to the private Postgres and is ours: its locks, its password, its record.
    pub fn postgres_private(&self) -> PathBuf {
        self.private().join("postgres")
    }

    /// Binaries that `millhand setup` installed.
    pub fn tools(&self) -> PathBuf {
        self.root.join("tools")
    }

    /// Bare clones of the projects.
    pub fn mirrors(&self) -> PathBuf {
        self.root.join("mirrors")
    }

    /// The bare clone of one project.
    pub fn mirror(&self, project_id: i64) -> PathBuf {
        self.mirrors().join(format!("{project_id}.git"))
    }

    /// What belongs to agents.
    pub fn agents(&self) -> PathBuf {
        self.root.join("agents")
    }

    /// What the agents of one project may write: worktrees, server data, tmp.
    pub fn agent_folder(&self, project_id: i64) -> PathBuf {
        self.agents().join(project_id.to_string())
    }

    /// The worktree of a session.
    pub fn worktree(&self, project_id: i64, session_id: i64) -> PathBuf {
        self.agent_folder(project_id).join("worktrees").join(format!("s{session_id}"))
    }

    /// Where the checks of one project run, on checkouts of their own. Agents cannot write here.
    pub fn checks(&self, project_id: i64) -> PathBuf {
        self.root.join("checks").join(project_id.to_string())
    }

    /// Reset worktrees of one project that wait for a session. Agents cannot write here.
    pub fn pool(&self, project_id: i64) -> PathBuf {
        self.root.join("pool").join(project_id.to_string())
    }

    /// Worktrees moved aside, restorable.
    pub fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// The doors of the shims, and the key to them.
    pub fn shims(&self) -> PathBuf {
        self.private().join("shims")
    }

    /// Logs of workers, servers and Postgres.
    pub fn logs(&self) -> PathBuf {
        self.private().join("logs")
    }
}
