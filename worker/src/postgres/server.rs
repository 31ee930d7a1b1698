//! One running Postgres: started by us, or found running on our data.

use std::{
    fs,
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal};
use tokio::{
    io::{AsyncReadExt, unix::AsyncFd},
    net::unix::pipe,
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    PrivateError,
    cluster::{Cluster, last_words},
};
use crate::{
    supervise::{log::BoundedLog, splitter::Splitter},
    tools::PostgresBinaries,
};

/// Longest that a start may take, recovery after a crash included.
const START_WITHIN: Duration = Duration::from_secs(120);
/// Between two looks whether it is ready.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long what a killed server left in memory may take to be gone.
const LEFTOVERS_WITHIN: Duration = Duration::from_secs(20);
/// Between two tries to start it while something is left over.
const TRY_EVERY: Duration = Duration::from_millis(250);
/// How long each way of stopping may take, before the next, harsher one.
const STOPS: [(Signal, Duration); 3] = [
    (Signal::INT, Duration::from_secs(30)),
    (Signal::QUIT, Duration::from_secs(10)),
    (Signal::KILL, Duration::from_secs(10)),
];
/// Longest line of its log, and longest log.
const LINE_BYTES: usize = 8 * 1024;
const LOG_BYTES: u64 = 4 * 1024 * 1024;
/// Lines kept for error messages.
const TAIL_LINES: usize = 20;

/// A running Postgres.
pub(super) struct Server {
    /// Readable when it is dead.
    process: AsyncFd<OwnedFd>,
    pid: Pid,
}

impl Server {
    /// The one that runs on the cluster's data already, if there is one; else a new one. Ready when this returns.
    pub(super) async fn find_or_start(cluster: &Cluster, binaries: &PostgresBinaries) -> Result<Self, PrivateError> {
        let failed = |message: String| PrivateError::Start { message, log: cluster.log() };
        if let Some(server) = Self::find(&cluster.data()) {
            server.wait_until_ready(cluster, None).await?;
            return Ok(server);
        }
        let give_up = Instant::now() + LEFTOVERS_WITHIN;
        loop {
            let (server, said) = Self::start(cluster, binaries).map_err(|error| failed(error.to_string()))?;
            match server.wait_until_ready(cluster, Some(said)).await {
                // Backends of a server that was killed end by themselves within moments.
                Err(PrivateError::Start { message, .. }) if is_leftover(&message) && Instant::now() < give_up => {
                    sleep(TRY_EVERY).await;
                }
                Err(error) => {
                    server.stop().await;
                    return Err(error);
                }
                Ok(()) => return Ok(server),
            }
        }
    }

    /// A server that runs on this data.
    fn find(data: &Path) -> Option<Self> {
        let file = data.join("postmaster.pid");
        let pid = Pid::from_raw(fs::read_to_string(&file).ok()?.lines().next()?.trim().parse().ok()?)?;
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Its working folder is its data folder. After the descriptor was opened, so that the id cannot have changed hands.
        let Ok(folder) = fs::read_link(format!("/proc/{pid}/cwd")) else {
            // Dead, and nobody has collected it, as happens in containers: it counts as alive for Postgres.
            if is_zombie(pid) {
                forget_process(&file);
            }
            return None;
        };
        if data.canonicalize().is_ok_and(|data| data == folder) {
            return Some(Self { process: watched(process).ok()?, pid });
        }
        // The id is another program's by now. Postgres cannot tell, where that has the same user, and would refuse to start.
        forget_process(&file);
        None
    }

    fn start(cluster: &Cluster, binaries: &PostgresBinaries) -> std::io::Result<(Self, watch::Receiver<Vec<String>>)> {
        let sockets = cluster.socket_folder().map_err(|error| std::io::Error::other(error.to_string()))?;
        let settings = [
            "listen_addresses=".to_owned(),
            format!("unix_socket_directories={}", sockets.display()),
            "unix_socket_permissions=0700".to_owned(),
            "fsync=on".to_owned(),
            "synchronous_commit=on".to_owned(),
            "full_page_writes=on".to_owned(),
            "max_connections=100".to_owned(),
            "shared_buffers=64MB".to_owned(),
            "max_wal_size=256MB".to_owned(),
            "logging_collector=off".to_owned(),
            // Compiling a query takes longer than any of ours.
            "jit=off".to_owned(),
            "log_destination=stderr".to_owned(),
            "log_line_prefix=%m [%p] ".to_owned(),
            "cluster_name=millhand".to_owned(),
        ];
        let mut command = Command::new(binaries.postgres());
        command.arg("-D").arg(cluster.data());
        for setting in settings {
            command.args(["-c", &setting]);
        }
        command.env_clear().env("LC_ALL", "C").current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped());
        cluster.user.run(&mut command);
        let mut child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(std::io::ErrorKind::InvalidData)?;
        let stderr = child.stderr.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
        let process = watched(pidfd_open(pid, PidfdFlags::empty())?)?;
        let (said, tail) = watch::channel(Vec::new());
        tokio::spawn(write_log(
            pipe::Receiver::from_owned_fd(OwnedFd::from(stderr))?,
            BoundedLog::open(&cluster.log(), LOG_BYTES)?,
            said,
        ));
        Ok((Self { process, pid }, tail))
    }

    async fn wait_until_ready(
        &self,
        cluster: &Cluster,
        said: Option<watch::Receiver<Vec<String>>>,
    ) -> Result<(), PrivateError> {
        let failed = |message: String| PrivateError::Start { message, log: cluster.log() };
        let file = cluster.data().join("postmaster.pid");
        let own = self.pid.as_raw_nonzero().to_string();
        let ready = async {
            loop {
                // The first line is its process id, the eighth its state.
                let text = fs::read_to_string(&file).unwrap_or_default();
                let lines: Vec<_> = text.lines().map(str::trim).collect();
                if lines.first() == Some(&own.as_str()) && lines.get(7) == Some(&"ready") {
                    return;
                }
                sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            biased;
            () = self.died() => {
                // What it said last is on its way.
                if let Some(mut said) = said {
                    let _ = timeout(Duration::from_secs(1), async { while said.changed().await.is_ok() {} }).await;
                    return Err(failed(last_words(&said.borrow().join("\n"))));
                }
                Err(failed("it ended".to_owned()))
            }
            () = ready => Ok(()),
            () = sleep(START_WITHIN) => Err(failed(format!("it was not ready within {} s", START_WITHIN.as_secs()))),
        }
    }

    /// Waits until it is dead, and collects it if it is our child.
    pub(super) async fn died(&self) {
        let _ = self.process.readable().await;
        // An adopted one is not ours to collect.
        let _ = rustix::process::waitpid(Some(self.pid), WaitOptions::NOHANG);
    }

    /// Stops it: cleanly, or at least for certain.
    pub(super) async fn stop(self) {
        for (signal, within) in STOPS {
            // It may be dead already.
            let _ = pidfd_send_signal(self.process.get_ref(), signal);
            if timeout(within, self.died()).await.is_ok() {
                return;
            }
        }
    }
}

#[expect(unsafe_code, reason = "tokio has no safe way to wait for a descriptor of any kind")]
fn watched(process: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is open, and owned by the result for as long as that lives.
    unsafe { AsyncFd::register(process) }.map_err(|error| error.into_parts().1)
}

fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}

/// Writes an id that no process has in the place of one that does not mean Postgres any more. The rest stays: by it Postgres
/// sees whether backends of the dead server are still there.
fn forget_process(file: &Path) {
    let Ok(text) = fs::read_to_string(file) else { return };
    let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
    // If that fails, Postgres says what is in its way.
    let _ = fs::write(file, format!("{}\n{rest}", i32::MAX));
}

fn is_leftover(message: &str) -> bool {
    message.contains("is still in use") || message.contains("already exists")
}

async fn write_log(mut from: pipe::Receiver, mut log: BoundedLog, said: watch::Sender<Vec<String>>) {
    let mut splitter = Splitter::new(LINE_BYTES);
    let mut chunk = vec![0; LINE_BYTES];
    while let Ok(count) = from.read(&mut chunk).await
        && count > 0
    {
        for line in splitter.feed(&chunk[..count]) {
            // A full disk costs lines of the log only.
            let _ = log.append(&line);
            said.send_modify(|tail| {
                tail.push(line);
                if tail.len() > TAIL_LINES {
                    tail.remove(0);
                }
            });
        }
    }
}
