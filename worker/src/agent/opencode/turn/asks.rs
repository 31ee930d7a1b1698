//! What a turn asks of people, permissions and questions, and what is answered: at once, by the project's policy.

use std::time::Instant;

use super::{Cut, Turn};
use crate::{
    agent::opencode::{stream::Subscription, wire::Ask},
    model::event::AgentEvent,
};

impl Turn<'_> {
    pub(super) async fn answer_open_asks(&mut self, subscription: &Subscription) -> Result<(), Cut> {
        let (client, directory) = (&self.server.client, &self.session.directory);
        let read = async { tokio::try_join!(client.asks(directory), client.questions(directory)) };
        let (asks, questions) = self.lives(read).await?;
        // Those that cannot be answered say so again.
        self.watch.waits_for_answer(false, Instant::now());
        for ask in asks {
            if subscription.owns(&ask.session) {
                self.answer(ask).await;
            }
        }
        for question in questions {
            if subscription.owns(&question.session) {
                self.reject_question(&question.id).await;
            }
        }
        Ok(())
    }

    /// Answers a permission ask by the project's policy, at once: nobody is there to wait for.
    pub(super) async fn answer(&mut self, ask: Ask) {
        if !self.answered.insert(ask.id.clone()) {
            return;
        }
        let reply = if self.session.project.allow_asks { "once" } else { "reject" };
        if let Err(error) = self.server.client.answer_ask(&self.session.directory, &ask.id, reply).await {
            // It may have been answered by an abort; if not, the poll finds it again.
            tracing::debug!(ask = %ask.id, %error, "answering an ask failed");
            self.answered.remove(&ask.id);
            self.watch.waits_for_answer(true, Instant::now());
            return;
        }
        if reply == "reject" {
            self.watch.ask_rejected();
            let what = if ask.patterns.is_empty() { String::new() } else { format!(" ({})", ask.patterns.join(", ")) };
            let message = format!("the agent asked for the permission \"{}\"{what} and was refused", ask.permission);
            self.tell(AgentEvent::Warning { message }).await;
        }
        let Ask { id, permission, patterns, .. } = ask;
        self.tell(AgentEvent::Ask { id, permission, patterns, answer: reply.to_owned() }).await;
    }

    pub(super) async fn reject_question(&mut self, id: &str) {
        if !self.answered.insert(id.to_owned()) {
            return;
        }
        if let Err(error) = self.server.client.reject_question(&self.session.directory, id).await {
            tracing::debug!(question = id, %error, "rejecting a question failed");
            self.answered.remove(id);
            self.watch.waits_for_answer(true, Instant::now());
            return;
        }
        self.watch.question_rejected();
        let message = "the agent asked a question, which nobody is there to answer".to_owned();
        self.tell(AgentEvent::Warning { message }).await;
    }
}
