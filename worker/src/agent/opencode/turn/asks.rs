//! What a turn asks of people, permissions and questions, and what is answered: at once, by the project's policy.

use std::time::Instant;

use super::{Cut, Turn};
use crate::{
    agent::opencode::{client::ClientError, stream::Subscription, wire::Ask},
    model::event::AgentEvent,
};

impl Turn<'_> {
    pub(super) async fn answer_open_asks(&mut self, subscription: &Subscription) -> Result<(), Cut> {
        let (client, directory) = (&self.server.client, &self.session.directory);
        let read = async { tokio::try_join!(client.asks(directory), client.questions(directory)) };
        let (asks, questions) = self.lives(read).await?;
        let mut all_answered = true;
        for ask in asks {
            if subscription.owns(&ask.session) {
                all_answered &= self.answer(ask).await;
            }
        }
        for question in questions {
            if subscription.owns(&question.session) {
                all_answered &= self.reject_question(&question.id).await;
            }
        }
        self.watch.waits_for_answer(!all_answered, Instant::now());
        Ok(())
    }

    /// Answers a permission ask by the project's policy, at once: nobody is there to wait for. False if it still waits for an answer.
    pub(super) async fn answer(&mut self, ask: Ask) -> bool {
        if !self.answered.insert(ask.id.clone()) {
            return true;
        }
        let reply = if self.session.project.allow_asks { "once" } else { "reject" };
        if let Err(error) = self.server.client.answer_ask(&self.session.directory, &ask.id, reply).await {
            tracing::debug!(ask = %ask.id, %error, "answering an ask failed");
            return self.is_settled(&ask.id, &error);
        }
        if reply == "reject" {
            self.watch.ask_rejected();
            let what = if ask.patterns.is_empty() { String::new() } else { format!(" ({})", ask.patterns.join(", ")) };
            let message = format!("the agent asked for the permission \"{}\"{what} and was refused", ask.permission);
            self.tell(AgentEvent::Warning { message }).await;
        }
        let Ask { id, permission, patterns, .. } = ask;
        self.tell(AgentEvent::Ask { id, permission, patterns, answer: reply.to_owned() }).await;
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

    /// Rejects a question. False if it still waits for an answer.
    pub(super) async fn reject_question(&mut self, id: &str) -> bool {
        if !self.answered.insert(id.to_owned()) {
            return true;
        }
        if let Err(error) = self.server.client.reject_question(&self.session.directory, id).await {
            tracing::debug!(question = id, %error, "rejecting a question failed");
            return self.is_settled(id, &error);
        }
        self.watch.question_rejected();
        let message = "the agent asked a question, which nobody is there to answer".to_owned();
        self.tell(AgentEvent::Warning { message }).await;
        true
    }
}
