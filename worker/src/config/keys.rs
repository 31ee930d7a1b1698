//! Every key of `millhand.toml`, once: its name, and how it reaches its field of [`Settings`].
//!
//! The variable of a key is `MILLHAND_` and the key in capitals, with `_` for `.`. What each key means is written in
//! `ops/millhand.example.toml`, which a test holds against this table.

use toml::Value;

use super::{Home, LogFormat, SandboxMode, Settings, value::Setting};

type FromToml = fn(&mut Settings, &Value) -> Result<(), String>;
type FromText = fn(&mut Settings, &str) -> Result<(), String>;

/// A key.
pub(super) struct Key {
    /// As in the file, with its sections: `worker.concurrency`.
    pub(super) name: &'static str,
    /// Sets it from the file.
    pub(super) from_toml: FromToml,
    /// Sets it from a variable or a flag.
    pub(super) from_text: FromText,
    /// As the file would have it; none: not set.
    #[cfg_attr(not(test), expect(dead_code, reason = "the test of the example file compares defaults"))]
    pub(super) to_toml: fn(&Settings) -> Option<Value>,
}

impl Key {
    /// Its variable.
    pub(super) fn variable(&self) -> String {
        format!("MILLHAND_{}", self.name.to_uppercase().replace('.', "_"))
    }
}

impl Setting for Home {
    const EXPECTED: &'static str = "an absolute path";

    fn from_toml(value: &Value) -> Result<Self, String> {
        std::path::PathBuf::from_toml(value).map(Self::new)
    }

    fn from_text(text: &str) -> Result<Self, String> {
        std::path::PathBuf::from_text(text).map(Self::new)
    }

    fn to_toml(&self) -> Option<Value> {
        self.root().to_path_buf().to_toml()
    }
}

impl Setting for LogFormat {
    const EXPECTED: &'static str = "\"text\" or \"json\"";

    fn from_toml(value: &Value) -> Result<Self, String> {
        Self::from_text(value.as_str().unwrap_or_default())
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("expected {}", Self::EXPECTED)),
        }
    }

    fn to_toml(&self) -> Option<Value> {
        let text = match self {
            Self::Text => "text",
            Self::Json => "json",
        };
        Some(Value::String(text.to_owned()))
    }
}

impl Setting for SandboxMode {
    const EXPECTED: &'static str = "\"on\" or \"off\"";

    fn from_toml(value: &Value) -> Result<Self, String> {
        Self::from_text(value.as_str().unwrap_or_default())
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(format!("expected {}", Self::EXPECTED)),
        }
    }

    fn to_toml(&self) -> Option<Value> {
        let text = match self {
            Self::On => "on",
            Self::Off => "off",
        };
        Some(Value::String(text.to_owned()))
    }
}

macro_rules! key {
    ($name:literal, $($field:ident).+) => {
        Key {
            name: $name,
            from_toml: |settings, value| {
                settings.$($field).+ = Setting::from_toml(value)?;
                Ok(())
            },
            from_text: |settings, text| {
                settings.$($field).+ = Setting::from_text(text)?;
                Ok(())
            },
            to_toml: |settings| Setting::to_toml(&settings.$($field).+),
        }
    };
}

/// All keys, in the order of the example file.
pub(super) const KEYS: &[Key] = &[
    key!("home", home),
    key!("database.url", database.url),
    key!("database.listen", database.listen),
    key!("postgres.binaries", postgres.binaries),
    key!("worker.concurrency", worker.concurrency),
    key!("worker.command_processes", worker.command_processes),
    key!("worker.checks_at_once", worker.checks_at_once),
    key!("agent.opencode.binary", opencode.binary),
    key!("agent.opencode.config", opencode.config),
    key!("agent.opencode.default_model", opencode.default_model),
    key!("agent.opencode.default_provider", opencode.default_provider),
    key!("agent.opencode.snapshot", opencode.snapshot),
    key!("agent.opencode.lsp", opencode.lsp),
    key!("agent.opencode.formatter", opencode.formatter),
    key!("agent.opencode.max_servers", opencode.max_servers),
    key!("agent.opencode.recycle_mb", opencode.recycle_mb),
    key!("agent.opencode.step_resumes", opencode.step_resumes),
    key!("agent.opencode.adopt", opencode.adopt),
    key!("sandbox.mode", sandbox.mode),
    key!("sandbox.read", sandbox.read),
    key!("sandbox.write", sandbox.write),
    key!("sandbox.user", sandbox.user),
    key!("worktrees.pool", worktrees.pool),
    key!("worktrees.quota", worktrees.quota),
    key!("retention.events_days", retention.events_days),
    key!("retention.tasks_days", retention.tasks_days),
    key!("retention.deliveries_days", retention.deliveries_days),
    key!("apply.author", apply.author),
    key!("apply.message", apply.message),
    key!("apply.trailers", apply.trailers),
    key!("apply.sign", apply.sign),
    key!("api.listen", api.listen),
    key!("api.hosts", api.hosts),
    key!("api.rate", api.rate),
    key!("log.level", log.level),
    key!("log.format", log.format),
    key!("retry.backoff_base", retry.backoff_base),
    key!("retry.backoff_cap", retry.backoff_cap),
    key!("retry.max_infra_losses", retry.max_infra_losses),
    key!("retry.rate_limit_wait", retry.rate_limit_wait),
    key!("retry.rate_limit_cap", retry.rate_limit_cap),
    key!("timings.lease", timings.lease),
    key!("timings.heartbeat", timings.heartbeat),
    key!("timings.poll_min", timings.poll_min),
    key!("timings.poll_max", timings.poll_max),
    key!("timings.rescue", timings.rescue),
    key!("timings.listen_check", timings.listen_check),
    key!("timings.settle_poll", timings.settle_poll),
    key!("timings.stream_silence", timings.stream_silence),
    key!("timings.turn_start", timings.turn_start),
    key!("timings.turn_stall", timings.turn_stall),
    key!("timings.turn_tool", timings.turn_tool),
    key!("timings.turn_answer", timings.turn_answer),
    key!("timings.person_answer", timings.person_answer),
    key!("timings.turn_retry", timings.turn_retry),
    key!("timings.provider_silence", timings.provider_silence),
    key!("timings.turn_limit", timings.turn_limit),
    key!("timings.setup", timings.setup),
    key!("timings.check", timings.check),
    key!("timings.check_poll", timings.check_poll),
    key!("timings.server_start", timings.server_start),
    key!("timings.server_request", timings.server_request),
    key!("timings.server_grace", timings.server_grace),
    key!("timings.server_idle", timings.server_idle),
    key!("timings.directory_idle", timings.directory_idle),
    key!("timings.server_age", timings.server_age),
    key!("timings.server_drain", timings.server_drain),
    key!("timings.server_patience", timings.server_patience),
    key!("timings.tend", timings.tend),
    key!("timings.tell", timings.tell),
    key!("timings.kill_grace", timings.kill_grace),
    key!("timings.adopt_grace", timings.adopt_grace),
    key!("timings.drain", timings.drain),
    key!("timings.apply_lock", timings.apply_lock),
    key!("timings.settle_applies", timings.settle_applies),
    key!("timings.forecast", timings.forecast),
    key!("timings.forecast_fetch", timings.forecast_fetch),
    key!("timings.reap", timings.reap),
    key!("timings.reap_grace", timings.reap_grace),
    key!("timings.reap_retry", timings.reap_retry),
    key!("timings.trash_kept", timings.trash_kept),
    key!("timings.prune", timings.prune),
    key!("timings.probe", timings.probe),
    key!("timings.rehome", timings.rehome),
    key!("timings.notify", timings.notify),
    key!("timings.notify_overlap", timings.notify_overlap),
    key!("timings.webhook_timeout", timings.webhook_timeout),
    key!("timings.webhook_backoff", timings.webhook_backoff),
    key!("timings.webhook_backoff_cap", timings.webhook_backoff_cap),
    key!("timings.login_code", timings.login_code),
    key!("timings.browser_login", timings.browser_login),
    key!("timings.access_recheck", timings.access_recheck),
    key!("timings.viewer_poll", timings.viewer_poll),
    key!("timings.viewer_beat", timings.viewer_beat),
    key!("timings.fleet_poll", timings.fleet_poll),
];

/// The key that a person probably meant.
pub(super) fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (strsim::jaro_winkler(typed, name), name))
        .filter(|(likeness, _)| *likeness > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
