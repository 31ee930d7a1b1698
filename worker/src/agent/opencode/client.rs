//! The endpoints of `opencode serve` that we use, about ten. No decisions here, and no retries: who calls knows what
//! a failure means.

use std::{collections::BTreeMap, path::Path, time::Duration};

use futures::StreamExt;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::wire::{Ask, Config, Health, MessageWithParts, Mode, Providers, Question, Session, Status};

/// The user that opencode's server expects beside the password.
const USER: &str = "opencode";
/// Longest answer that is read. A page of messages with large tool inputs stays far below.
const MAX_ANSWER: usize = 128 << 20;
/// Messages per page.
pub(super) const PAGE: usize = 100;
/// Pages of one list that are read at most.
const MAX_PAGES: usize = 100;
/// Before a read is tried again on a new connection.
const READ_PAUSES: [Duration; 3] = [Duration::from_millis(20), Duration::from_millis(100), Duration::from_millis(500)];
/// How much of an error's body goes into its message.
const MAX_ERROR: usize = 500;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// No answer, or half of one: the server is starting, gone, or stuck.
    #[error("opencode's server did not answer: {why}")]
    Unreachable { why: String, is_timeout: bool },
    /// It answered with an error.
    #[error("opencode's server answered {status} to {path}: {body}")]
    Refused { status: StatusCode, path: String, body: String },
    /// It answered something that we do not understand.
    #[error("opencode's server answered {path} in a form that this version of Millhand does not know: {problem}")]
    NotUnderstood { path: String, problem: String },
}

impl ClientError {
    fn at(path: &str, error: reqwest::Error) -> Self {
        match Self::from(error) {
            Self::Unreachable { why, is_timeout } => Self::Unreachable { why: format!("{path}: {why}"), is_timeout },
            other => other,
        }
    }

    /// Whether the server does not know any more what it once named.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if status.as_u16() == 404)
    }

    /// Whether the server says that there is no such thing.
    pub(super) fn is_not_found(&self) -> bool {
        // An id that opencode cannot have made is answered with 500 or 400.
        matches!(self, Self::Refused { status, .. } if [404, 400, 500].contains(&status.as_u16()))
    }
}

impl From<reqwest::Error> for ClientError {
    fn from(error: reqwest::Error) -> Self {
        // The URL says nothing to people; the source says what happened.
        let is_timeout = error.is_timeout();
        let error = error.without_url();
        let mut words = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(deeper) = source {
            words = format!("{words}: {deeper}");
            source = deeper.source();
        }
        Self::Unreachable { why: words, is_timeout }
    }
}

/// What a request brought.
struct Answer {
    body: Vec<u8>,
    /// Where an older page begins.
    next: Option<String>,
}

/// A prompt as it is posted.
#[derive(Debug)]
pub(super) struct PromptBody<'a> {
    pub(super) message: &'a str,
    pub(super) part: &'a str,
    pub(super) text: &'a str,
    pub(super) provider: &'a str,
    pub(super) model: &'a str,
    pub(super) mode: &'a str,
    pub(super) variant: Option<&'a str>,
    /// Added to the system prompt of every model call of the turn.
    pub(super) system: Option<&'a str>,
}

/// A client of one server.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    password: SecretString,
    timeout: Duration,
}

impl Client {
    /// A client of the server on this port of loopback.
    pub(super) fn new(port: u16, password: SecretString, timeout: Duration) -> Result<Self, ClientError> {
        // Loopback only: a proxy of the environment must never see it.
        let http = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build()?;
        Ok(Self { http, base: format!("http://127.0.0.1:{port}"), password, timeout })
    }

    /// The same, for the first requests in a directory: loading a trusted one may install what its plugins need.
    pub(super) fn patient(&self, timeout: Duration) -> Self {
        Self { timeout: timeout.max(self.timeout), ..self.clone() }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.base);
        self.http.request(method, url).basic_auth(USER, Some(self.password.expose_secret()))
    }

    async fn send(&self, request: RequestBuilder, path: &str) -> Result<Vec<u8>, ClientError> {
        Ok(self.answer(request, path).await?.body)
    }

    async fn answer(&self, request: RequestBuilder, path: &str) -> Result<Answer, ClientError> {
        let response = request.timeout(self.timeout).send().await.map_err(|error| ClientError::at(path, error))?;
        let status = response.status();
        let next = response.headers().get("x-next-cursor").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = read_bounded(response, path).await?;
        if status.is_success() {
            return Ok(Answer { body, next });
        }
        let body = String::from_utf8_lossy(&body).trim().chars().take(MAX_ERROR).collect();
        Err(ClientError::Refused { status, path: path.to_owned(), body })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, ClientError> {
        let answer = self.read(path, query).await?;
        decode(&answer.body, path)
    }

    /// Reads, again if the connection breaks: that alone does not mean that the server is gone.
    async fn read(&self, path: &str, query: &[(&str, &str)]) -> Result<Answer, ClientError> {
        let mut pauses = READ_PAUSES.iter();
        loop {
            let request = self.request(Method::GET, path).query(query);
            match (self.answer(request, path).await, pauses.next()) {
                (Err(ClientError::Unreachable { is_timeout: false, .. }), Some(pause)) => {
                    tokio::time::sleep(*pause).await
                }
                (answer, _) => return answer,
            }
        }
    }

    async fn post(&self, path: &str, query: &[(&str, &str)], body: &Value) -> Result<Vec<u8>, ClientError> {
        self.send(self.request(Method::POST, path).query(query).json(body), path).await
    }

    /// Whether it is up, and which version.
    pub(super) async fn health(&self, within: Duration) -> Result<Health, ClientError> {
        let path = "/global/health";
        let request = self.request(Method::GET, path);
        match tokio::time::timeout(within, self.send(request, path)).await {
            Ok(answer) => decode(&answer?, path),
            Err(_) => Err(ClientError::Unreachable { why: format!("no answer within {within:?}"), is_timeout: true }),
        }
    }

    /// The modes that a directory has.
    pub(super) async fn modes(&self, directory: &Path) -> Result<Vec<Mode>, ClientError> {
        self.get("/agent", &[("directory", &text(directory)?)]).await
    }

    /// The providers that can be used, with their models.
    pub(super) async fn providers(&self, directory: &Path) -> Result<Providers, ClientError> {
        self.get("/config/providers", &[("directory", &text(directory)?)]).await
    }

    /// Every provider that this opencode has ever heard of, in its own form.
    pub(super) async fn all_providers(&self, directory: &Path) -> Result<Value, ClientError> {
        self.get("/provider", &[("directory", &text(directory)?)]).await
    }

    /// The configuration in force.
    pub(super) async fn config(&self, directory: &Path) -> Result<Config, ClientError> {
        self.get("/config", &[("directory", &text(directory)?)]).await
    }

    /// Opens a conversation.
    pub(super) async fn create_session(&self, directory: &Path, title: &str) -> Result<Session, ClientError> {
        let path = "/session";
        let answer = self.post(path, &[("directory", &text(directory)?)], &json!({"title": title})).await?;
        decode(&answer, path)
    }

    /// A conversation.
    pub(super) async fn session(&self, id: &str) -> Result<Session, ClientError> {
        self.get(&format!("/session/{}", segment(id)), &[]).await
    }

    /// The conversations of the subagents that a conversation started.
    pub(super) async fn children(&self, id: &str) -> Result<Vec<Session>, ClientError> {
        self.get(&format!("/session/{}/children", segment(id)), &[]).await
    }

    /// The newest messages, in order, page by page, until `enough` says so of what is there by then. The first page has `first` of
    /// them, if that is fewer than a page: they cost a server time even if nobody needs them.
    pub(super) async fn messages(
        &self,
        id: &str,
        first: usize,
        enough: impl Fn(&[MessageWithParts]) -> bool,
    ) -> Result<Vec<MessageWithParts>, ClientError> {
        let path = format!("/session/{}/message", segment(id));
        let mut limit = first.clamp(1, PAGE).to_string();
        let mut all: Vec<MessageWithParts> = Vec::new();
        let mut before: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let mut query = vec![("limit", limit.as_str())];
            query.extend(before.as_deref().map(|cursor| ("before", cursor)));
            let Answer { body, next } = self.read(&path, &query).await?;
            let mut page: Vec<MessageWithParts> = decode(&body, &path)?;
            page.append(&mut all);
            all = page;
            if next.is_none() || enough(&all) {
                break;
            }
            before = next;
            limit = PAGE.to_string();
        }
        Ok(all)
    }

    /// What the conversations of a directory do; those at rest are not listed.
    pub(super) async fn statuses(&self, directory: &Path) -> Result<BTreeMap<String, Status>, ClientError> {
        self.get("/session/status", &[("directory", &text(directory)?)]).await
    }

    /// The open permission asks of a directory.
    pub(super) async fn asks(&self, directory: &Path) -> Result<Vec<Ask>, ClientError> {
        self.get("/permission", &[("directory", &text(directory)?)]).await
    }

    /// Answers a permission ask: `once`, `always` or `reject`, the last with words for the agent or without.
    pub(super) async fn answer_ask(
        &self,
        directory: &Path,
        id: &str,
        reply: &str,
        message: Option<&str>,
    ) -> Result<(), ClientError> {
        let path = format!("/permission/{}/reply", segment(id));
        let body = match message {
            Some(message) => json!({"reply": reply, "message": message}),
            None => json!({"reply": reply}),
        };
        self.post(&path, &[("directory", &text(directory)?)], &body).await.map(drop)
    }

    /// The open questions of a directory.
    pub(super) async fn questions(&self, directory: &Path) -> Result<Vec<Question>, ClientError> {
        self.get("/question", &[("directory", &text(directory)?)]).await
    }

    /// Answers each of the questions that were asked together.
    pub(super) async fn answer_question(
        &self,
        directory: &Path,
        id: &str,
        answers: &[Vec<String>],
    ) -> Result<(), ClientError> {
        let path = format!("/question/{}/reply", segment(id));
        self.post(&path, &[("directory", &text(directory)?)], &json!({"answers": answers})).await.map(drop)
    }

    /// Rejects a question.
    pub(super) async fn reject_question(&self, directory: &Path, id: &str) -> Result<(), ClientError> {
        let path = format!("/question/{}/reject", segment(id));
        self.post(&path, &[("directory", &text(directory)?)], &json!({})).await.map(drop)
    }

    /// Sends a prompt. It is taken before anything in it is checked.
    pub(super) async fn prompt(&self, id: &str, directory: &Path, prompt: &PromptBody<'_>) -> Result<(), ClientError> {
        let mut body = json!({
            "messageID": prompt.message,
            "model": {"providerID": prompt.provider, "modelID": prompt.model},
            "agent": prompt.mode,
            "parts": [{"id": prompt.part, "type": "text", "text": prompt.text}],
        });
        if let Some(variant) = prompt.variant {
            body["variant"] = json!(variant);
        }
        if let Some(system) = prompt.system {
            body["system"] = json!(system);
        }
        let path = format!("/session/{}/prompt_async", segment(id));
        self.post(&path, &[("directory", &text(directory)?)], &body).await.map(drop)
    }

    /// Aborts what a conversation does. Says nothing of whether it did anything.
    pub(super) async fn abort(&self, id: &str, directory: &Path) -> Result<(), ClientError> {
        let path = format!("/session/{}/abort", segment(id));
        self.post(&path, &[("directory", &text(directory)?)], &json!({})).await.map(drop)
    }

    /// Lets go of everything that is held for a directory. Aborts its turns.
    pub(super) async fn dispose(&self, directory: &Path) -> Result<(), ClientError> {
        self.post("/instance/dispose", &[("directory", &text(directory)?)], &json!({})).await.map(drop)
    }

    /// Opens the stream of all events of the server.
    pub(super) async fn events(&self) -> Result<Response, ClientError> {
        let path = "/global/event";
        let response =
            tokio::time::timeout(self.timeout, self.request(Method::GET, path).send()).await.map_err(|_| {
                ClientError::Unreachable { why: "no answer to /global/event".to_owned(), is_timeout: true }
            })??;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        Err(ClientError::Refused { status, path: path.to_owned(), body: String::new() })
    }
}

fn decode<T: DeserializeOwned>(body: &[u8], path: &str) -> Result<T, ClientError> {
    serde_json::from_slice(body)
        .map_err(|error| ClientError::NotUnderstood { path: path.to_owned(), problem: error.to_string() })
}

async fn read_bounded(response: Response, path: &str) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::with_capacity(response.content_length().map_or(0, |n| n.min(1 << 20) as usize));
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ClientError::at(path, error))?;
        if body.len() + chunk.len() > MAX_ANSWER {
            let problem = format!("more than {} MB", MAX_ANSWER >> 20);
            return Err(ClientError::NotUnderstood { path: path.to_owned(), problem });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Directories go into queries as text, so they must be text.
fn text(directory: &Path) -> Result<String, ClientError> {
    directory.to_str().map(str::to_owned).ok_or_else(|| ClientError::NotUnderstood {
        path: directory.display().to_string(),
        problem: "the path of the worktree is not valid UTF-8, which opencode cannot take".to_owned(),
    })
}

/// An id as a segment of a path, whatever somebody has put into it.
fn segment(id: &str) -> String {
    url::form_urlencoded::byte_serialize(id.as_bytes()).collect::<String>().replace('+', "%20")
}
