//! The scripted model: an OpenAI-compatible chat-completions server on loopback that says what a script tells it to.
//!
//! The demo, the tests and the benchmark need a model that costs nothing, needs no network, and says the same every
//! time; everything behind it (the agent, its tools, git, Postgres) is real. It is used by whoever starts it, and
//! must know nothing of the queue or of a turn.
//!
//! - [`script`]: the format of scripts, and how they are read and checked.
//! - [`fault`]: what can be made to go wrong.
//! - [`ScriptedModel`]: the running server, and what it has served.
//! - [`provider_config`]: how opencode is told to use it.
//! - [`sample`]: the demo's repository, tasks and scripts.
//!
//! **Where a conversation stands in its script is derived from the request's own messages**, never counted by the
//! server: the turn is how many prompts were answered before, the message is how many assistant messages follow the
//! last prompt. So any number of conversations run at once, a resumed one goes on where it was, and a request that is
//! repeated after a crash gets the same answer.

mod answer;
pub mod fault;
mod placeholder;
mod provider;
mod record;
pub mod sample;
pub mod script;
mod server;
mod wire;

pub use provider::{PROVIDER_ID, Prices, model_name, provider_config};
pub use record::{Billed, Moment, RecordedRequest};
pub use script::{Script, ScriptError};
pub use server::ScriptedModel;
