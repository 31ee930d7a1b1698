//! What a step cost.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// Tokens and cost of one step: one model call, which is one assistant message of the agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepUsage {
    /// The agent's conversation that the step belongs to; a subagent has one of its own.
    pub agent_session: String,
    /// The agent's id of the assistant message. With `agent_session`, the key of the step.
    pub message_id: String,
    /// Model that ran, `provider/model`.
    pub model: String,
    /// Input tokens that were not read from a cache.
    pub input_tokens: i64,
    /// Output tokens, without reasoning.
    pub output_tokens: i64,
    /// Reasoning tokens.
    pub reasoning_tokens: i64,
    /// Input tokens read from the provider's cache.
    pub cache_read_tokens: i64,
    /// Input tokens written to the provider's cache.
    pub cache_write_tokens: i64,
    /// USD, by the agent's own figure; none: it has none, which is not the same as nothing.
    pub cost_usd: Option<Decimal>,
}

impl StepUsage {
    /// All tokens of the step.
    pub fn total_tokens(&self) -> i64 {
        self.input_tokens
            + self.output_tokens
            + self.reasoning_tokens
            + self.cache_read_tokens
            + self.cache_write_tokens
    }
}
