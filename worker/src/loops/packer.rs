//! Packs the mirrors of this host, to which every turn adds objects.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Trouble;
use crate::{
    git::{Git, LOOSE_OBJECTS},
    model::counters::{Count, Counters},
    store::StoreError,
};

/// What the packer needs.
pub struct Packer {
    /// Whose mirrors.
    pub git: Git,
    /// Where it is counted.
    pub counters: Counters,
    /// Between looks.
    pub every: Duration,
}

impl Packer {
    /// Packs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut trouble = Trouble::new("packing mirrors");
        let mut ticks = tokio::time::interval(self.every.max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                packed = self.git.pack_mirrors(LOOSE_OBJECTS) => {
                    let packed = packed.map_err(|error| StoreError::Unexpected(error.to_string()));
                    self.counters.add(Count::MirrorsPacked, trouble.note(packed).unwrap_or(0));
                }
            }
        }
    }
}
