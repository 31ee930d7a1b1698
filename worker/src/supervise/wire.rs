//! What worker and shim say to each other: one JSON object per line, requests on the shim's stdin, events on its stdout.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Alive, BootTime, Exit, OutputLimits, RunAs, Sandbox, Stream};

/// Grows whenever shim and worker of different versions would misunderstand each other.
pub(super) const PROTOCOL: u32 = 1;

/// From the worker.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// The first, and only once.
    Start(Box<Spec>),
    /// The worker lives; end the family if nothing is heard by then.
    Alive {
        /// Until when, and how.
        alive: Alive,
        /// What the next worker needs to know of the turns that run.
        turns: Vec<String>,
    },
    /// End the family, allowing this much time between asking and killing.
    Stop {
        /// In milliseconds.
        grace_ms: u64,
    },
    /// Of a worker that came through the door: from now on it is the one. The family lives until then.
    Adopt(Alive),
}

/// What a visitor at the door says first.
#[derive(Serialize, Deserialize)]
pub(super) struct Knock {
    /// The visitor's [`PROTOCOL`].
    pub(super) protocol: u32,
    /// The home's key.
    pub(super) key: String,
}

/// From the shim.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Event {
    /// The child runs.
    Started {
        /// Its process id.
        pid: u32,
    },
    /// The child could not be started; nothing follows.
    Failed {
        /// Why.
        message: String,
    },
    /// To a visitor with the right key: what there is to adopt.
    Left(Box<Left>),
    /// The visitor is the worker now.
    Adopted,
    /// It printed.
    Line {
        /// Where to.
        stream: Stream,
        /// What.
        text: String,
    },
    /// The worker was too slow to take lines; the log has them.
    Dropped {
        /// How many.
        lines: u64,
    },
    /// The child ended; its family is being ended.
    Exited {
        /// How.
        exit: Exit,
    },
}

/// A child's specification.
#[derive(Serialize, Deserialize)]
pub(super) struct Spec {
    #[serde(default)]
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) cwd: PathBuf,
    /// A list, because JSON's keys are text and names of variables are bytes.
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) marker: String,
    pub(super) output: OutputLimits,
    pub(super) log: Option<PathBuf>,
    pub(super) run_as: Option<RunAs>,
    #[serde(default)]
    pub(super) sandbox: Option<Sandbox>,
    pub(super) kill_grace_ms: u64,
    /// Where the next worker finds it, should this one die; none: then it ends with its worker.
    #[serde(default)]
    pub(super) door: Option<Door>,
}

/// A shim's door: a socket that asks for a key.
#[derive(Serialize, Deserialize)]
pub(super) struct Door {
    pub(super) folder: PathBuf,
    /// Of the socket.
    pub(super) name: String,
    pub(super) key: String,
    /// What the next worker is told; it may hold secrets.
    pub(super) hand_over: String,
}

/// What a worker left.
#[derive(Serialize, Deserialize)]
pub(super) struct Left {
    /// The shim's [`PROTOCOL`].
    pub(super) protocol: u32,
    /// The shim's version of Millhand.
    pub(super) version: String,
    pub(super) name: String,
    pub(super) pid: u32,
    pub(super) marker: String,
    pub(super) kill_grace_ms: u64,
    pub(super) hand_over: String,
    /// What the last worker noted of the turns that run.
    pub(super) turns: Vec<String>,
    /// When it was adopted before.
    pub(super) adopted: Vec<BootTime>,
    /// Its family is being ended.
    pub(super) ending: bool,
}

/// A duration as the wire has it.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A message as a line.
pub(super) fn line<T: Serialize>(message: &T) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}
