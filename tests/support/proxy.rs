//! A proxy for faults of the network: it forwards, cuts, swallows everything, or loses just one reply.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Result;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
};

/// Where connections are forwarded to.
#[derive(Clone, Debug)]
pub enum Upstream {
    /// An address.
    Tcp(String),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// What the network does.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mode {
    Forward,
    /// Connections stay open, and nothing comes through; what was sent meanwhile is lost.
    BlackHole,
    /// As soon as these bytes pass to the server, its answers are swallowed and the connection is cut.
    DropReplyTo(Vec<u8>),
}

#[derive(Debug)]
struct State {
    mode: watch::Sender<Mode>,
    /// Counts up: connections made before the present count are cut.
    cuts: watch::Sender<u64>,
    /// Replies dropped so far.
    dropped: watch::Sender<u64>,
}

/// A proxy on loopback; gone with all its connections when dropped.
#[derive(Debug)]
pub struct TcpProxy {
    port: u16,
    state: Arc<State>,
    accept: AbortHandle,
}

impl TcpProxy {
    /// Starts to forward.
    pub async fn start(upstream: Upstream) -> Result<Self> {
        Self::start_on(0, upstream).await
    }

    /// Starts to forward from this port.
    pub async fn start_on(port: u16, upstream: Upstream) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State {
            mode: watch::Sender::new(Mode::Forward),
            cuts: watch::Sender::new(0),
            dropped: watch::Sender::new(0),
        });
        let accept = tokio::spawn(accept(listener, upstream, Arc::clone(&state))).abort_handle();
        Ok(Self { port, state, accept })
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Everything comes through again. Connections that lost bytes are cut, as nothing sensible can follow on them.
    pub fn forward(&self) {
        if self.state.mode.send_replace(Mode::Forward) == Mode::BlackHole {
            self.cut();
        }
    }

    /// Cuts all connections; new ones are accepted.
    pub fn cut(&self) {
        self.state.cuts.send_modify(|count| *count += 1);
    }

    /// Nothing comes through from now on, and nobody is told.
    pub fn black_hole(&self) {
        self.state.mode.send_replace(Mode::BlackHole);
    }

    /// The next time that a request with these bytes (not split over packets) passes, its reply is lost and its connection
    /// cut; only once. The server has got the request.
    pub fn drop_reply_to(&self, request: &str) {
        self.state.mode.send_replace(Mode::DropReplyTo(request.as_bytes().to_vec()));
    }

    /// Waits until a reply was dropped.
    pub async fn reply_dropped(&self) -> Result<()> {
        tokio::time::timeout(Duration::from_secs(30), self.state.dropped.subscribe().wait_for(|count| *count > 0))
            .await??;
        Ok(())
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn accept(listener: TcpListener, upstream: Upstream, state: Arc<State>) {
    // Aborted with this task.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (upstream, state) = (upstream.clone(), Arc::clone(&state));
        connections.spawn(async move {
            let _ = client.set_nodelay(true);
            match upstream {
                Upstream::Tcp(address) => {
                    if let Ok(server) = TcpStream::connect(address).await {
                        carry(client, server, &state).await;
                    }
                }
                Upstream::Unix(path) => {
                    if let Ok(server) = UnixStream::connect(path).await {
                        carry(client, server, &state).await;
                    }
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Carries bytes both ways until one side closes, or the connection is cut.
async fn carry(client: TcpStream, server: impl AsyncRead + AsyncWrite, state: &State) {
    let mut cuts = state.cuts.subscribe();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let swallow = watch::Sender::new(false);
    let requests = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = from_client.read(&mut buffer).await.unwrap_or(0);
            if count == 0 {
                return;
            }
            let bytes = &buffer[..count];
            let mode = state.mode.borrow().clone();
            match mode {
                Mode::BlackHole => continue,
                Mode::DropReplyTo(request) if bytes.windows(request.len()).any(|window| window == request) => {
                    state.mode.send_replace(Mode::Forward);
                    swallow.send_replace(true);
                }
                Mode::DropReplyTo(_) | Mode::Forward => {}
            }
            if to_server.write_all(bytes).await.is_err() {
                return;
            }
        }
    };
    let replies = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = from_server.read(&mut buffer).await.unwrap_or(0);
            if count == 0 {
                return;
            }
            if *swallow.borrow() {
                // The reply was there, so the server has done its work.
                state.dropped.send_modify(|count| *count += 1);
                return;
            }
            if *state.mode.borrow() == Mode::BlackHole {
                continue;
            }
            if to_client.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        () = replies => {}
        _ = cuts.changed() => {}
    }
}
