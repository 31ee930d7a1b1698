//! What happens to the hosts, by a seed.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use millhand::config::Home;
use rustix::process::Signal;
use tokio_postgres::Config;

use super::host::{ChaosHost, signal_pid};
use crate::support::db::connect;

/// A fault that struck.
#[derive(Clone, Debug)]
pub(super) struct Struck {
    pub(super) at: SystemTime,
    pub(super) what: Kind,
    pub(super) host: String,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    WorkerKilled,
    WorkerStopped,
    Deploy,
    ServerKilled,
    ServerStopped,
    PostgresKilled,
    PostgresImmediate,
    ConnectionsCut,
    BlackHole,
    WorkerAndShimsKilled,
    ListenersKilled,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::WorkerKilled,
        Self::WorkerStopped,
        Self::Deploy,
        Self::ServerKilled,
        Self::ServerStopped,
        Self::PostgresKilled,
        Self::PostgresImmediate,
        Self::ConnectionsCut,
        Self::BlackHole,
        Self::WorkerAndShimsKilled,
        Self::ListenersKilled,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::WorkerKilled => "worker SIGKILL",
            Self::WorkerStopped => "worker SIGSTOP",
            Self::Deploy => "worker SIGTERM",
            Self::ServerKilled => "opencode SIGKILL",
            Self::ServerStopped => "opencode SIGSTOP",
            Self::PostgresKilled => "postgres SIGKILL",
            Self::PostgresImmediate => "postgres immediate",
            Self::ConnectionsCut => "connections cut",
            Self::BlackHole => "black hole",
            Self::WorkerAndShimsKilled => "worker and shims SIGKILL",
            Self::ListenersKilled => "listeners killed",
        }
    }
}

/// Numbers at random that are the same for a seed in every version (splitmix64).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() % bound as u64).unwrap_or(0)
    }

    pub(super) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.roll() % (to - from))
    }
}

/// How much longer the database is out of reach than other things last: often longer than a lease.
const BLACK_HOLE_LONGER: u32 = 2;

/// Strikes again and again.
pub(super) struct Faults {
    dice: Dice,
    database: Home,
    direct: Config,
    log: Vec<Struck>,
}

impl Faults {
    pub(super) fn new(seed: u64, database: Home, direct: Config) -> Self {
        Self { dice: Dice(seed), database, direct, log: Vec::new() }
    }

    pub(super) fn log(&self) -> &[Struck] {
        &self.log
    }

    /// Waits a little, then does one thing to one host, and heals what lasts.
    pub(super) async fn strike(&mut self, hosts: &mut [ChaosHost]) -> Result<()> {
        tokio::time::sleep(self.dice.millis(100, 2000)).await;
        let victim = self.dice.below(hosts.len());
        let what = Kind::ALL[self.dice.below(Kind::ALL.len())];
        let lasts = self.dice.millis(200, 6000);
        let host = &mut hosts[victim];
        self.log.push(Struck { at: SystemTime::now(), what, host: host.name.clone() });
        match what {
            Kind::WorkerKilled => host.kill_and_restart(lasts / 8).await?,
            Kind::Deploy => host.deploy().await?,
            Kind::WorkerStopped => {
                host.signal(Signal::STOP)?;
                tokio::time::sleep(lasts).await;
                host.signal(Signal::CONT)?;
            }
            Kind::ServerKilled => host.servers().into_iter().for_each(|pid| signal_pid(pid, Signal::KILL)),
            Kind::ServerStopped => {
                let servers = host.servers();
                servers.iter().for_each(|pid| signal_pid(*pid, Signal::STOP));
                tokio::time::sleep(lasts).await;
                servers.iter().for_each(|pid| signal_pid(*pid, Signal::CONT));
            }
            Kind::PostgresKilled => self.signal_postgres(Signal::KILL),
            Kind::PostgresImmediate => self.signal_postgres(Signal::QUIT),
            Kind::ConnectionsCut => host.proxy().cut(),
            Kind::BlackHole => {
                host.proxy().black_hole();
                tokio::time::sleep(lasts * BLACK_HOLE_LONGER).await;
                host.proxy().forward();
                host.proxy().cut();
            }
            Kind::WorkerAndShimsKilled => {
                host.kill_shims();
                host.kill_and_restart(lasts / 8).await?;
            }
            Kind::ListenersKilled => self.kill_listeners().await,
        }
        for host in hosts {
            host.see_to_it()?;
        }
        Ok(())
    }

    /// Ends the connections that listen; a database that is away has none.
    async fn kill_listeners(&self) {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ILIKE 'LISTEN%'";
        if let Ok(client) = connect(&self.direct).await {
            let _ = client.execute(sql, &[]).await;
        }
    }

    fn signal_postgres(&self, signal: Signal) {
        let file = self.database.postgres().join("data/postmaster.pid");
        let pid = fs::read_to_string(file).ok().and_then(|text| text.lines().next()?.trim().parse().ok());
        if let Some(pid) = pid {
            signal_pid(pid, signal);
        }
    }
}
