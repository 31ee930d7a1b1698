//! What worker and shim say to each other: one JSON object per line, requests on the shim's stdin, events on its stdout.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Alive, Exit, OutputLimits, RunAs, Sandbox, Stream};

/// From the worker.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// The first, and only once.
    Start(Box<Spec>),
    /// The worker lives; end the family if nothing is heard by then.
    Alive(Alive),
    /// End the family, allowing this much time between asking and killing.
    Stop {
        /// In milliseconds.
        grace_ms: u64,
    },
}

/// From the shim.
#[derive(Debug, Serialize, Deserialize)]
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
