//! The one `/global/event` stream of a server, and who gets which of its events.
//!
//! One reader per server, because a stream per session would be a connection per turn, and opencode buffers without bound for
//! a reader that does not read. Events are handed to turns by session, subagents' to the turn that started them, through
//! bounded channels. **A turn that does not keep up never holds the reader up**: its event is dropped and the turn is told
//! that it must read by GET. The same happens after a reconnect, as the server replays nothing.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use sse_stream::SseByteStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    client::Client,
    wire::{RawEvent, read_event},
};

/// Events that wait for a turn to take them.
const TURN_QUEUE: usize = 2048;
/// Longest event, in bytes. opencode cuts what tools print, but not what models write.
const MAX_EVENT: usize = 16 << 20;
/// First wait before the stream is opened again.
const RECONNECT_MIN: Duration = Duration::from_millis(50);
/// Longest wait before the stream is opened again.
const RECONNECT_MAX: Duration = Duration::from_secs(2);
/// Longest that is kept of an unknown event's payload in the log.
const MAX_LOGGED: usize = 2000;

/// Who gets which event.
#[derive(Debug, Default)]
pub(super) struct Hub {
    routes: Mutex<Routes>,
    unknown: AtomicU64,
}

#[derive(Debug, Default)]
struct Routes {
    /// Session to turn; subagents' sessions lead to the turn that started them.
    by_session: HashMap<String, Arc<Route>>,
}

#[derive(Debug)]
struct Route {
    queue: mpsc::Sender<RawEvent>,
    lost: AtomicBool,
    nudge: Notify,
}

/// What a turn holds to get its events. Dropping it ends the delivery.
#[derive(Debug)]
pub(super) struct Subscription {
    hub: Arc<Hub>,
    route: Arc<Route>,
    queue: mpsc::Receiver<RawEvent>,
}

/// What a turn gets.
#[derive(Debug)]
pub(super) enum Delivery {
    /// An event of the turn's session, or of one of its subagents'.
    Event(RawEvent),
    /// Some were lost: read by GET.
    Lost,
}

impl Hub {
    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the events of a session, and of the subagents that it will start, delivered.
    pub(super) fn subscribe(self: &Arc<Self>, session: &str) -> Subscription {
        let (sender, queue) = mpsc::channel(TURN_QUEUE);
        let route = Arc::new(Route { queue: sender, lost: AtomicBool::new(false), nudge: Notify::new() });
        self.routes().by_session.insert(session.to_owned(), Arc::clone(&route));
        Subscription { hub: Arc::clone(self), route, queue }
    }

    /// How many events were not known to this version of ours.
    pub(super) fn unknown_events(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    fn deliver(&self, event: RawEvent) {
        if !event.is_known() {
            self.unknown.fetch_add(1, Ordering::Relaxed);
            let payload: String = event.properties.get().chars().take(MAX_LOGGED).collect();
            tracing::debug!(event = %event.name, payload, "opencode sent an event that is not known");
        }
        let mut routes = self.routes();
        if let Some(created) = event.created_session()
            && let Some(parent) = created.parent.as_deref()
            && !routes.by_session.contains_key(&created.id)
            && let Some(route) = routes.by_session.get(parent).cloned()
        {
            routes.by_session.insert(created.id, route);
        }
        let Some(route) = event.session.as_deref().and_then(|session| routes.by_session.get(session)) else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = route.queue.try_send(event) {
            route.mark_lost();
        }
    }

    fn mark_all_lost(&self) {
        for route in self.routes().by_session.values() {
            route.mark_lost();
        }
    }
}

impl Route {
    fn mark_lost(&self) {
        self.lost.store(true, Ordering::Release);
        self.nudge.notify_one();
    }
}

impl Subscription {
    /// Also has the events of a subagent's session delivered, whose opening was not heard.
    pub(super) fn adopt(&self, session: &str) {
        self.hub.routes().by_session.entry(session.to_owned()).or_insert_with(|| Arc::clone(&self.route));
    }

    /// Whether events of this session are delivered here.
    pub(super) fn owns(&self, session: &str) -> bool {
        self.hub.routes().by_session.get(session).is_some_and(|route| Arc::ptr_eq(route, &self.route))
    }

    /// Whether events were lost, which [`next`](Self::next) tells only behind those that were not. True before any that came after them is
    /// taken.
    pub(super) fn has_lost(&self) -> bool {
        self.route.lost.load(Ordering::Acquire)
    }

    /// The next thing to know. Safe to drop while it waits. That events were lost is told after those that were not.
    pub(super) async fn next(&mut self) -> Delivery {
        loop {
            if let Ok(event) = self.queue.try_recv() {
                return Delivery::Event(event);
            }
            if self.route.lost.swap(false, Ordering::AcqRel) {
                return Delivery::Lost;
            }
            tokio::select! {
                biased;
                event = self.queue.recv() => match event {
                    Some(event) => return Delivery::Event(event),
                    // Cannot happen while we hold the route, which holds a sender.
                    None => std::future::pending().await,
                },
                () = self.route.nudge.notified() => {}
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.routes().by_session.retain(|_, route| !Arc::ptr_eq(route, &self.route));
    }
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error("the server closed it")]
    Closed,
    #[error("nothing came, not even a heartbeat")]
    Silent,
    #[error("{0}")]
    Broken(String),
}

/// Reads the stream of a server, and opens it again whenever it ends, until `stop`.
///
/// `connected` says whether it is open. Returns only when stopped: that the server is gone is for its process to say, and
/// that it is stuck for whoever watches [`connected`](watch::Sender).
pub(super) async fn read_stream(
    client: Client,
    hub: Arc<Hub>,
    silence: Duration,
    connected: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let mut wait = RECONNECT_MIN;
    let mut first = true;
    loop {
        let opened = tokio::select! {
            opened = client.events() => opened,
            () = stop.cancelled() => return,
        };
        match opened {
            Ok(response) => {
                let bytes = LineCap::new(response.bytes_stream());
                let end = tokio::select! {
                    end = read_events(bytes, &hub, silence, || {
                        wait = RECONNECT_MIN;
                        // What happened while nobody listened, only GET tells.
                        if !std::mem::take(&mut first) {
                            hub.mark_all_lost();
                        }
                        connected.send_replace(true);
                    }) => end,
                    () = stop.cancelled() => return,
                };
                connected.send_replace(false);
                hub.mark_all_lost();
                first = false;
                tracing::debug!(%end, "opencode's event stream ended; opening it again");
            }
            Err(error) => tracing::debug!(%error, "opencode's event stream could not be opened"),
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
        wait = (wait * 2).min(RECONNECT_MAX);
    }
}

async fn read_events<S, E>(bytes: S, hub: &Hub, silence: Duration, mut on_connected: impl FnMut()) -> StreamEnd
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::error::Error + Send + Sync + 'static,
{
    let mut events = SseByteStream::new(bytes);
    loop {
        let event = match tokio::time::timeout(silence, events.next()).await {
            Err(_) => return StreamEnd::Silent,
            Ok(None) => return StreamEnd::Closed,
            Ok(Some(Err(error))) => return StreamEnd::Broken(error.to_string()),
            Ok(Some(Ok(event))) => event,
        };
        let Some(data) = event.data else { continue };
        match read_event(&data) {
            Some(event) if event.name == "server.connected" => on_connected(),
            Some(event) => hub.deliver(event),
            None => {
                tracing::debug!(bytes = data.len(), "opencode sent something that is no event");
                hub.unknown.fetch_add(1, Ordering::Relaxed);
                hub.mark_all_lost();
            }
        }
    }
}

/// What a stream may end with beside its own errors.
#[derive(Debug, thiserror::Error)]
enum CapError<E> {
    #[error("{0}")]
    Stream(E),
    #[error("an event of more than {} MB", MAX_EVENT >> 20)]
    TooLong,
}

/// Ends a stream of bytes in which a line never ends: the decoder behind it has no bound of its own.
struct LineCap<S> {
    bytes: S,
    line: usize,
}

impl<S> LineCap<S> {
    fn new(bytes: S) -> Self {
        Self { bytes, line: 0 }
    }
}

impl<S: Stream<Item = Result<Bytes, E>> + Unpin, E> Stream for LineCap<S> {
    type Item = Result<Bytes, CapError<E>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let chunk = match std::task::ready!(self.bytes.poll_next_unpin(context)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(CapError::Stream(error)))),
            Some(Ok(chunk)) => chunk,
        };
        match chunk.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => self.line = chunk.len() - at - 1,
            None => self.line += chunk.len(),
        }
        Poll::Ready(Some(if self.line > MAX_EVENT { Err(CapError::TooLong) } else { Ok(chunk) }))
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
