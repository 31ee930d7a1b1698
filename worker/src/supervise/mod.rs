//! Child processes: every long-lived one (an agent's server) starts through a shim, a small process of the same program.
//!
//! The shim stands between worker and child, so that the death of either is noticed, however sudden: it ends the child's whole
//! family (grandchildren that moved to a session of their own too) when the worker's pipe closes and no other worker adopts it in
//! time, and it tells the worker when the child ends. It captures and bounds what the child prints. One task owns a child; everyone else holds a [`Child`], a handle that
//! can be cloned; when the last handle is gone, so is the family.
//!
//! What must not happen here: knowledge of what the children are; secrets in arguments or files (the specification goes over a
//! pipe); an inherited environment (a child gets exactly what its specification says).

mod child;
mod doors;
mod environment;
mod family;
mod host_lock;
mod inside;
mod lifeline;
pub(crate) mod log;
mod notify;
mod sandbox;
mod secrecy;
mod served;
pub mod shim;
pub(crate) mod splitter;
mod user;
mod wire;
mod word;

use std::{collections::BTreeMap, ffi::OsString, fmt, path::PathBuf, time::Duration};

use ::secrecy::SecretString;
use serde::{Deserialize, Serialize};

pub use child::{Child, SpawnError, Supervisor, WaitError};
pub use doors::{Doors, Leftover};
pub use environment::{allowed_environment, is_allowed};
pub use family::{FAMILY_VARIABLE, end_family, end_family_except, family_size, find_family};
pub use host_lock::{HostLock, HostLockError};
pub use inside::{Emptied, Occupant, end_inside};
pub use lifeline::{Alive, BootTime, Lifeline};
pub use notify::ServiceManager;
pub use sandbox::{Places, Sandbox, is_supported as sandbox_is_supported, readable_places};
pub use secrecy::{hide_this_process, is_secret};
pub use served::ServedAt;
pub use user::{AgentUser, UserError, hand_over};
pub use word::Busy;

/// From asking a process to end to killing it, unless told otherwise.
pub const KILL_GRACE: Duration = Duration::from_secs(2);

/// What to start.
#[derive(Clone)]
pub struct ChildSpec {
    /// For logs and error messages.
    pub name: String,
    /// The program, by its path.
    pub program: PathBuf,
    /// Its arguments. Everyone on the machine can read them: never a secret.
    pub args: Vec<OsString>,
    /// The folder that it starts in.
    pub cwd: PathBuf,
    /// Its whole environment; nothing is inherited. See [`allowed_environment`].
    pub env: BTreeMap<OsString, OsString>,
    /// Bounds of what it prints.
    pub output: OutputLimits,
    /// A file that what it prints is appended to; when full, it is moved to the same name with `.1` behind it.
    pub log: Option<PathBuf>,
    /// User and group to run as; only root can choose.
    pub run_as: Option<RunAs>,
    /// What it may reach; none: whatever its user may.
    pub sandbox: Option<Sandbox>,
    /// From asking its family to end to killing it.
    pub kill_grace: Duration,
    /// What the next worker of this home needs to know to adopt it, should this one die; it may hold secrets, and never gets into a
    /// file. None: then it ends with this worker.
    pub hand_over: Option<SecretString>,
}

impl ChildSpec {
    /// A child with an empty environment and default bounds.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, cwd: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            cwd: cwd.into(),
            env: BTreeMap::new(),
            output: OutputLimits::default(),
            log: None,
            run_as: None,
            sandbox: None,
            kill_grace: KILL_GRACE,
            hand_over: None,
        }
    }
}

impl fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The values of the environment may be secrets.
        f.debug_struct("ChildSpec")
            .field("name", &self.name)
            .field("program", &self.program)
            .field("args", &self.args)
            .field("cwd", &self.cwd)
            .field("env", &self.env.keys())
            .finish_non_exhaustive()
    }
}

/// Bounds of what a child prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputLimits {
    /// Longest line, in bytes; the rest of it is left out, and the line says so.
    pub line_bytes: usize,
    /// Longest log file, in bytes; there are at most two.
    pub log_bytes: u64,
    /// Lines kept in memory for error messages.
    pub tail_lines: usize,
}

impl Default for OutputLimits {
    fn default() -> Self {
        Self { line_bytes: 16 * 1024, log_bytes: 8 * 1024 * 1024, tail_lines: 100 }
    }
}

/// Another user to run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAs {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// A line that a child printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where to.
    pub stream: Stream,
    /// The text, without its end; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// Where a child prints to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Nobody saw it: the shim died first, and the child with it.
    Lost,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Lost => f.write_str("its shim was killed"),
        }
    }
}
