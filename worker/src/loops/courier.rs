//! Posts deliveries to webhooks.
//!
//! A delivery is taken by an update that others skip, for longer than a post can take. A worker that dies between the post and the
//! note of it lets it be posted again, with the same id: at least once, and receivers tell by the id.

use std::{collections::HashMap, sync::Arc};

use tokio::{
    sync::Notify,
    task::{Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::Trouble;
use crate::{
    actions::{Poster, deliver},
    config::Timings,
    model::webhook::Backoff,
    store::{Store, StoreError, webhooks::Due},
};

/// Posts under way at once.
const AT_ONCE: usize = 32;
/// Posts to one webhook taken at once, and under way at once before no more are taken: a slow receiver holds up no other.
const EACH: i64 = 4;

/// What the courier needs.
pub struct Courier {
    /// Where from.
    pub store: Store,
    /// Nudges it.
    pub wake: Arc<Notify>,
    /// Intervals.
    pub timings: Timings,
}

impl Courier {
    /// Posts until `stop`; what is under way then is finished.
    pub async fn run(self, stop: CancellationToken) {
        let poster = Poster::new(self.timings.webhook_timeout);
        let mut trouble = Trouble::new("taking deliveries to post");
        let mut posts = Posts {
            running: JoinSet::new(),
            webhooks: HashMap::new(),
            noting: Trouble::new("noting what came of posts"),
        };
        while !stop.is_cancelled() {
            let nudged = self.wake.notified();
            while let Some(ended) = posts.running.try_join_next_with_id() {
                posts.ended(ended);
            }
            let Some(taken) = stop.run_until_cancelled(self.take(&poster, &posts)).await else { break };
            let taken = trouble.note(taken).unwrap_or_default();
            if !taken.is_empty() {
                for due in taken {
                    posts.start(self.store.clone(), poster.clone(), self.timings.webhook_waits(), due);
                }
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = nudged => {}
                () = tokio::time::sleep(self.timings.notify) => {}
                // A place is free.
                Some(ended) = posts.running.join_next_with_id() => posts.ended(ended),
            }
        }
        while let Some(ended) = posts.running.join_next_with_id().await {
            posts.ended(ended);
        }
    }

    /// Takes as many deliveries as there is room for.
    async fn take(&self, poster: &Poster, posts: &Posts) -> Result<Vec<Due>, StoreError> {
        let room = i64::try_from(AT_ONCE.saturating_sub(posts.running.len())).unwrap_or(0);
        if room == 0 {
            return Ok(Vec::new());
        }
        let mut counts: HashMap<i64, i64> = HashMap::new();
        for webhook in posts.webhooks.values() {
            *counts.entry(*webhook).or_default() += 1;
        }
        let full: Vec<_> = counts.into_iter().filter(|(_, count)| *count >= EACH).map(|(webhook, _)| webhook).collect();
        self.store.claim_deliveries(EACH, room, poster.lease(), &full).await
    }
}

/// Posts under way.
struct Posts {
    running: JoinSet<Result<(), StoreError>>,
    /// To which webhook.
    webhooks: HashMap<Id, i64>,
    noting: Trouble,
}

impl Posts {
    fn start(&mut self, store: Store, poster: Poster, waits: Backoff, due: Due) {
        let webhook = due.webhook_id;
        let task = self.running.spawn(async move { deliver(&store, &poster, waits, &due).await });
        self.webhooks.insert(task.id(), webhook);
    }

    fn ended(&mut self, ended: Result<(Id, Result<(), StoreError>), JoinError>) {
        match ended {
            Ok((id, noted)) => {
                self.webhooks.remove(&id);
                self.noting.note(noted);
            }
            // It is posted again when its time is over.
            Err(panicked) => {
                self.webhooks.remove(&panicked.id());
            }
        }
    }
}
