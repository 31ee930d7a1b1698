//! Using the private Postgres.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use rustix::fs::{FlockOperation, flock};
use secrecy::SecretString;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
    time::{Instant, sleep, timeout},
};
use tokio_postgres::{Config, NoTls, error::SqlState};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    PrivateError,
    cluster::{self, Cluster, DATABASE, USER},
    keeper::{Answer, Order},
};
use crate::{config::Home, tools::PostgresBinaries};

/// Each user of the cluster holds a share of it.
pub(super) const USERS_LOCK: &str = "pg.users";
/// Its keeper holds it.
pub(super) const KEEPER_LOCK: &str = "pg.keeper";
/// Whoever starts a keeper holds it.
const START_LOCK: &str = "pg.start";
/// How long the cluster goes on after its last user, unless told otherwise.
const LINGER: Duration = Duration::from_secs(10);
/// How long to wait for other processes that start or stop it.
const LOCK_WITHIN: Duration = Duration::from_secs(180);
/// How long a keeper may take until the server is ready: making a cluster, recovery after a crash.
const KEEPER_WITHIN: Duration = Duration::from_secs(170);
/// How long a server that a keeper minds may be away.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// One try to connect.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Between two tries.
const TRY_EVERY: Duration = Duration::from_millis(20);
/// Between two looks of a user whether the cluster still has a keeper.
const MIND_EVERY: Duration = Duration::from_secs(1);

/// The private Postgres of a home.
#[derive(Clone, Debug)]
pub struct Private {
    home: Home,
    binaries: PostgresBinaries,
    millhand: PathBuf,
    linger: Duration,
}

/// A private Postgres that runs for as long as this lives (and the process: a killed one uses nothing).
#[derive(Debug)]
pub struct Running {
    url: SecretString,
    config: Config,
    _share: File,
    _minder: DropGuard,
}

impl Running {
    /// How to connect to it, with the password.
    pub fn url(&self) -> &SecretString {
        &self.url
    }

    /// The same, parsed.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

impl Private {
    /// The private Postgres of a home, run with these binaries; `millhand` is this program's path, for the keeper.
    pub fn new(home: Home, binaries: PostgresBinaries, millhand: impl Into<PathBuf>) -> Self {
        Self { home, binaries, millhand: millhand.into(), linger: LINGER }
    }

    /// How long it goes on after its last user, if this process is the one that starts it.
    pub fn with_linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Makes it if there is none, starts it if it does not run, and returns when it answers.
    ///
    /// As long as the answer lives, so does the cluster: should its keeper be killed, and Postgres with it, both are started again.
    pub async fn connect(&self) -> Result<Running, PrivateError> {
        let cluster = Cluster::open(&self.home)?;
        let binaries = cluster.choose(&self.binaries)?;
        // First of all: a keeper that is about to stop it does so before it lets us in, or not at all.
        let share = lock(&cluster.lock(USERS_LOCK), FlockOperation::NonBlockingLockShared).await?;
        // Only for the keeper's patience.
        let _ = share.set_modified(SystemTime::now());
        self.keep(&cluster, &binaries).await?;
        let password = cluster.password()?;
        let sockets = cluster.socket_folder()?;
        let config = |database: &str| {
            let mut config = Config::new();
            config.host_path(&sockets).user(USER).password(&password).dbname(database).connect_timeout(CONNECT_WITHIN);
            config
        };
        self.wait_for_database(&cluster, &binaries, &config).await?;
        let host: String = sockets.display().to_string().replace('/', "%2F");
        let url = format!("postgres://{USER}:{password}@{host}/{DATABASE}").into();
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(self.clone().mind(cluster, binaries)));
        Ok(Running { url, config: config(DATABASE), _share: share, _minder: stop.drop_guard() })
    }

    /// Sees to it that the cluster has a keeper.
    async fn mind(self, cluster: Cluster, binaries: PostgresBinaries) {
        let mut failing = false;
        loop {
            sleep(MIND_EVERY).await;
            if is_kept(&cluster).unwrap_or(true) {
                continue;
            }
            tracing::warn!("the private Postgres has lost its keeper; starting another");
            match self.keep(&cluster, &binaries).await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    tracing::error!(%error, "the private Postgres cannot be started again; trying on");
                }
                Err(_) => {}
            }
        }
    }

    /// Whether somebody minds the private Postgres of a home: it runs, or is about to. Makes nothing.
    pub fn is_running(home: &Home) -> bool {
        File::open(home.postgres_private().join(KEEPER_LOCK)).is_ok_and(|file| is_locked(&file))
    }

    /// The folder that a private Postgres has outside its home, where the home's path is too long for a socket; none if there is none.
    pub fn folder_outside(home: &Home) -> Option<PathBuf> {
        cluster::folder_outside(home)
    }

    /// Starts a keeper unless there is one; one process at a time.
    async fn keep(&self, cluster: &Cluster, binaries: &PostgresBinaries) -> Result<(), PrivateError> {
        let _start = lock(&cluster.lock(START_LOCK), FlockOperation::NonBlockingLockExclusive).await?;
        if is_kept(cluster)? { Ok(()) } else { self.start_keeper(cluster, binaries).await }
    }

    /// Waits until the database answers, and makes it if the cluster is new. The keeper may be starting the server again just
    /// now, or may have been killed.
    async fn wait_for_database(
        &self,
        cluster: &Cluster,
        binaries: &PostgresBinaries,
        config: &impl Fn(&str) -> Config,
    ) -> Result<(), PrivateError> {
        let silent = |message: String| PrivateError::Silent { message, log: cluster.log() };
        let give_up = Instant::now() + ANSWER_WITHIN;
        loop {
            let error = match execute(&config(DATABASE), "SELECT 1").await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match error.code() {
                Some(&SqlState::UNDEFINED_DATABASE) => {
                    // Another process may be faster; what counts is that it is there.
                    let _ = execute(&config("postgres"), &format!("CREATE DATABASE {DATABASE}")).await;
                }
                Some(&SqlState::INVALID_PASSWORD) => return Err(silent(error.to_string())),
                _ if !is_kept(cluster)? => self.keep(cluster, binaries).await?,
                _ => {}
            }
            if Instant::now() > give_up {
                return Err(silent(error.to_string()));
            }
            sleep(TRY_EVERY).await;
        }
    }

    async fn start_keeper(&self, cluster: &Cluster, binaries: &PostgresBinaries) -> Result<(), PrivateError> {
        let failed = |message: String| PrivateError::Start { message, log: cluster.log() };
        // The password is made here, while starters take turns.
        cluster.password()?;
        let home = self.home.root().canonicalize().map_err(PrivateError::io(self.home.root()))?;
        let linger_ms = u64::try_from(self.linger.as_millis()).unwrap_or(u64::MAX);
        let order = Order { home, binaries: binaries.folder.clone(), linger_ms };
        let mut order = serde_json::to_vec(&order).map_err(|error| failed(error.to_string()))?;
        order.push(b'\n');
        let mut keeper = Command::new(&self.millhand)
            .arg("postgres-shim")
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(PrivateError::io(&self.millhand))?;
        let (Some(mut stdin), Some(stdout)) = (keeper.stdin.take(), keeper.stdout.take()) else {
            return Err(failed("no pipes".to_owned()));
        };
        // One that is gone already says so by its closed stdout.
        let _ = stdin.write_all(&order).await;
        drop(stdin);
        let mut line = String::new();
        let answered = timeout(KEEPER_WITHIN, BufReader::new(stdout).read_line(&mut line)).await;
        // It lives on by itself; while this process does, it is collected when it ends.
        tokio::spawn(async move { keeper.wait().await });
        match answered {
            Ok(Ok(count)) if count > 0 => {}
            Ok(_) => return Err(failed("its keeper ended without a word".to_owned())),
            Err(_) => return Err(failed(format!("its keeper said nothing for {} s", KEEPER_WITHIN.as_secs()))),
        }
        match serde_json::from_str(&line) {
            Ok(Answer::Ready | Answer::Taken) => Ok(()),
            Ok(Answer::Failed(message)) => Err(failed(message)),
            Err(error) => Err(failed(format!("its keeper said {line:?}: {error}"))),
        }
    }
}

/// Opens a lock file, which is made if it is missing.
pub(super) fn open_lock(path: &Path) -> Result<File, PrivateError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(PrivateError::io(path))
}

/// Whether a keeper lives.
fn is_kept(cluster: &Cluster) -> Result<bool, PrivateError> {
    Ok(is_locked(&open_lock(&cluster.lock(KEEPER_LOCK))?))
}

fn is_locked(file: &File) -> bool {
    flock(file, FlockOperation::NonBlockingLockShared).is_err()
}

async fn lock(path: &Path, operation: FlockOperation) -> Result<File, PrivateError> {
    let file = open_lock(path)?;
    let give_up = Instant::now() + LOCK_WITHIN;
    loop {
        match flock(&file, operation) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) if Instant::now() < give_up => {
                sleep(TRY_EVERY).await;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let error =
                    io::Error::other("another millhand holds this lock, and does not get on; see `millhand status`");
                return Err(PrivateError::io(path)(error));
            }
            Err(error) => return Err(PrivateError::io(path)(error.into())),
        }
    }
}

async fn execute(config: &Config, sql: &str) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    let driver = tokio::spawn(connection);
    let done = client.batch_execute(sql).await;
    drop(client);
    // Nothing of us stays connected.
    let _ = driver.await;
    done
}
