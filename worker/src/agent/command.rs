//! Commands of the operator's that run what agents wrote: a project's setup, its checks. Confined as the agents themselves are, under a
//! shim, bounded in time, output and processes; when one is over, so is every process that it started.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::confine::{CACHES, Confinement};
use crate::{
    config::{Environment, Home},
    model::command::{Ended, Ran, last_lines},
    supervise::{
        ChildSpec, Exit, OutputLimits, RunAs, SpawnError, Supervisor, allowed_environment, family_size, hand_over,
    },
};

/// Lines that are kept of what a command prints: the last ones, where it says what went wrong.
const KEPT_LINES: usize = 400;
/// Bytes of a line that are kept.
const LINE_BYTES: usize = 4096;
/// Bytes that are kept of all.
const KEPT_BYTES: usize = 32 * 1024;
/// Between looks at how many processes there are.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs commands of the operator's, as agents of this host would. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Commands {
    /// Starts them.
    pub supervisor: Supervisor,
    /// How they are confined; none: not at all.
    pub confinement: Option<Confinement>,
    /// What they are passed some of.
    pub environment: Environment,
    /// Folders.
    pub home: Home,
    /// Whom they run as; none: as we do.
    pub run_as: Option<RunAs>,
    /// Processes that a command may have at once.
    pub processes: usize,
    /// From asking its processes to end to killing them.
    pub kill_grace: Duration,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    /// For logs.
    pub name: String,
    /// The command, as a shell reads it.
    pub command: &'a str,
    /// Whose toolchains and caches it uses.
    pub project_id: i64,
    /// Where it starts.
    pub cwd: PathBuf,
    /// The folder that it may write; its temporary files are in `tmp` there.
    pub folder: PathBuf,
    /// Where package managers keep what they download is below this; it may write that too. If it is not the folder itself, nobody else may
    /// write there: a link in its place would lead out of the sandbox.
    pub shared: PathBuf,
    /// Variables of the worker's environment that it may see.
    pub env_pass: &'a [String],
    /// How long it may take.
    pub limit: Duration,
    /// It runs on a lease: its processes are gone before that runs out, also if this worker is stopped.
    pub on_lease: bool,
}

impl Commands {
    /// Runs a command to its end, or until `stop`. When this returns, all its processes are gone.
    pub async fn run(&self, order: &Order<'_>, stop: &CancellationToken) -> Result<Ran, SpawnError> {
        let spec = self.specification(order).await;
        let began = Instant::now();
        let child = self.supervisor.spawn(spec).await?;
        let _busy = if order.on_lease { Some(child.busy(order.name.clone()).await) } else { None };
        let left = order.limit.saturating_sub(began.elapsed());
        let ended = tokio::select! {
            exit = child.exited() => match exit {
                Exit::Code(code) => Ended::Code(code),
                Exit::Signal(signal) => Ended::Signal(signal),
                Exit::Lost => Ended::Lost,
            },
            () = tokio::time::sleep(left) => Ended::TimedOut,
            () = stop.cancelled() => Ended::Stopped,
            () = crowded(child.pid(), child.marker(), self.processes) => Ended::TooManyProcesses,
        };
        let grace = if ended == Ended::TooManyProcesses { Duration::ZERO } else { self.kill_grace };
        if child.exit().is_none() && child.stop(grace).await.is_none() {
            tracing::error!(command = order.name, "processes of a command cannot be ended");
        }
        let lines = child.tail();
        let cut = lines.len() >= KEPT_LINES;
        let output = last_lines(lines.iter().map(|line| line.text.as_str()), KEPT_BYTES, cut);
        Ok(Ran { ended, took: began.elapsed(), output })
    }

    async fn specification(&self, order: &Order<'_>) -> ChildSpec {
        let mut spec = ChildSpec::new(&order.name, "/bin/sh", &order.cwd);
        spec.args = vec!["-c".into(), order.command.into()];
        spec.output = OutputLimits { line_bytes: LINE_BYTES, log_bytes: 0, tail_lines: KEPT_LINES };
        spec.kill_grace = self.kill_grace;
        spec.env = self.variables(order);
        spec.run_as = self.run_as;
        let (commands, project_id) = (self.clone(), order.project_id);
        let (folder, shared) = (order.folder.clone(), order.shared.clone());
        // Looks at the disk.
        let sandbox = tokio::task::spawn_blocking(move || {
            // What cannot be made is missed by the command, which then says so better than we could.
            if let Err(error) = commands.make_folders(&folder, &shared) {
                tracing::warn!(%error, folder = %folder.display(), "a command's folders are not as they should be");
            }
            let mut sandbox = commands.confinement?.sandbox(project_id, &folder);
            if shared != folder {
                sandbox.write.push(shared.join(CACHES));
            }
            Some(sandbox)
        });
        spec.sandbox = sandbox.await.ok().flatten();
        spec
    }

    /// Makes the folders of a command, and gives what it writes to the agents' user. What is around it stays ours.
    fn make_folders(&self, folder: &Path, shared: &Path) -> std::io::Result<()> {
        let (tmp, caches) = (folder.join("tmp"), shared.join(CACHES));
        fs::create_dir_all(&tmp)?;
        fs::create_dir_all(&caches)?;
        let Some(user) = self.run_as else { return Ok(()) };
        if let Some(around) = shared.parent() {
            fs::set_permissions(around, fs::Permissions::from_mode(0o711))?;
        }
        chown(shared, Some(0), Some(user.gid))?;
        fs::set_permissions(shared, fs::Permissions::from_mode(0o750))?;
        let own = if folder == shared { &tmp } else { folder };
        hand_over(self.home.root(), own, self.run_as)?;
        hand_over(self.home.root(), &caches, self.run_as)
    }

    fn variables(&self, order: &Order<'_>) -> BTreeMap<OsString, OsString> {
        let mut variables = allowed_environment(self.environment.0.clone(), order.env_pass);
        if let Some(confinement) = &self.confinement {
            variables.extend(confinement.variables(&order.shared));
            variables.insert("TMPDIR".into(), order.folder.join("tmp").into());
            variables.insert("XDG_CACHE_HOME".into(), order.shared.join(CACHES).join("xdg").into());
        }
        // Nobody is there to answer, or to look at a watcher.
        variables.insert("CI".into(), "true".into());
        variables
    }

    /// Reads a file of the operator's, and whether it is a program. See [`super::operator_file`].
    pub fn read_file(&self, path: &Path) -> Result<(Vec<u8>, bool), String> {
        let mut forbidden = vec![self.home.root().to_owned()];
        forbidden.extend(self.confinement.iter().flat_map(|confinement| confinement.writable().to_vec()));
        super::operator_file::read(path, &forbidden)
    }
}

/// Returns once a family has more processes than that.
async fn crowded(child: u32, marker: &str, most: usize) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let marker = marker.to_owned();
        let size = tokio::task::spawn_blocking(move || family_size(child, &marker)).await;
        if size.is_ok_and(|size| size > most) {
            return;
        }
    }
}
