//! Packs the mirrors of this host, to which every turn adds objects.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Rounds, Trouble};
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
        let mut rounds = Rounds::every(self.every, &stop);
        while rounds.next().await {
            let Some(packed) = rounds.unless_stopped(self.git.pack_mirrors(LOOSE_OBJECTS)).await else { return };
            let packed = packed.map_err(|error| StoreError::Unexpected(error.to_string()));
            self.counters.add(Count::MirrorsPacked, trouble.note(packed).unwrap_or(0));
        }
    }
}
