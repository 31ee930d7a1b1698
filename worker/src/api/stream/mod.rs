//! Streams: a task as it runs, and the whole fleet, as Server-Sent Events that go on behind the last one that came.
//!
//! One reader for all followed tasks, and one for the fleet, while anybody looks: the database does not notice how many do. A viewer that
//! is slower than what comes is not waited for: it reads on by itself, from where it is.

mod fleet;
mod place;
mod reader;
mod said;
mod task;

use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::stream;
use serde::Deserialize;
use tokio::sync::mpsc;
use utoipa::IntoParams;

use self::{
    fleet::Fleet,
    place::Place,
    reader::Reader,
    said::{FleetEvent, TaskEvent},
};
use super::{
    Api,
    extract::{Asked, At, Id, Task},
    problem::Problem,
};
use crate::actions;

/// Events on their way to one viewer.
const WAY: usize = 64;

/// What reads for all viewers.
#[derive(Debug, Default)]
pub(super) struct Streams {
    tasks: Arc<Reader>,
    fleet: Arc<Fleet>,
}

/// Where to go on.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StreamQuery {
    /// The id of the last event that came, for those who cannot send `Last-Event-ID`.
    last_event_id: Option<String>,
}

fn last_id(headers: &HeaderMap, asked: StreamQuery) -> Option<String> {
    let header = headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    header.or(asked.last_event_id).filter(|id| !id.is_empty())
}

/// An answer of these events, with a comment now and then, by which both sides see that the other is there.
fn answer(api: &Api, events: mpsc::Receiver<Event>) -> Response {
    let events = stream::unfold(events, async |mut events| {
        let event = events.recv().await?;
        Some((Ok::<_, Infallible>(event), events))
    });
    let beat = KeepAlive::new().interval(api.settings.timings.viewer_beat);
    let mut response = Sse::new(events).keep_alive(beat).into_response();
    // Proxies must neither keep nor collect it.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Follow a task through all its attempts. Events: `waits` (why it does not run yet), `attempt` (begun, or over), `event` (a line of the
/// transcript), `ended` (the task came to rest; the stream ends). With the id of the last one it goes on behind that, without a gap or a
/// repetition; 204: nothing comes any more.
#[utoipa::path(get, path = "/api/tasks/{id}/stream", tag = "tasks", operation_id = "stream",
    params(("id" = String, Path, description = "The task: t42, or 42"), StreamQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that came")),
    responses((status = 200, description = "Server-Sent Events; the data of one is", body = TaskEvent, content_type = "text/event-stream"),
        (status = 204, description = "The task is at rest, and you know")))]
pub(super) async fn task(
    State(api): State<Api>,
    At(id): At<Id<Task>>,
    Asked(asked): Asked<StreamQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let last: Option<Place> = match last_id(&headers, asked) {
        Some(last) => Some(last.parse().map_err(|()| Problem::bad("Last-Event-ID is not one of this stream"))?),
        None => None,
    };
    let look = actions::task(&api.store, id.0, api.window()).await?;
    if let Some(last) = last.filter(|last| last.is_at_rest()) {
        let newest = api.store.end_of_transcript(id.0).await?.map_or(0, |(attempt, _)| attempt);
        if task::is_at_rest(&look.task.state) && newest <= last.attempt {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
    let news = api.streams.tasks.follow(&api, id.0).await?;
    let (out, events) = mpsc::channel(WAY);
    tokio::spawn(
        task::Viewer { api: api.clone(), task: id.0, place: last.unwrap_or_default(), is_new: last.is_none(), out }
            .run(news),
    );
    Ok(answer(&api, events))
}

/// Follow the fleet. Events: `activity` (what `/api/activity` says, whenever it changes), `change` (something changed: its kind, and the task,
/// session or project), `reset` (what was missed is not known any more: look at all anew).
#[utoipa::path(get, path = "/api/stream", tag = "fleet", operation_id = "stream",
    params(StreamQuery, ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that came")),
    responses((status = 200, description = "Server-Sent Events; the data of one is", body = FleetEvent, content_type = "text/event-stream")))]
pub(super) async fn fleet(State(api): State<Api>, Asked(asked): Asked<StreamQuery>, headers: HeaderMap) -> Response {
    let (out, events) = mpsc::channel(WAY);
    let viewer = api.streams.fleet.clone().follow(&api, last_id(&headers, asked));
    let stop = api.stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = viewer.run(out) => {}
            () = stop.cancelled() => {}
        }
    });
    answer(&api, events)
}
