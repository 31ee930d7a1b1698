//! The keeper: `millhand postgres-shim`, a detached process that starts the private Postgres, minds it, and stops it when nobody uses
//! it any more.
//!
//! There is one per home: it holds the lock `pg.keeper` as long as it lives. It finds out about users by trying for the exclusive
//! lock on `pg.users`, of which each user holds a share. If it is killed, Postgres goes on, and the next user starts a keeper that
//! takes the running server over.

use std::{
    fs,
    io::{BufRead, Write},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use rustix::{
    fs::{FlockOperation, flock},
    process::DumpableBehavior,
};
use serde::{Deserialize, Serialize};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, timeout},
};

use super::{
    PrivateError,
    cluster::Cluster,
    private::{KEEPER_LOCK, USERS_LOCK, open_lock},
    server::Server,
};
use crate::{
    config::Home,
    supervise::{KILL_GRACE, end_family, find_family, shim::keep_descriptors_to_ourselves},
    tools::{self, Search},
};

/// Between two looks whether somebody uses the cluster.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between a death of the server and starting it again: doubled each time, up to the longest.
const RESTART_AFTER: Duration = Duration::from_millis(250);
const RESTART_AFTER_LONGEST: Duration = Duration::from_secs(5);
/// How often, and how closely, the keeper's lock is tried for.
const TAKE_TRIES: u32 = 10;
const TAKE_EVERY: Duration = Duration::from_millis(20);
/// How long a deserted `initdb` may take.
const INITDB_WITHIN: Duration = Duration::from_secs(60);
/// A server that lived this long was well.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// What a keeper is to do.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) home: PathBuf,
    /// The folder of the binaries.
    pub(super) binaries: PathBuf,
    pub(super) linger_ms: u64,
}

/// What a keeper says, once.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Ready,
    /// There is a keeper already.
    Taken,
    Failed(String),
}

/// Runs the keeper to its end. For `millhand postgres-shim`, before any other thread exists.
pub fn main() -> ExitCode {
    keep_descriptors_to_ourselves();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The starter says the rest itself.
            let message = match error.downcast_ref() {
                Some(PrivateError::Start { message, .. }) => message.clone(),
                _ => format!("{error:#}"),
            };
            answer(&Answer::Failed(message));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    // Away from the terminal, and from the folder, of whoever started us. Already a leader: just as well.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/")?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let order: Order = serde_json::from_str(&line).context("millhand postgres-shim is for millhand itself")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let result = runtime.block_on(keep(order));
    runtime.shutdown_background();
    result
}

/// Tells whoever started us; nobody may be there any more.
fn answer(answer: &Answer) {
    let line = serde_json::to_string(answer).unwrap_or_default();
    let _ = writeln!(std::io::stdout(), "{line}");
}

async fn keep(order: Order) -> Result<()> {
    let mut told_to_end = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cluster = Cluster::open(&Home::new(&order.home))?;
    // Declared before the keeper's lock, and so let go of after it: who gets its share finds no keeper.
    let users = open_lock(&cluster.lock(USERS_LOCK))?;
    let keeper = open_lock(&cluster.lock(KEEPER_LOCK))?;
    if !take(&keeper).await {
        answer(&Answer::Taken);
        return Ok(());
    }
    let binaries = tools::find_postgres(&Search { setting: Some(order.binaries), ..Search::default() })?;
    outwait_initdb(&cluster.initdb_scope()?).await;
    cluster.make(&binaries)?;
    let linger = Duration::from_millis(order.linger_ms);
    let mut server = Server::find_or_start(&cluster, &binaries).await?;
    answer(&Answer::Ready);
    let mut pause = RESTART_AFTER;
    loop {
        let since = Instant::now();
        let died = tokio::select! {
            () = server.died() => true,
            // Holding the exclusive lock: who comes now waits until it is stopped, and starts it again.
            () = unused(&users, linger) => false,
            _ = told_to_end.0.recv() => false,
            _ = told_to_end.1.recv() => false,
        };
        if !died {
            server.stop().await;
            return Ok(());
        }
        // Taken at the same moment, perhaps.
        let _ = flock(&users, FlockOperation::Unlock);
        if since.elapsed() > WELL_AFTER {
            pause = RESTART_AFTER;
        }
        // Users wait for it, so it is started again for as long as there are some. Counted over all tries: each may be shorter than the
        // time to linger.
        let unused = unused(&users, linger);
        tokio::pin!(unused);
        loop {
            tokio::select! {
                () = sleep(pause) => {}
                () = &mut unused => return Ok(()),
                _ = told_to_end.0.recv() => return Ok(()),
                _ = told_to_end.1.recv() => return Ok(()),
            }
            pause = (pause * 2).min(RESTART_AFTER_LONGEST);
            if let Ok(started) = Server::find_or_start(&cluster, &binaries).await {
                server = started;
                break;
            }
        }
    }
}

/// Lets the `initdb` of a keeper that was killed finish, to no avail: ended half-way, it leaves shared memory behind.
async fn outwait_initdb(scope: &str) {
    let finished = async {
        while !find_family(scope).is_empty() {
            sleep(TAKE_EVERY).await;
        }
    };
    if timeout(INITDB_WITHIN, finished).await.is_err() {
        end_family(scope, KILL_GRACE).await;
    }
}

/// Takes the keeper's lock, unless there is a keeper. Tries for a moment: someone may be looking, which takes it for an instant.
async fn take(keeper: &fs::File) -> bool {
    for _ in 0..TAKE_TRIES {
        if flock(keeper, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return true;
        }
        sleep(TAKE_EVERY).await;
    }
    false
}

/// Returns, with the exclusive lock held, when there has been no user for the time to linger.
async fn unused(users: &fs::File, linger: Duration) {
    let mut free_since: Option<Instant> = None;
    loop {
        if flock(users, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let free = free_since.get_or_insert_with(Instant::now).elapsed();
            // Someone may have come and gone between two looks: users leave their time.
            let visited = users.metadata().and_then(|metadata| metadata.modified()).ok();
            let visited = visited.and_then(|time| SystemTime::now().duration_since(time).ok());
            if free >= linger && visited.is_none_or(|ago| ago >= linger) {
                return;
            }
            let _ = flock(users, FlockOperation::Unlock);
        } else {
            free_since = None;
        }
        sleep(LOOK_EVERY.min(linger)).await;
    }
}
