//! What happens to the hosts, by a seed.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use millhand::config::Home;
use rustix::process::Signal;

use super::host::{ChaosHost, signal_pid};

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
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::WorkerKilled,
        Self::WorkerStopped,
        Self::Deploy,
        Self::ServerKilled,
        Self::ServerStopped,
        Self::PostgresKilled,
        Self::PostgresImmediate,
        Self::ConnectionsCut,
        Self::BlackHole,
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
        }
    }
}

/// Numbers at random that are the same for a seed in every version (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() % bound as u64).unwrap_or(0)
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.roll() % (to - from))
    }
}

/// Strikes again and again.
pub(super) struct Faults {
    dice: Dice,
    database: Home,
    log: Vec<Struck>,
}

impl Faults {
    pub(super) fn new(seed: u64, database: Home) -> Self {
        Self { dice: Dice(seed), database, log: Vec::new() }
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
                tokio::time::sleep(lasts).await;
                host.proxy().forward();
                host.proxy().cut();
            }
        }
        for host in hosts {
            host.see_to_it()?;
        }
        Ok(())
    }

    fn signal_postgres(&self, signal: Signal) {
        let file = self.database.postgres().join("data/postmaster.pid");
        let pid = fs::read_to_string(file).ok().and_then(|text| text.lines().next()?.trim().parse().ok());
        if let Some(pid) = pid {
            signal_pid(pid, signal);
        }
    }
}
