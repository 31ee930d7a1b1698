//! Background loops. Each takes no input, is idempotent, and runs on a timer and on a nudge: an event, a restart and a lost
//! event are one path.
//!
//! A loop decides nothing about a turn; it claims, keeps alive, rescues, reaps. Database trouble is logged once when it
//! begins and once when it ends.

pub mod checker;
pub mod claimer;
pub mod courier;
pub mod forecaster;
pub mod heartbeat;
pub mod lookout;
pub mod notifier;
pub mod packer;
pub mod prober;
pub mod pruner;
pub mod reaper;
pub mod rehomer;
pub mod rescuer;
mod rounds;
pub mod settler;
pub mod teller;
pub mod tender;

pub use rounds::Rounds;

use crate::store::StoreError;

/// Logs trouble once when it begins and once when it ends, however often the loop runs in between.
#[derive(Debug)]
pub struct Trouble {
    doing: &'static str,
    since: Option<tokio::time::Instant>,
}

impl Trouble {
    /// No trouble yet with `doing`.
    pub fn new(doing: &'static str) -> Self {
        Self { doing, since: None }
    }

    /// Notes how a round went; hands on what it gave.
    pub fn note<T>(&mut self, result: Result<T, StoreError>) -> Option<T> {
        match result {
            Ok(value) => {
                if let Some(since) = self.since.take() {
                    tracing::info!(doing = self.doing, after_seconds = since.elapsed().as_secs(), "works again");
                }
                Some(value)
            }
            Err(error) => {
                if self.since.is_none() {
                    self.since = Some(tokio::time::Instant::now());
                    tracing::warn!(doing = self.doing, %error, "does not work; trying on");
                } else {
                    tracing::debug!(doing = self.doing, %error, "still does not work");
                }
                None
            }
        }
    }
}
