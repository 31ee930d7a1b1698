//! Settles applies that were interrupted, and re-bases sessions that were in use when changes of theirs were applied.
//!
//! It decides nothing: where a branch is found to be does. See `actions::recover`.

use tokio_util::sync::CancellationToken;

use super::{Rounds, Trouble};
use crate::{
    actions::{ActionError, Applier},
    store::StoreError,
};

/// What the settler needs.
pub struct Settler {
    /// Who applies.
    pub applier: Applier,
}

impl Settler {
    /// Settles until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut trouble = Trouble::new("settling applies");
        let mut rounds = Rounds::every(self.applier.timings.settle_applies, &stop);
        while rounds.next().await {
            let settled = self.applier.recover_all().await;
            trouble.note(settled.map_err(|error| match error {
                ActionError::Store(error) => error,
                other => StoreError::Unexpected(other.to_string()),
            }));
        }
    }
}
