//! One turn: the prompt is sent, and followed until it is over.
//!
//! Waiting and deciding are apart: this waits, reads and tells; [`Watch`] decides. What happened is read by GET at the end, and whenever
//! something may have been missed, unless the stream told all of a turn that came to its end without anything unusual ([`heard`]).

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    client::{ClientError, PAGE, PromptBody},
    ending::{Broken, Context, name_ending},
    instructions,
    repeats::Repeats,
    server::Server,
    settle::{Demand, Limits, Watch},
    stream::{Delivery, Subscription},
    transcript::{Transcript, plan},
    tree::{self, Tree},
    wire::{Event, MessageWithParts, RawEvent, Status},
};
use crate::{
    agent::{AgentSession, AskDesk, Prompt, TurnReport},
    config::Timings,
    model::{event::AgentEvent, outcome::Ending, redact::Redaction},
};

mod asks;
mod heard;
mod look;
mod messages;

use asks::Unanswered;
use heard::Heard;

/// Times that a prompt is posted when no answer comes: the same ids make that harmless.
const POSTS: usize = 3;
/// How long a worktree's first turn keeps others' first turns waiting at most.
const COLD_WITHIN: Duration = Duration::from_secs(20);
/// How long events of a stopped turn wait for somebody to take them.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A turn under way.
pub(super) struct Turn<'a> {
    server: &'a Arc<Server>,
    session: &'a AgentSession,
    prompt: &'a Prompt,
    events: &'a mpsc::Sender<AgentEvent>,
    stop: &'a CancellationToken,
    watch: Watch,
    transcript: Transcript,
    /// What was held back of what streams.
    redaction: Mutex<Redaction>,
    tree: Tree,
    repeats: Repeats,
    /// Looks in a row that got no answer.
    unanswered_looks: u32,
    /// Assistant messages heard of, and whether their finish was.
    finished: std::collections::HashMap<String, bool>,
    /// Asks that were answered, or put before a person.
    answered: HashSet<String>,
    /// What people are asked.
    desk: &'a dyn AskDesk,
    /// Those who have not answered yet.
    asked: Unanswered<'a>,
    /// The conversation since the prompt, as the stream told it.
    heard: Heard,
    /// Only a full GET tells what happened.
    must_read: bool,
    /// Nothing was lost so far: all that happened was heard.
    heard_all: bool,
    /// A worker that died had begun it.
    was_left: bool,
    /// It still runs, so that nothing is to be sent.
    runs: bool,
    /// Its prompt was sent before, and what came of it ended without an answer.
    was_cut_off: bool,
    cold: Option<(OwnedSemaphorePermit, Instant)>,
}

/// What a turn needs beside the server and the prompt.
#[derive(Clone, Copy)]
pub(super) struct TurnSetup<'a> {
    pub(super) timings: &'a Timings,
    pub(super) desk: &'a dyn AskDesk,
    pub(super) show_reasoning: bool,
}

/// A turn cannot go on.
enum Cut {
    /// The server is gone, or does not answer.
    ServerLost(String),
    /// It refused what we asked.
    Refused(String),
}

impl From<ClientError> for Cut {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Unreachable { .. } => Self::ServerLost(error.to_string()),
            ClientError::Refused { .. } | ClientError::NotUnderstood { .. } => Self::Refused(error.to_string()),
        }
    }
}

/// Runs a turn from the prompt to its end.
pub(super) async fn run(
    server: &Arc<Server>,
    session: &AgentSession,
    prompt: &Prompt,
    events: &mpsc::Sender<AgentEvent>,
    stop: &CancellationToken,
    setup: TurnSetup<'_>,
) -> TurnReport {
    let running = server.begin_turn(&session.id, &session.directory).await;
    let mut subscription = server.hub.subscribe(&session.id);
    let mut turn = Turn {
        server,
        session,
        prompt,
        events,
        stop,
        watch: Watch::new(Limits::new(setup.timings, session.step_limit), Instant::now()),
        transcript: Transcript::new(&session.id, setup.show_reasoning, HashSet::new()),
        redaction: Mutex::default(),
        tree: Tree::new(&session.id),
        repeats: Repeats::default(),
        unanswered_looks: 0,
        finished: std::collections::HashMap::new(),
        answered: HashSet::new(),
        desk: setup.desk,
        asked: Unanswered::default(),
        heard: Heard::default(),
        must_read: false,
        heard_all: prompt.is_new,
        was_left: running.was_left,
        runs: false,
        was_cut_off: false,
        cold: None,
    };
    let ended = match turn.begin(setup).await {
        Ok(Some(ended)) => Ok(ended),
        Ok(None) => turn.follow(&mut subscription).await,
        Err(cut) => Err(cut),
    };
    let was_seen_through = ended.is_ok() && turn.heard_all && !turn.watch.is_broken();
    let (ending, error) = ended.unwrap_or_else(|cut| match cut {
        Cut::ServerLost(why) => (Ending::ServerLost, format!("opencode's server was lost during the turn: {why}")),
        Cut::Refused(why) => (Ending::AgentError, why),
    });
    let report = TurnReport {
        ending,
        error: server.redactor.cleaned(error),
        summary: server.redactor.cleaned(turn.transcript.summary().to_owned()),
        steps: turn.tree.usage(&prompt.began_with),
    };
    if was_seen_through {
        server.conversations.remember(&session.id, &session.directory, turn.transcript.into_message_ids());
    }
    report
}

impl Turn<'_> {
    /// Sends the prompt, unless it is there and answered already.
    async fn begin(&mut self, setup: TurnSetup<'_>) -> Result<Option<(Ending, String)>, Cut> {
        let known = self.server.conversations.take(&self.session.id);
        match known.filter(|_| self.prompt.is_new) {
            Some(earlier) => self.transcript = Transcript::new(&self.session.id, setup.show_reasoning, earlier),
            None => {
                if let Some(ended) = self.catch_up(setup).await? {
                    return Ok(Some(ended));
                }
            }
        }
        if self.runs {
            return Ok(None);
        }
        if self.was_cut_off && !self.prompt.may_resend {
            return Ok(Some((Ending::AsksToResend, "the turn was lost before it was answered".to_owned())));
        }
        if !self.enter_cold_gate().await {
            return Ok(Some(Broken::Stopped.ending()));
        }
        let directory = self.session.directory.clone();
        let read = if self.session.project.trusted {
            // opencode reads them by itself then.
            instructions::Instructions::default()
        } else {
            tokio::task::spawn_blocking(move || instructions::read(&directory)).await.unwrap_or_default()
        };
        if let Some(message) = read.warning {
            self.tell(AgentEvent::Warning { message }).await;
        }
        self.post(read.text.as_deref()).await?;
        self.watch = Watch::new(Limits::new(setup.timings, self.session.step_limit), Instant::now());
        Ok(None)
    }

    /// Reads what the conversation holds already: messages of earlier turns, and the prompt itself if it was sent before. It may even be
    /// answered.
    async fn catch_up(&mut self, setup: TurnSetup<'_>) -> Result<Option<(Ending, String)>, Cut> {
        let ours = self.prompt.message_id.as_str();
        let began_with = &self.prompt.began_with;
        // One that was sent before is looked for through the whole conversation.
        let is_enough = |messages: &[MessageWithParts]| self.prompt.is_new || tree::reaches(messages, began_with);
        let messages = self.lives(self.server.client.messages(&self.session.id, PAGE, is_enough)).await?;
        let mine = tree::since(messages.clone(), ours);
        // All that belongs to the turn, of which `mine` are the last if this prompt only tells it to go on.
        let whole = tree::since(messages.clone(), &self.prompt.began_with);
        let told = if self.prompt.tells_all { &whole } else { &mine };
        let earlier = messages.into_iter().map(|message| message.info.id);
        let earlier = earlier.filter(|id| !told.iter().any(|message| message.info.id == *id)).collect();
        self.transcript = Transcript::new(&self.session.id, setup.show_reasoning, earlier);
        for message in &whole {
            self.tree.message(&tree::of(message, &self.session.id));
        }
        if self.prompt.tells_all && !whole.is_empty() {
            self.take_messages(&whole, false).await;
        }
        if mine.is_empty() && self.was_left {
            // What was left is another prompt's, which nobody wants any more. Ours would wait behind it.
            let (session, directory) = (&self.session.id, &self.session.directory);
            if !self.server.put_to_rest(session, directory, setup.timings.server_request).await {
                return Err(Cut::ServerLost("it did not abort an earlier turn".to_owned()));
            }
        }
        if !mine.is_empty() {
            self.take_messages(&mine, false).await;
            let statuses = self.lives(self.server.client.statuses(&self.session.directory)).await?;
            let is_idle = matches!(statuses.get(&self.session.id), None | Some(Status::Idle));
            if is_idle && let Some(ended) = self.ended_before(&mine).await? {
                return Ok(Some(ended));
            }
            self.runs = self.was_left && !is_idle;
            self.was_cut_off = is_idle;
            let message = match (self.runs, self.was_cut_off && !self.prompt.may_resend) {
                (true, _) => "following a turn that went on without a worker",
                (false, true) => "opencode has the prompt already, and it was not answered",
                (false, false) => "continuing a prompt that opencode has already",
            };
            self.tell(AgentEvent::Status { message: message.to_owned() }).await;
        }
        Ok(None)
    }

    /// Whether a prompt that is there, and at rest, was answered to the end, by a turn that nobody recorded.
    async fn ended_before(&mut self, mine: &[MessageWithParts]) -> Result<Option<(Ending, String)>, Cut> {
        let Some(last) = mine.iter().rev().map(|message| &message.info).find(|info| info.is_assistant()) else {
            return Ok(None);
        };
        let was_final = match (&last.finish, &last.error) {
            (_, Some(error)) => error.name != "MessageAbortedError",
            (Some(finish), None) => finish != "tool-calls" && finish != "unknown",
            (None, None) => false,
        };
        if !last.is_complete() || !was_final {
            return Ok(None);
        }
        let children = self.lives(self.server.client.children(&self.session.id)).await?;
        self.read_subagents(children).await?;
        self.take_messages(mine, true).await;
        let context = Context { step_limit: self.session.step_limit, ..Context::default() };
        Ok(Some(name_ending(mine, &context)))
    }

    async fn post(&mut self, system: Option<&str>) -> Result<(), Cut> {
        let (provider, model) = self.session.model.split_once('/').unwrap_or(("", self.session.model.as_str()));
        let body = PromptBody {
            message: &self.prompt.message_id,
            part: &self.prompt.part_id,
            text: &self.prompt.text,
            provider,
            model,
            mode: &self.session.mode,
            variant: self.session.variant.as_deref(),
            system,
        };
        let client = &self.server.client;
        let mut tried = 0;
        loop {
            tried += 1;
            match self.lives(client.prompt(&self.session.id, &self.session.directory, &body)).await {
                Ok(()) => return Ok(()),
                Err(Cut::ServerLost(why)) if tried < POSTS && !self.server.gone.is_cancelled() => {
                    tracing::warn!(session = %self.session.id, why, "the prompt got no answer; sending it again");
                }
                Err(cut) => return Err(cut),
            }
        }
    }

    /// Follows the turn until it is over.
    async fn follow(&mut self, subscription: &mut Subscription) -> Result<(Ending, String), Cut> {
        loop {
            self.watch.stream_is(self.server.is_connected());
            match self.watch.demand(Instant::now()) {
                Demand::Break(why) => self.abort(why).await,
                Demand::Look => {
                    if let Some(ended) = self.look_patiently(subscription).await? {
                        return Ok(ended);
                    }
                }
                Demand::Follow(until) => self.wait(subscription, until).await?,
            }
            if self.cold.as_ref().is_some_and(|(_, since)| since.elapsed() > COLD_WITHIN) {
                self.cold = None;
            }
        }
    }

    async fn wait(&mut self, subscription: &mut Subscription, until: Instant) -> Result<(), Cut> {
        tokio::select! {
            biased;
            () = self.server.gone.cancelled() => Err(Cut::ServerLost("its process ended".to_owned())),
            () = self.stop.cancelled(), if !self.watch.is_broken() => {
                self.abort(Broken::Stopped).await;
                Ok(())
            }
            Some((ask, decision)) = self.asked.next() => {
                self.decided(ask, decision).await;
                Ok(())
            }
            delivery = subscription.next() => {
                match delivery {
                    Delivery::Event(event) => self.take(event).await,
                    Delivery::Lost => {
                        self.has_missed();
                        self.watch.lost_events(Instant::now());
                    }
                }
                Ok(())
            }
            () = tokio::time::sleep_until(until.into()) => Ok(()),
        }
    }

    /// Not all was heard: what happened must be read.
    fn has_missed(&mut self) {
        self.must_read = true;
        self.heard_all = false;
    }

    async fn abort(&mut self, why: Broken) {
        let (client, directory) = (&self.server.client, &self.session.directory);
        if let Err(error) = client.abort(&self.session.id, directory).await {
            tracing::warn!(session = %self.session.id, %error, "aborting a turn failed");
        }
        // What was asked needs no answer any more.
        self.asked.clear();
        self.watch.asks_person(false);
        self.watch.broke(why, Instant::now());
    }

    async fn take(&mut self, event: RawEvent) {
        let now = Instant::now();
        let is_root = event.session.as_deref() == Some(self.session.id.as_str());
        self.watch.heard(now);
        if let Some(session) = &event.session {
            self.tree.heard_in(session);
        }
        let mut told = Vec::new();
        let said = event.read();
        if is_root && !self.is_of_earlier(&said) {
            self.heard.take(&event.name, &said, event.properties.get().len());
        }
        match said {
            Event::Message(message) => self.take_message(&message, is_root),
            Event::Part(part) => {
                self.take_tool(event.session.as_deref().unwrap_or_default(), &part, now);
                self.watch.progressed();
                if is_root {
                    self.transcript.part(&part, &mut told);
                } else {
                    told.extend(event.session.as_deref().and_then(|session| self.tree.step(session, &part)));
                }
            }
            Event::Delta { message, part, field, delta } => {
                self.watch.progressed();
                if is_root {
                    self.transcript.delta(&message, &part, &field, &delta, &mut told);
                }
            }
            Event::Status(status) => {
                if let Status::Retry { attempt, message, next } = &status {
                    #[expect(clippy::cast_possible_truncation, reason = "`as` saturates")]
                    let next_at_ms = next.map(|next| next as i64);
                    told.push(AgentEvent::Retry { attempt: *attempt, message: message.clone(), next_at_ms });
                    self.watch.status(&status, wall_ms(), now);
                } else if is_root {
                    self.watch.status(&status, wall_ms(), now);
                }
            }
            Event::Idle if is_root => self.watch.idle(now),
            Event::Error(error) if is_root => {
                self.cold = None;
                self.watch.error(error, now);
            }
            Event::Ask(ask) => drop(self.answer(ask.into()).await),
            Event::Question(asked) => drop(self.answer(asked.into()).await),
            Event::Plan(items) if is_root => told.push(plan(items)),
            Event::Compacted => {
                told.push(AgentEvent::Status {
                    message: "opencode summarised the conversation to make room".to_owned(),
                });
            }
            Event::Unknown => told.push(AgentEvent::Unknown { name: event.name }),
            Event::Idle | Event::Error(_) | Event::Plan(_) | Event::Ignored => {}
        }
        if self.transcript.take_missing() {
            self.has_missed();
            self.watch.lost_events(now);
        }
        for event in told {
            self.tell(event).await;
        }
    }

    /// Waits for a request, as long as the server lives.
    async fn lives<T>(&self, request: impl Future<Output = Result<T, ClientError>>) -> Result<T, Cut> {
        tokio::select! {
            biased;
            answer = request => answer.map_err(Cut::from),
            () = self.server.gone.cancelled() => Err(Cut::ServerLost("its process ended".to_owned())),
        }
    }

    /// Lets only a few worktrees have their first turn at once. False if we were told to stop meanwhile.
    async fn enter_cold_gate(&mut self) -> bool {
        if self.server.directories.is_warm(&self.session.directory) {
            return !self.stop.is_cancelled();
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            permit = Arc::clone(&self.server.cold).acquire_owned() => {
                self.cold = permit.ok().map(|permit| (permit, Instant::now()));
                true
            }
        }
    }

    /// Tells those who follow the turn. They may be slow, which slows us down, but cannot keep us from stopping.
    async fn tell(&self, event: AgentEvent) {
        let said = self.redaction.lock().unwrap_or_else(PoisonError::into_inner).take(&self.server.redactor, event);
        let Some(event) = said else { return };
        let told = async {
            tokio::select! {
                biased;
                sent = self.events.send(event.clone()) => return sent.is_ok(),
                () = self.stop.cancelled() => {}
                () = self.server.gone.cancelled() => {}
            }
            tokio::time::timeout(LAST_WORDS, self.events.send(event)).await.is_ok()
        };
        if !told.await {
            tracing::debug!("nobody took an event of a turn");
        }
    }
}

fn wall_ms() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}
