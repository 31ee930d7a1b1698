//! Webhooks: what is noted for them, how it is posted, and what they may not reach.

mod commands;
mod guard;
mod noting;
mod posting;

use std::time::Duration;

use millhand::{
    actions::{WebhookRequest, add_webhook},
    config::Timings,
    loops::{courier::Courier, notifier::Notifier},
    model::{retry::Verdict, webhook::Kind},
    store::Store,
};
use secrecy::SecretString;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    queue::Queue,
    support::{self, receiver::Receiver},
};

pub(crate) const OVERLAP: Duration = Duration::from_secs(600);
const WITHIN: Duration = Duration::from_secs(60);

async fn wait_until(what: &str, condition: impl AsyncFnMut() -> bool) {
    support::wait_until(what, WITHIN, condition).await.expect("in time");
}

fn quick() -> Timings {
    Timings {
        notify: Duration::from_millis(100),
        webhook_timeout: Duration::from_secs(5),
        webhook_backoff: Duration::from_millis(40),
        webhook_backoff_cap: Duration::from_millis(200),
        ..Timings::default()
    }
}

/// A webhook that may go to this machine.
async fn webhook(q: &Queue, url: &str, kinds: &[Kind]) -> (i64, SecretString) {
    let request =
        WebhookRequest { url: url.to_owned(), kinds: kinds.to_vec(), allow_private: true, ..WebhookRequest::default() };
    let (row, secret) = add_webhook(&q.store, &request).await.expect("webhook");
    (row.id, secret)
}

/// A task that runs and comes to rest so.
async fn end_one(q: &Queue, verdict: Verdict) -> i64 {
    let (_, task) = q.open().await;
    let claimed = q.claim_one().await;
    assert_eq!(claimed.task_id, task);
    q.finish(&claimed, verdict).await;
    task
}

async fn deliveries(q: &Queue) -> i64 {
    q.one("SELECT count(*) FROM millhand.deliveries").await
}

async fn in_state(q: &Queue, state: &str) -> i64 {
    q.one(&format!("SELECT count(*) FROM millhand.deliveries WHERE state = '{state}'")).await
}

/// Deliveries to a webhook that tell nothing.
async fn some_deliveries(q: &Queue, webhook: i64, how_many: i64) {
    q.sql(&format!(
        "INSERT INTO millhand.deliveries (webhook_id, dedupe_key, event, payload) \
         SELECT {webhook}, 'test:' || n, 'webhook.test', '{{\"v\": 1}}' FROM generate_series(1, {how_many}) n"
    ))
    .await;
}

/// Loops of a worker that were started by a test.
struct Loops {
    stop: CancellationToken,
    running: Vec<JoinHandle<()>>,
}

impl Loops {
    fn start(store: &Store, timings: Timings) -> Self {
        let stop = CancellationToken::new();
        let courier = Courier { store: store.clone(), wake: std::sync::Arc::default(), timings };
        let notifier =
            Notifier { store: store.clone(), wake: std::sync::Arc::default(), courier: courier.wake.clone(), timings };
        let running = vec![tokio::spawn(courier.run(stop.clone())), tokio::spawn(notifier.run(stop.clone()))];
        Self { stop, running }
    }

    /// As a process that is killed: between two steps, without a word.
    fn kill(self) {
        for task in self.running {
            task.abort();
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        for task in self.running {
            task.await.expect("ended");
        }
    }
}

async fn receiver() -> Receiver {
    Receiver::new().await.expect("receiver")
}
