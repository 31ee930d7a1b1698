//! Telling a service manager how we are, by systemd's notify protocol: a datagram to the socket that `NOTIFY_SOCKET` names.
//!
//! Without such a socket nothing is sent. What cannot be sent is not worth an error: the manager then acts by its own timeouts.

use std::{
    convert::Infallible,
    ffi::OsStr,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

/// A service manager that listens, or none.
#[derive(Debug, Default)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// By the values of `NOTIFY_SOCKET` (a path, or a name after `@`), `WATCHDOG_USEC`, and `WATCHDOG_PID`, which names whom that is for.
    pub fn new(socket: Option<&OsStr>, watchdog_micros: Option<&OsStr>, watchdog_pid: Option<&OsStr>) -> Self {
        let socket = socket.and_then(|name| {
            let address = match name.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(name),
            };
            Some((UnixDatagram::unbound().ok()?, address.ok()?))
        });
        let number = |text: Option<&OsStr>| text.and_then(OsStr::to_str).and_then(|text| text.parse::<u64>().ok());
        let is_for_us = number(watchdog_pid).is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number(watchdog_micros).filter(|micros| *micros > 0 && is_for_us).map(Duration::from_micros);
        Self { watchdog: watchdog.filter(|_| socket.is_some()), socket }
    }

    /// We work.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// We are about to end.
    pub fn stopping(&self, status: &str) {
        self.tell(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// Says again and again that we are alive, as often as the manager wants to hear it; for ever, also if it does not.
    pub async fn keep_alive(&self) -> Infallible {
        let Some(within) = self.watchdog else { return std::future::pending().await };
        loop {
            self.tell("WATCHDOG=1");
            tokio::time::sleep(within / 3).await;
        }
    }

    fn tell(&self, what: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(what.as_bytes(), address)
        {
            tracing::debug!(%error, "the service manager does not listen");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_socket_there_is_no_watchdog_and_another_process_is_not_us() {
        let some = |text: &'static str| Some(OsStr::new(text));
        assert_eq!(ServiceManager::new(None, some("1000000"), None).watchdog, None);
        assert_eq!(ServiceManager::new(some("/x"), some("1000000"), some("1")).watchdog, None);
        let ours = ServiceManager::new(some("@x"), some("1000000"), None);
        assert_eq!(ours.watchdog, Some(Duration::from_secs(1)));
    }
}
