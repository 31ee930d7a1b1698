//! Configuration: read once at the start, validated, then passed down as values.
//!
//! Nothing else reads the environment. The file is `millhand.toml`; every key can be overridden by a `MILLHAND_*` variable, and
//! some by flags. `ops/millhand.example.toml` documents every key.

pub mod duration;
pub mod home;
mod host;
mod keys;
mod load;
pub mod machine;
mod settings;
pub mod timings;
mod value;

pub use home::Home;
pub use host::{host_id, prepare_home, private_folder};
pub use load::{ConfigError, Sources, load};
pub use machine::resident_bytes;
pub use settings::{
    ApiSettings, ApplySettings, DatabaseSettings, Environment, LogFormat, LogSettings, OpencodeSettings,
    PostgresSettings, RetentionSettings, SandboxMode, SandboxSettings, Settings, WorkerSettings, WorktreeSettings,
    servers_for, turns_for,
};
pub use timings::Timings;
