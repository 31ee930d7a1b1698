//! Writing to a database that may be away for a moment: a turn is dear, and a restart of Postgres must not cost one.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::time::Instant;

use super::{Interrupted, interrupted, lease::Lease};
use crate::store::StoreError;

/// How long what a turn brought is kept for a database that cannot be reached. Writing it is fenced, so trying is safe.
pub(super) const KEEP_TRYING: Duration = Duration::from_secs(3600);
/// Between two tries: from, to.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// The pauses between tries.
pub(super) fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(PAUSES.0)
        .with_max_delay(PAUSES.1)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Does something with the database, again and again while that cannot be reached: until the turn has to stop (without heartbeats
/// the lease ends soon), or when it is over, for as long as its result is kept. It must be safe to do twice.
pub(super) async fn persist<T, F>(lease: &Lease, mut work: impl FnMut() -> F) -> Result<T, Interrupted>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let began = Instant::now();
    let mut pauses = pauses();
    loop {
        let error = match work().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let Some(pause) = pauses.next().filter(|_| error.is_unreachable() && began.elapsed() < KEEP_TRYING) else {
            return Err(error.into());
        };
        tracing::debug!(%error, "the database is away; trying again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = lease.stopped().cancelled(), if !lease.is_settling() => return interrupted(lease),
        }
    }
}
