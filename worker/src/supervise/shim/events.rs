//! Events on their way to the worker. Nothing here waits for a worker that does not read: lines are dropped and counted instead.

use std::{collections::VecDeque, time::Duration};

use tokio::net::unix::{OwnedWriteHalf, pipe};

use crate::supervise::{
    Stream,
    wire::{self, Event},
};

/// Most bytes of lines that wait for the worker.
const WAITING_BYTES: usize = 1024 * 1024;

/// How the worker is talked to.
pub(super) enum Link {
    /// It started this shim.
    Pipe(pipe::Sender),
    /// It adopted it.
    Socket(OwnedWriteHalf),
}

impl Link {
    async fn writable(&self) -> std::io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.writable().await,
            Self::Socket(socket) => socket.writable().await,
        }
    }

    fn try_write(&self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Pipe(pipe) => pipe.try_write(bytes),
            Self::Socket(socket) => socket.try_write(bytes),
        }
    }
}

/// The queue in front of the worker's pipe.
pub(super) struct Events {
    link: Link,
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    /// How much of the first one is written.
    written: usize,
    dropped: u64,
    broken: bool,
}

impl Events {
    pub(super) fn new(link: Link) -> Self {
        Self { link, waiting: VecDeque::new(), bytes: 0, written: 0, dropped: 0, broken: false }
    }

    /// Queues an event that must arrive.
    pub(super) fn send(&mut self, event: &Event) {
        if let Ok(line) = wire::line(event)
            && !self.broken
        {
            self.bytes += line.len();
            self.waiting.push_back(line);
        }
    }

    /// Queues a line, or drops it when too many wait.
    pub(super) fn send_line(&mut self, stream: Stream, text: String) {
        if self.broken {
            return;
        }
        if self.bytes + text.len() > WAITING_BYTES {
            self.dropped += 1;
            return;
        }
        if self.dropped > 0 {
            let lines = std::mem::take(&mut self.dropped);
            self.send(&Event::Dropped { lines });
        }
        self.send(&Event::Line { stream, text });
    }

    /// Whether something waits.
    pub(super) fn waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Writes what the pipe takes, once it takes something. May be broken off at any time.
    pub(super) async fn write_some(&mut self) {
        if self.link.writable().await.is_err() {
            return self.hang_up();
        }
        while let Some(first) = self.waiting.front() {
            match self.link.try_write(&first[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => return self.hang_up(),
            }
            if self.written == first.len() {
                self.bytes -= first.len();
                self.written = 0;
                self.waiting.pop_front();
            }
        }
    }

    /// Writes all, within a bound.
    pub(super) async fn flush(&mut self, within: Duration) {
        if self.dropped > 0 {
            let lines = std::mem::take(&mut self.dropped);
            self.send(&Event::Dropped { lines });
        }
        let all = async {
            while self.waiting() {
                self.write_some().await;
            }
        };
        let _ = tokio::time::timeout(within, all).await;
    }

    /// Nobody reads any more: what is said from here on is lost, but for the log.
    pub(super) fn hang_up(&mut self) {
        self.broken = true;
        self.waiting.clear();
        self.bytes = 0;
        self.written = 0;
    }
}
