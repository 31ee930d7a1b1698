//! Who answers what agents ask in tests of a backend alone.

use async_trait::async_trait;
use millhand::{
    agent::AskDesk,
    model::ask::{Decision, OpenAsk},
};

/// Nobody is there.
pub struct Nobody;

#[async_trait]
impl AskDesk for Nobody {
    async fn decide(&self, _ask: &OpenAsk) -> Decision {
        Decision::by_deadline()
    }
}
