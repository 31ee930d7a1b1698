//! The listener: turns `NOTIFY` into a nudge. A hint only; what decides is a query.
//!
//! It has a connection of its own, proves it alive by a query every few seconds (a half-open connection never fails by
//! itself), and after each reconnect listens first and nudges then, so that nothing that came in between is missed.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::StreamExt;
use tokio::sync::Notify;
use tokio_postgres::AsyncMessage;
use tokio_util::sync::CancellationToken;

use super::{Connect, Result, StoreError};

/// Who is woken by what.
#[derive(Clone, Debug, Default)]
pub struct Wakes {
    /// Something may be claimable.
    pub tasks: Arc<Notify>,
    /// A running task may have been cancelled.
    pub cancels: Arc<Notify>,
    /// A worktree may have to go.
    pub worktrees: Arc<Notify>,
    /// There may be something to tell a webhook.
    pub webhooks: Arc<Notify>,
}

/// Listens until `stop`, reconnecting for ever.
pub async fn listen(connect: Connect, wakes: Wakes, check: Duration, stop: CancellationToken) {
    let backoff = || {
        ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(5))
            .with_jitter()
            .without_max_times()
            .build()
    };
    let mut delays = backoff();
    loop {
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            outcome = listen_once(&connect, &wakes, check, || delays = backoff()) => outcome,
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "the listening connection ended; polling goes on");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(delays.next().unwrap_or(Duration::from_secs(5))) => {}
        }
    }
}

/// One connection, until it breaks.
async fn listen_once(connect: &Connect, wakes: &Wakes, check: Duration, connected: impl FnOnce()) -> Result<()> {
    let (client, mut connection) = connect.config.connect(connect.tls.clone()).await?;
    let (messages, mut arrived) = tokio::sync::mpsc::channel(16);
    let driver = tokio::spawn(async move {
        let mut stream = futures::stream::poll_fn(move |cx| connection.poll_message(cx));
        while let Some(message) = stream.next().await {
            match message {
                // A full channel means that a wake is already under way.
                Ok(AsyncMessage::Notification(note)) => drop(messages.try_send(note.channel().to_owned())),
                Ok(_) => {}
                Err(error) => return Err(StoreError::from(error)),
            }
        }
        Ok(())
    });
    let bounded = |query: &'static str| {
        let client = &client;
        async move {
            tokio::time::timeout(check, client.batch_execute(query))
                .await
                .map_err(|_| StoreError::Unreachable("no answer on the listening connection".to_owned()))?
                .map_err(StoreError::from)
        }
    };
    let result = async {
        bounded("LISTEN tasks_new; LISTEN tasks_cancel; LISTEN worktrees_changed; LISTEN webhooks_changed; SET application_name = 'millhand listener'").await?;
        connected();
        wakes.tasks.notify_one();
        wakes.cancels.notify_one();
        wakes.worktrees.notify_one();
        wakes.webhooks.notify_one();
        loop {
            match tokio::time::timeout(check, arrived.recv()).await {
                Ok(Some(channel)) if channel == "tasks_cancel" => wakes.cancels.notify_one(),
                Ok(Some(channel)) if channel == "worktrees_changed" => wakes.worktrees.notify_one(),
                Ok(Some(channel)) if channel == "webhooks_changed" => wakes.webhooks.notify_one(),
                Ok(Some(_)) => wakes.tasks.notify_one(),
                Ok(None) => return Err(StoreError::Unreachable("the listening connection closed".to_owned())),
                Err(_) => bounded("SELECT 1").await?,
            }
        }
    }
    .await;
    driver.abort();
    result
}
