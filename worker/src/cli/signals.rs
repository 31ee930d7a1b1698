//! Being told to stop.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask a command to end: Ctrl-C, SIGTERM, SIGHUP. From [`listen`](Self::listen) on, they no longer end the
/// process by themselves; a command that changes the terminal listens before it does.
pub(super) struct Told([Signal; 3]);

impl Told {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?]))
    }

    /// Returns at the next one. Safe to drop and to call again: none is missed.
    pub(super) async fn told(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
