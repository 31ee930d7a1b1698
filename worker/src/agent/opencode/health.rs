//! Watches over one server: waits until its process ends, or ends it when it is dead.
//!
//! It is asked for its health whenever something makes it suspect: its stream is down, or a turn got no answer. One that is
//! busy loading worktrees can be slow, so there is a grace before it is given up; its turns go on meanwhile.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::client::Client;
use crate::{
    config::Timings,
    model::server::{Health, judge_health},
    supervise::Child,
};

/// One health request. Cold worktrees can block a server for several seconds.
const HEALTH_WAIT: Duration = Duration::from_secs(10);
/// Between two of them.
const HEALTH_PAUSE: Duration = Duration::from_millis(500);

/// What a server and the one who watches over it share.
#[derive(Clone, Debug)]
pub(super) struct Pulse {
    /// Whether its event stream is open.
    pub(super) connected: watch::Receiver<bool>,
    /// Somebody got no answer.
    pub(super) suspect: Arc<Notify>,
    /// Since when it takes no new turns.
    pub(super) retired: watch::Sender<Option<Instant>>,
    /// Cancelled when the process has ended, or was ended because it was dead.
    pub(super) gone: CancellationToken,
}

impl Pulse {
    pub(super) fn new(connected: watch::Receiver<bool>) -> Self {
        Self { connected, suspect: Arc::default(), retired: watch::Sender::new(None), gone: CancellationToken::new() }
    }

    /// Has it take no new turns.
    pub(super) fn retire(&self) {
        self.retired.send_if_modified(|since| {
            let is_first = since.is_none();
            since.get_or_insert_with(Instant::now);
            is_first
        });
    }
}

/// Watches over a server until it is gone.
pub(super) async fn watch_over(client: Client, child: Child, pulse: Pulse, timings: Timings) {
    tokio::select! {
        exit = child.exited() => tracing::info!(pid = child.pid(), %exit, "opencode's server ended"),
        () = until_dead(&client, &child, &pulse, timings) => {
            tracing::warn!(pid = child.pid(), "opencode's server does not answer; ending it");
            pulse.gone.cancel();
            child.stop(timings.kill_grace).await;
        }
    }
    pulse.gone.cancel();
}

async fn until_dead(client: &Client, child: &Child, pulse: &Pulse, timings: Timings) {
    let mut connected = pulse.connected.clone();
    let mut stream_down: Option<Instant> = None;
    let mut unanswered: Option<Instant> = None;
    loop {
        if *connected.borrow() {
            stream_down = None;
            if unanswered.is_none() {
                tokio::select! {
                    () = becomes(&mut connected, false) => {}
                    () = pulse.suspect.notified() => {}
                }
            }
        }
        if !*connected.borrow() {
            stream_down.get_or_insert_with(Instant::now);
        }
        let asked = Instant::now();
        unanswered = match client.health(HEALTH_WAIT.min(timings.server_grace)).await {
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(pid = child.pid(), %error, "opencode's server did not answer");
                unanswered.or(Some(asked))
            }
        };
        let age = |since: Option<Instant>| since.map_or(Duration::ZERO, |since| since.elapsed());
        // Counted from when it was asked: a zero would mean that it answered.
        let silent = unanswered.map_or(Duration::ZERO, |since| since.elapsed().max(Duration::from_nanos(1)));
        match judge_health(silent, age(stream_down), timings.server_grace) {
            Health::Well | Health::Suspect => {}
            Health::Deaf => {
                if pulse.retired.borrow().is_none() {
                    tracing::warn!(pid = child.pid(), "opencode's server sends no events; it takes no new turns");
                }
                pulse.retire();
            }
            Health::Dead => return,
        }
        tokio::time::sleep(HEALTH_PAUSE).await;
    }
}

/// Waits until the stream is open, or is not. For ever, if nobody reads it any more.
pub(super) async fn becomes(connected: &mut watch::Receiver<bool>, wanted: bool) {
    if connected.wait_for(|connected| *connected == wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
}
