//! Notes new items of the inbox as deliveries to webhooks.
//!
//! Each round looks back over what it has seen already, and an item that is found again has the same key: so any number of
//! workers do this at once, a crash at any point loses nothing, and the queue itself does nothing for it.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Trouble;
use crate::{
    config::Timings,
    model::counters::Count,
    store::{Store, StoreError, webhooks::Outlook},
};

/// Items noted by one statement.
const AT_MOST: i64 = 500;
/// Tasks that wait for a host that is gone are counted up to here.
const TASKS_COUNTED: i64 = 1000;
/// However often it is nudged, a round begins at most so many times in the time between two rounds.
const NUDGED_AT_MOST: u32 = 10;
/// A watermark is moved once so much of the overlap has passed.
const MOVES_PER_OVERLAP: u32 = 20;

/// Where items come from.
#[derive(Clone, Copy, Debug)]
enum Source {
    Inbox,
    Completed,
    Hosts,
}

/// What the notifier needs.
pub struct Notifier {
    /// Where to.
    pub store: Store,
    /// Nudges it.
    pub wake: Arc<Notify>,
    /// Nudged when there is something to post.
    pub courier: Arc<Notify>,
    /// Intervals.
    pub timings: Timings,
}

impl Notifier {
    /// Notes until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let every = self.timings.notify.max(Duration::from_millis(10));
        let mut trouble = Trouble::new("noting what webhooks are to be told");
        loop {
            let nudged = self.wake.notified();
            trouble.note(stop.run_until_cancelled(self.round()).await.unwrap_or(Ok(())));
            // Also where nothing was noted: a nudge may be about a delivery that a person wants posted again.
            self.courier.notify_one();
            tokio::select! {
                () = stop.cancelled() => return,
                () = async {
                    tokio::time::sleep(every / NUDGED_AT_MOST).await;
                    nudged.await;
                } => {}
                () = tokio::time::sleep(every) => {}
            }
        }
    }

    async fn round(&self) -> Result<(), StoreError> {
        let overlap = self.timings.notify_overlap;
        let Some(outlook) = self.store.outlook(overlap).await? else { return Ok(()) };
        let wanted =
            [(outlook.inbox, Source::Inbox), (outlook.completed, Source::Completed), (outlook.hosts, Source::Hosts)];
        for (_, source) in wanted.into_iter().filter(|(is_wanted, _)| *is_wanted) {
            self.note_all(source, outlook).await?;
        }
        self.store.move_watermarks(outlook.now, overlap / MOVES_PER_OVERLAP).await
    }

    /// Notes batch after batch until there is nothing left. What others noted meanwhile counts as found: else a round that met them
    /// would end early, and its watermark pass over the rest.
    async fn note_all(&self, source: Source, outlook: Outlook) -> Result<(), StoreError> {
        let overlap = self.timings.notify_overlap;
        loop {
            let noted = match source {
                Source::Inbox => self.store.note_inbox(outlook, overlap, AT_MOST).await?,
                Source::Completed => self.store.note_completed(outlook, overlap, AT_MOST).await?,
                Source::Hosts => self.store.note_hosts(AT_MOST, TASKS_COUNTED).await?,
            };
            self.store.counters().add(Count::DeliveriesNoted, noted.new.unsigned_abs());
            if noted.new > 0 {
                self.courier.notify_one();
            }
            if noted.found < AT_MOST {
                return Ok(());
            }
        }
    }
}
