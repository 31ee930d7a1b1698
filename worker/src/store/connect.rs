//! Pools of connections.

use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, Pool, QueueMode, RecyclingMethod, Runtime};
use tokio_postgres::config::SslMode;

use super::{Result, StoreError, durable};
use crate::{
    model::counters::Counters,
    postgres::{Address, Tls},
};

/// How long getting a connection may take before the database counts as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A single statement never needs this long; a stuck one must not hold a worker for ever.
const STATEMENT_TIMEOUT_MS: u32 = 60_000;
/// After this long without an answer there is none to come: the server would have given up the statement, unless there is a pooler, behind
/// which its operator sets such limits.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(65);
/// How long what was sent may stay unacknowledged by the other machine before the connection counts as broken.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// When a silent connection is probed, and how long between probes.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(5));
/// Probes without an answer after which it is broken.
const KEEPALIVE_PROBES: u32 = 3;
/// What `tokio_postgres` has for connections that nobody said anything about.
const KEEPALIVE_UNSET: Duration = Duration::from_secs(2 * 60 * 60);

/// Where the database is and how to talk to it.
#[derive(Clone)]
pub struct Connect {
    /// Host, user, database, password.
    pub config: tokio_postgres::Config,
    /// Encryption, as far as the configuration asks for it.
    pub tls: Tls,
    /// Connections for queries.
    pub pool_size: usize,
    /// Through a pooler, which may run each transaction on another of its connections to the server. Nothing is set on a connection then:
    /// it would hold for whoever has that connection next.
    pub pooled: bool,
}

impl Connect {
    /// To an address.
    pub fn to(address: Address, pool_size: usize) -> Self {
        Self { config: address.config, tls: address.tls, pool_size, pooled: false }
    }

    /// The same, through a pooler or not.
    #[must_use]
    pub fn through_pooler(self, pooled: bool) -> Self {
        Self { pooled, ..self }
    }

    /// Without TLS, whatever the configuration says.
    pub fn plain(mut config: tokio_postgres::Config, pool_size: usize) -> Self {
        config.ssl_mode(SslMode::Disable);
        Self { config, tls: Tls::unused(), pool_size, pooled: false }
    }
}

impl std::fmt::Debug for Connect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // tokio_postgres::Config hides the password itself.
        f.debug_struct("Connect")
            .field("config", &self.config)
            .field("tls", &self.tls)
            .field("pool_size", &self.pool_size)
            .field("pooled", &self.pooled)
            .finish()
    }
}

/// The database, with its pools. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    connect: Connect,
    /// Commits wait for the disk.
    main: Pool,
    /// Commits need not wait for the disk: what a crash of the database may undo without harm (claims, transcripts). Through a pooler they
    /// do.
    relaxed: Pool,
    /// One connection, so that heartbeats never queue behind anything.
    heartbeat: Pool,
    /// What was done through it.
    counters: Counters,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("connect", &self.connect).finish_non_exhaustive()
    }
}

fn pool(connect: &Connect, size: usize, synchronous_commit: bool) -> Result<Pool> {
    let mut config = connect.config.clone();
    if config.get_application_name().is_none() {
        config.application_name("millhand");
    }
    // A connection that is gone without a word (a failover, a forgotten NAT entry) is otherwise noticed after a quarter of an hour.
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(TCP_USER_TIMEOUT);
    }
    if config.get_keepalives_idle() == KEEPALIVE_UNSET {
        config.keepalives_idle(KEEPALIVE.0).keepalives_interval(KEEPALIVE.1).keepalives_retries(KEEPALIVE_PROBES);
    }
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(config, connect.tls.clone(), recycling);
    let mut pool = Pool::builder(manager)
        .max_size(size)
        // The one that was used last: it has its statements prepared and planned, and what they touch in its caches.
        .queue_mode(QueueMode::Lifo)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(CONNECT_TIMEOUT))
        .create_timeout(Some(CONNECT_TIMEOUT))
        .recycle_timeout(Some(CONNECT_TIMEOUT));
    if !connect.pooled {
        pool = pool.post_create(Hook::async_fn(move |client, _| {
            Box::pin(async move {
                let commit = if synchronous_commit { "on" } else { "off" };
                client
                    .batch_execute(&format!(
                        "SET statement_timeout = {STATEMENT_TIMEOUT_MS}; SET synchronous_commit = {commit}; SET jit = off"
                    ))
                    .await
                    .map_err(HookError::Backend)
            })
        }));
    }
    pool.build().map_err(|error| StoreError::Unexpected(error.to_string()))
}

impl Store {
    /// Makes the pools. Connects to nothing yet.
    pub fn new(connect: Connect) -> Result<Self> {
        Ok(Self {
            main: pool(&connect, connect.pool_size.max(2), true)?,
            relaxed: pool(&connect, connect.pool_size.max(2), false)?,
            heartbeat: pool(&connect, 1, false)?,
            counters: Counters::default(),
            connect,
        })
    }

    /// What was done through this and its clones.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How it connects.
    pub fn connect(&self) -> &Connect {
        &self.connect
    }

    /// Waits for an answer, but not for ever: a connection can be gone without anyone being told. Those that nobody uses just now are
    /// made anew then; they may be gone by the same way.
    pub(super) async fn answered<T>(&self, within: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
        if let Ok(done) = tokio::time::timeout(within, work).await {
            return done;
        }
        for pool in [&self.main, &self.relaxed, &self.heartbeat] {
            pool.retain(|_, _| false);
        }
        Err(StoreError::Unreachable(format!("no answer within {} s", within.as_secs_f32())))
    }

    /// A connection whose commits wait for the disk.
    pub(super) async fn client(&self) -> Result<Object> {
        durable(&self.main).await
    }

    /// A connection whose commits need not wait for the disk.
    pub(super) async fn relaxed(&self) -> Result<Object> {
        durable(&self.relaxed).await
    }

    /// The heartbeat's own connection.
    pub(super) async fn heartbeat_client(&self) -> Result<Object> {
        durable(&self.heartbeat).await
    }

    /// Answers whether the database answers.
    pub async fn ping(&self) -> Result<()> {
        self.client().await?.simple_query("SELECT 1").await?;
        Ok(())
    }

    /// Closes all connections.
    pub fn close(&self) {
        self.main.close();
        self.relaxed.close();
        self.heartbeat.close();
    }
}
