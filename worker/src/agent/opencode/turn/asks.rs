//! What a turn asks of people, permissions and questions: answered at once by the project's policy, or by a person, for whom the turn
//! waits.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};

use super::{Cut, Turn};
use crate::{
    agent::opencode::{
        client::ClientError,
        stream::Subscription,
        wire::{Ask, Question as WireQuestion},
    },
    model::{
        ask::{Answer, Asked, Decision, OpenAsk, Question, QuestionOption},
        event::AgentEvent,
    },
};

type Answers<'a> = FuturesUnordered<BoxFuture<'a, (OpenAsk, Decision)>>;

/// Asks that people have not answered yet. The lock is never taken: it makes futures that only one can poll `Sync`.
#[derive(Default)]
pub(super) struct Unanswered<'a>(Mutex<Answers<'a>>);

impl<'a> Unanswered<'a> {
    fn answers(&mut self) -> &mut Answers<'a> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next answer; none if nobody is asked.
    pub(super) async fn next(&mut self) -> Option<(OpenAsk, Decision)> {
        self.answers().next().await
    }

    /// Whether people are asked anything.
    pub(super) fn waits(&mut self) -> bool {
        !self.answers().is_empty()
    }

    /// Asks nothing any more.
    pub(super) fn clear(&mut self) {
        self.answers().clear();
    }
}

impl From<Ask> for OpenAsk {
    fn from(ask: Ask) -> Self {
        Self { id: ask.id, asked: Asked::Permission { permission: ask.permission, patterns: ask.patterns } }
    }
}

impl From<WireQuestion> for OpenAsk {
    fn from(asked: WireQuestion) -> Self {
        let questions = asked.questions.into_iter().map(|question| Question {
            question: question.question,
            multiple: question.multiple,
            options: question
                .options
                .into_iter()
                .map(|choice| QuestionOption { label: choice.label, description: choice.description })
                .collect(),
        });
        Self { id: asked.id, asked: Asked::Questions(questions.collect()) }
    }
}

impl Turn<'_> {
    /// Answers what is open by the server's own list, as far as that was not done yet.
    pub(super) async fn answer_open_asks(&mut self, subscription: &Subscription) -> Result<(), Cut> {
        let (client, directory) = (&self.server.client, &self.session.directory);
        let read = async { tokio::try_join!(client.asks(directory), client.questions(directory)) };
        let (asks, questions) = self.lives(read).await?;
        let asks = asks.into_iter().filter(|ask| subscription.owns(&ask.session)).map(OpenAsk::from);
        let questions = questions.into_iter().filter(|asked| subscription.owns(&asked.session)).map(OpenAsk::from);
        let open: Vec<OpenAsk> = asks.chain(questions).collect();
        let mut all_answered = true;
        for ask in open {
            all_answered &= self.answer(ask).await;
        }
        self.watch.waits_for_answer(!all_answered, Instant::now());
        Ok(())
    }

    /// Answers an ask by the project's policy, at once, or puts it before a person. False if the agent could not be told.
    pub(super) async fn answer(&mut self, mut ask: OpenAsk) -> bool {
        ask.redact(&self.server.redactor);
        if !self.answered.insert(ask.id.clone()) {
            return true;
        }
        if let Some(decision) = Decision::by_policy(self.session.project.asks, &ask) {
            return self.reply(&ask, &decision).await;
        }
        self.tell(AgentEvent::Status { message: format!("waits for a person: {}", ask.summary()) }).await;
        let desk = self.desk;
        self.asked.answers().push(Box::pin(async move {
            let decision = desk.decide(&ask).await;
            (ask, decision)
        }));
        self.watch.asks_person(true);
        true
    }

    /// A person has answered, or nobody in time.
    pub(super) async fn decided(&mut self, ask: OpenAsk, decision: Decision) {
        self.watch.asks_person(self.asked.waits());
        // Where that fails, the ask is still open: it is found there, and its answer is known by then.
        self.reply(&ask, &decision).await;
        self.watch.heard(Instant::now());
    }

    /// Tells the agent. False if it still waits for the answer.
    async fn reply(&mut self, ask: &OpenAsk, decision: &Decision) -> bool {
        let (client, directory) = (&self.server.client, &self.session.directory);
        let is_question = matches!(ask.asked, Asked::Questions(_));
        let sent = match (&decision.answer, is_question) {
            (Answer::Once, false) => client.answer_ask(directory, &ask.id, "once", None).await,
            (Answer::Always, false) => client.answer_ask(directory, &ask.id, "always", None).await,
            (Answer::Reject { message }, false) => {
                client.answer_ask(directory, &ask.id, "reject", message.as_deref()).await
            }
            (Answer::Replies(replies), true) => client.answer_question(directory, &ask.id, replies).await,
            // The database takes no answer that does not fit; should one come, it is a no.
            (Answer::Replies(_), false) => client.answer_ask(directory, &ask.id, "reject", None).await,
            (Answer::Once | Answer::Always | Answer::Reject { .. }, true) => {
                client.reject_question(directory, &ask.id).await
            }
        };
        if let Err(error) = sent {
            tracing::debug!(ask = %ask.id, %error, "answering an ask failed");
            return self.is_settled(&ask.id, &error);
        }
        match (&decision.answer, is_question) {
            (Answer::Reject { .. }, true) => self.watch.question_rejected(),
            // With a message the agent goes on.
            (Answer::Reject { message: None }, false) => self.watch.ask_rejected(),
            _ => {}
        }
        if let Some(message) = decision.warning(ask) {
            self.tell(AgentEvent::Warning { message }).await;
        }
        let (permission, patterns) = match &ask.asked {
            Asked::Permission { permission, patterns } => (permission.clone(), patterns.clone()),
            Asked::Questions(questions) => {
                ("question".to_owned(), questions.iter().map(|question| question.question.clone()).collect())
            }
        };
        self.tell(AgentEvent::Ask { id: ask.id.clone(), permission, patterns, answer: decision.in_words() }).await;
        true
    }

    /// Whether an ask that could not be answered needs no answer: one that an abort left in the list is not known when it is answered.
    /// Every other one is tried again by the poll.
    fn is_settled(&mut self, id: &str, error: &ClientError) -> bool {
        let is_settled = error.is_gone();
        if !is_settled {
            self.answered.remove(id);
            self.watch.waits_for_answer(true, Instant::now());
        }
        is_settled
    }
}
