//! How opencode is told to use the scripted model. One place, so that demo, tests and benchmark run the same.

use rust_decimal::{Decimal, prelude::ToPrimitive};
use serde_json::{Map, Value, json};

use super::record::Billed;

/// The provider's id in opencode: models are called `scripted/<script>`.
pub const PROVIDER_ID: &str = "scripted";

/// The model to name in opencode for a script.
pub fn model_name(script: &str) -> String {
    format!("{PROVIDER_ID}/{script}")
}

/// What the tokens cost, USD per million. Reasoning costs what output does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prices {
    /// Input that was not cached.
    pub input: Decimal,
    /// Output and reasoning.
    pub output: Decimal,
    /// Input read from the cache.
    pub cache_read: Decimal,
}

impl Default for Prices {
    fn default() -> Self {
        Self { input: Decimal::new(3, 0), output: Decimal::new(15, 0), cache_read: Decimal::new(3, 1) }
    }
}

impl Prices {
    /// What these tokens cost in USD.
    pub fn cost_usd(&self, billed: Billed) -> Decimal {
        (self.input * Decimal::from(billed.input)
            + self.output * Decimal::from(billed.output + billed.reasoning)
            + self.cache_read * Decimal::from(billed.cache_read))
            / Decimal::from(1_000_000)
    }
}

/// The part of opencode's configuration that offers the scripts as models:
/// `{"provider": {"scripted": …}, "enabled_providers": ["scripted"]}`.
///
/// `@ai-sdk/openai-compatible` is built into opencode, and no other provider is looked up, so it needs no network. A subagent can be given a script of its
/// own by its model: `{"agent": {"general": {"model": "scripted/<other script>"}}}`.
pub fn provider_config<'a>(base_url: &str, scripts: impl IntoIterator<Item = &'a str>, prices: Prices) -> Value {
    let per_million = |price: Decimal| price.to_f64().unwrap_or_default();
    let cost = json!({
        "input": per_million(prices.input),
        "output": per_million(prices.output),
        "cache_read": per_million(prices.cache_read),
        "cache_write": 0,
    });
    let models: Map<String, Value> = scripts
        .into_iter()
        .map(|script| {
            let model = json!({
                "name": format!("Scripted: {script}"),
                "cost": cost,
                "limit": {"context": 1_000_000, "output": 32_000},
                "reasoning": true,
                "tool_call": true,
                "temperature": false,
                "attachment": false,
            });
            (script.to_owned(), model)
        })
        .collect();
    json!({
        "enabled_providers": [PROVIDER_ID],
        "provider": {
            PROVIDER_ID: {
                "npm": "@ai-sdk/openai-compatible",
                "name": "Scripted model",
                "options": {"baseURL": base_url, "apiKey": "none-needed"},
                "models": models,
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasoning_costs_what_output_does() {
        let billed = Billed { input: 1_000_000, output: 100_000, reasoning: 100_000, cache_read: 1_000_000 };
        assert_eq!(Prices::default().cost_usd(billed), Decimal::new(63, 1));
    }
}
