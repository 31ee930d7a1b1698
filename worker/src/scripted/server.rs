//! The server: one chat-completions endpoint on loopback.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    answer::{Answer, Ledger, Terms, pause_for},
    fault::{Fault, RequestFault},
    placeholder::Placeholders,
    record::{Arrival, Billed, Log, Moment, RecordedRequest},
    script::{Message, Piece, Script, ScriptError},
    wire::{ChatRequest, Envelope, Position, error_body},
};

/// Largest request that is read: prompts of some megabytes are sent on purpose.
const MAX_REQUEST_BYTES: usize = 64 * 1024 * 1024;
/// How long answers under way are waited for when the server stops.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A running scripted model. Stops when dropped; [`ScriptedModel::shutdown`] also waits until it has.
pub struct ScriptedModel {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

struct Shared {
    scripts: BTreeMap<String, Script>,
    /// Faults that were set in place of a script's own.
    faults: Mutex<HashMap<String, Vec<RequestFault>>>,
    log: Arc<Log>,
    stop: CancellationToken,
}

impl ScriptedModel {
    /// Starts a server that has these scripts. `bind` is a loopback address; port 0 takes a free one.
    pub async fn start(scripts: impl IntoIterator<Item = Script>, bind: SocketAddr) -> Result<Self, io::Error> {
        if !bind.ip().is_loopback() {
            let problem = format!("the scripted model asks for no key and listens on loopback only, not on {bind}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let mut by_name = BTreeMap::new();
        for script in scripts {
            if let Some(twin) = by_name.insert(script.name().to_owned(), script) {
                let problem = format!("two scripts are called {}", twin.name());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
            }
        }
        let listener = TcpListener::bind(bind).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            scripts: by_name,
            faults: Mutex::default(),
            log: Arc::new(Log::new()),
            stop: CancellationToken::new(),
        });
        let router = Router::new()
            .route("/v1/chat/completions", post(complete))
            .route("/v1/models", get(list_models))
            .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
            .with_state(Arc::clone(&shared));
        let stop = shared.stop.clone();
        let task = tokio::spawn(async move {
            // Chunks go out as they come, not when the one before is acknowledged.
            let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
            let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::error!(%error, "scripted model ended");
            }
        });
        Ok(Self { address, shared, task: Some(task) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL for clients, `http://127.0.0.1:<port>/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Names of the scripts.
    pub fn scripts(&self) -> impl Iterator<Item = &str> {
        self.shared.scripts.keys().map(String::as_str)
    }

    /// opencode's configuration for this server and these prices, see [`provider_config`](super::provider_config).
    pub fn provider_config(&self, prices: super::Prices) -> serde_json::Value {
        super::provider_config(&self.base_url(), self.scripts(), prices)
    }

    /// The requests so far, oldest first: the last 10,000.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.shared.log.records()
    }

    /// The last requests, at most so many, oldest first.
    pub fn last_requests(&self, count: usize) -> Vec<RecordedRequest> {
        self.shared.log.last(count)
    }

    /// Waits until the requests are as wanted, and returns them; none if they are not within the time.
    pub async fn wait_for_requests(
        &self,
        within: Duration,
        wanted: impl Fn(&[RecordedRequest]) -> bool,
    ) -> Option<Vec<RecordedRequest>> {
        let mut changes = self.shared.log.changes();
        let wait = async {
            loop {
                changes.mark_unchanged();
                let records = self.requests();
                if wanted(&records) {
                    return Some(records);
                }
                changes.changed().await.ok()?;
            }
        };
        tokio::time::timeout(within, wait).await.ok().flatten()
    }

    /// What all answers billed together, those that broke off included, those to requests for titles not.
    pub fn billed(&self) -> Billed {
        self.shared.log.billed(false)
    }

    /// What titles billed.
    pub fn billed_titles(&self) -> Billed {
        self.shared.log.billed(true)
    }

    /// Sets the faults of a script's requests in place of those it has. Counting begins anew; none ends all.
    pub fn set_faults(&self, script: &str, faults: Vec<RequestFault>) -> Result<(), ScriptError> {
        if !self.shared.scripts.contains_key(script) {
            let problem = "no such script is loaded".to_owned();
            return Err(ScriptError::Script { script: script.to_owned(), problem });
        }
        let mut set = self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner);
        set.insert(script.to_owned(), faults);
        self.shared.log.reset_served(script);
        Ok(())
    }

    /// Tells it to stop: answers that wait or stall break off.
    pub fn stop(&self) {
        self.shared.stop.cancel();
    }

    /// Stops, and waits until the port is free.
    pub async fn shutdown(mut self) {
        self.stop();
        if let Some(mut task) = self.task.take()
            && tokio::time::timeout(STOP_WITHIN, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl Drop for ScriptedModel {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn list_models(State(shared): State<Arc<Shared>>) -> Response {
    let models: Vec<_> = shared.scripts.keys().map(|name| json!({"id": name, "object": "model"})).collect();
    axum::Json(json!({"object": "list", "data": models})).into_response()
}

async fn complete(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let request: ChatRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(problem) => return refuse(400, &format!("not a chat-completions request: {problem}")),
    };
    let Some(script) = shared.scripts.get(&request.model) else {
        let known = shared.scripts.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        return refuse(404, &format!("no script is called \"{}\"; loaded are: {known}", request.model));
    };
    let position = request.position();
    let number = shared.log.add(Arrival {
        script: script.name().to_owned(),
        tools_offered: request.tools_offered(),
        position,
        prompt: request.prompt(),
        body,
    });
    shared.answer(script, &request, position, number).await
}

impl Shared {
    async fn answer(&self, script: &Script, request: &ChatRequest, position: Position, number: u64) -> Response {
        let mut terms = Terms {
            placeholders: Placeholders { prompt: request.prompt(), turn: position.turn + 1 },
            prompt_tokens: request.prompt_tokens(),
            include_usage: request.include_usage(),
            chunk_delay_ms: script.chunk_delay_ms,
            in_the_middle: Vec::new(),
        };
        if !request.tools_offered() {
            let ledger = Ledger::new(Arc::clone(&self.log), number, None, terms.prompt_tokens);
            return self.send(Answer::title(&terms), request, ledger, number).await;
        }
        let message = choose(script, position);
        let ledger = Ledger::new(Arc::clone(&self.log), number, message.usage, terms.prompt_tokens);
        let tries = self.count_try(message, request, position);
        let strikes = |times: Option<u64>| times.is_none_or(|times| tries < times);

        let own = message.pieces.iter().filter_map(|piece| match piece {
            Piece::Fault(fault) if fault.precedes_message() && strikes(fault.times) => Some(fault.fault.clone()),
            _ => None,
        });
        let (first, middle): (Vec<_>, Vec<_>) = self.strike(script).into_iter().partition(Fault::precedes_message);
        for fault in first.into_iter().chain(own) {
            if let Some(response) = self.precede(&fault, &ledger).await {
                return response;
            }
        }
        terms.in_the_middle = middle;
        self.send(Answer::compile(message, &terms, strikes), request, ledger, number).await
    }

    async fn send(&self, answer: Answer, request: &ChatRequest, mut ledger: Ledger, number: u64) -> Response {
        let envelope = Envelope {
            id: format!("chatcmpl-{number}"),
            model: request.model.clone(),
            created: Moment::now().clock.timestamp(),
        };
        ledger.began();
        if request.stream {
            let playback = answer.play(envelope, ledger, self.stop.clone());
            let stream = futures::stream::unfold(playback, |mut playback| async move {
                playback.next().await.map(|bytes| (bytes, playback))
            });
            let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
            return (headers, Body::from_stream(stream)).into_response();
        }
        let headers = [(header::CONTENT_TYPE, "application/json")];
        match answer.whole(&envelope, &mut ledger, &self.stop).await {
            Some(bytes) => (headers, bytes).into_response(),
            None => (headers, broken_body()).into_response(),
        }
    }

    /// Which of the faults that count a script's requests strike this one.
    fn strike(&self, script: &Script) -> Vec<Fault> {
        let request = self.log.count_served(script.name());
        let set = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let faults = set.get(script.name()).unwrap_or(&script.faults);
        faults.iter().filter(|fault| fault.strikes(request)).map(|fault| fault.fault.clone()).collect()
    }

    /// How often this conversation asked for this message before. It is known by all that was said in it so far, which
    /// names the directory in opencode's case, so that conversations with the same prompts are told apart.
    fn count_try(&self, message: &Message, request: &ChatRequest, position: Position) -> u64 {
        let counted = message.pieces.iter().any(|piece| matches!(piece, Piece::Fault(fault) if fault.times.is_some()));
        if !counted {
            return 0;
        }
        let mut hasher = DefaultHasher::new();
        (&request.model, position.turn, position.message).hash(&mut hasher);
        for message in &request.messages {
            message.to_string().hash(&mut hasher);
        }
        self.log.count_try(hasher.finish())
    }

    /// Does what a fault does before an answer begins; a response, if it is one instead of the answer.
    async fn precede(&self, fault: &Fault, ledger: &Ledger) -> Option<Response> {
        match fault {
            Fault::Wait { ms } => {
                if pause_for(ms.map(Duration::from_millis), &self.stop).await.is_some() {
                    return None;
                }
                ledger.refused(503);
                Some(refuse(503, "the scripted model stops"))
            }
            Fault::Html {} => {
                ledger.refused(200);
                let page = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Sign in</body></html>\n";
                Some(([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response())
            }
            Fault::Http { status, retry_after, retry_after_ms, message } => {
                ledger.refused(*status);
                let mut response = refuse(*status, message.as_deref().unwrap_or("an error, as the script says"));
                let after_ms = retry_after_ms.map(|ms| ms.to_string());
                let headers = [("retry-after", retry_after.as_deref()), ("retry-after-ms", after_ms.as_deref())];
                for (name, value) in headers {
                    // Checked when the fault was read; one that was made in code and cannot be sent is left out.
                    if let Some(Ok(value)) = value.map(header::HeaderValue::from_str) {
                        response.headers_mut().insert(name, value);
                    }
                }
                Some(response)
            }
            Fault::Stall { .. }
            | Fault::Cut {}
            | Fault::BrokenChunk {}
            | Fault::Finish { .. }
            | Fault::Delay { .. }
            | Fault::Endless { .. } => None,
        }
    }
}

/// The message that answers a conversation at this position.
fn choose(script: &Script, position: Position) -> &Message {
    // A script has a turn, and a turn a message: `Script::parse` sees to it.
    let turn = &script.turns[position.turn % script.turns.len()];
    &turn[position.message.min(turn.len() - 1)]
}

fn refuse(status: u16, message: &str) -> Response {
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (code, axum::Json(error_body(status, message))).into_response()
}

fn broken_body() -> Body {
    Body::from_stream(futures::stream::iter([Err::<Bytes, _>(io::Error::other("cut, as the script says"))]))
}
