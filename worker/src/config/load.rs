//! Reads the settings: defaults, then the file, then variables, then flags; later wins.

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use toml::Value;

use super::{
    Environment, Home, Settings,
    keys::{KEYS, nearest},
};

/// A setting that cannot be used: where it is, what is wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ConfigError {
    /// The file, variable or flag.
    pub place: String,
    /// What is wrong with which key.
    pub problem: String,
}

/// Where settings come from, besides the defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file named on the command line.
    pub file: Option<PathBuf>,
    /// The process's environment.
    pub environment: Environment,
    /// Keys set on the command line, with the flag that set them.
    pub flags: Vec<(&'static str, &'static str, String)>,
    /// Whether the process runs as root, whose data has another default place.
    pub is_root: bool,
}

impl Sources {
    /// The environment of this process. The only place that reads it.
    pub fn of_process() -> Self {
        Self {
            environment: std::env::vars_os().collect(),
            is_root: rustix::process::geteuid().is_root(),
            ..Self::default()
        }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.text(name)
    }

    /// The variables that are ours or Postgres's. One that is not UTF-8 is none of them.
    fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environment.0.iter().filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)))
    }

    /// Where data lives if nothing says otherwise.
    fn default_home(&self) -> PathBuf {
        let absolute = |name| self.variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        if self.is_root {
            return PathBuf::from("/var/lib/millhand");
        }
        match (absolute("XDG_DATA_HOME"), absolute("HOME")) {
            (Some(data), _) => data.join("millhand"),
            (None, Some(home)) => home.join(".local/share/millhand"),
            (None, None) => PathBuf::from("/var/lib/millhand"),
        }
    }
}

/// Reads and checks all settings.
pub fn load(sources: &Sources) -> Result<Settings, ConfigError> {
    let mut settings = Settings::new(Home::new(sources.default_home()));
    settings.environment = sources.environment.clone();
    let (file, required) = file_of(sources)?;
    match std::fs::read_to_string(&file) {
        Ok(text) => read_file(&mut settings, &file, &text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => {}
        Err(error) => {
            return Err(ConfigError { place: file.display().to_string(), problem: format!("cannot be read: {error}") });
        }
    }
    if settings.database.url.is_some() {
        settings.database.url_from = file.display().to_string();
    }
    read_variables(&mut settings, sources)?;
    for (key, flag, text) in &sources.flags {
        set_text(&mut settings, key, flag, text)?;
    }
    read_database(&mut settings, sources);
    check(&settings, &file)?;
    Ok(settings)
}

/// The file to read, and whether it must exist: one that somebody named must.
fn file_of(sources: &Sources) -> Result<(PathBuf, bool), ConfigError> {
    if let Some(file) = &sources.file {
        return Ok((file.clone(), true));
    }
    if let Some(file) = sources.variable("MILLHAND_CONFIG") {
        return Ok((PathBuf::from(file), true));
    }
    let home = match sources.flags.iter().rfind(|(key, _, _)| *key == "home") {
        Some((_, _, path)) => PathBuf::from(path),
        None => sources.variable("MILLHAND_HOME").map_or_else(|| sources.default_home(), PathBuf::from),
    };
    Ok((Home::new(home).private().join("millhand.toml"), false))
}

/// Reads a whole file into the settings.
fn read_file(settings: &mut Settings, file: &Path, text: &str) -> Result<(), ConfigError> {
    let error = |problem: String| ConfigError { place: file.display().to_string(), problem };
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| error(e.to_string().trim_end().to_owned()))?;
    let mut found = Vec::new();
    flatten("", &Value::Table(table), &mut found);
    for (name, value) in &found {
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            let meant = nearest(name, KEYS.iter().map(|key| key.name));
            let hint = meant.map_or_else(
                || "; ops/millhand.example.toml lists all keys".to_owned(),
                |meant| format!("; did you mean \"{meant}\"?"),
            );
            return Err(error(format!("unknown key \"{name}\"{hint}")));
        };
        (key.from_toml)(settings, value).map_err(|problem| error(format!("{name}: {problem}")))?;
    }
    Ok(())
}

/// Lists the values of a table with their dotted names. An empty section names no key, and is fine.
pub(super) fn flatten(prefix: &str, value: &Value, into: &mut Vec<(String, Value)>) {
    match value {
        Value::Table(table) => {
            for (name, value) in table {
                let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&name, value, into);
            }
        }
        value => into.push((prefix.to_owned(), value.clone())),
    }
}

fn set_text(settings: &mut Settings, key: &str, place: &str, text: &str) -> Result<(), ConfigError> {
    let error = |problem| ConfigError { place: place.to_owned(), problem };
    let key = KEYS.iter().find(|k| k.name == key).ok_or_else(|| error(format!("sets no key \"{key}\"")))?;
    (key.from_text)(settings, text).map_err(error)?;
    if key.name == "database.url" {
        place.clone_into(&mut settings.database.url_from);
    }
    Ok(())
}

fn read_variables(settings: &mut Settings, sources: &Sources) -> Result<(), ConfigError> {
    let variables: Vec<_> = KEYS.iter().map(|key| (key.variable(), key.name)).collect();
    let odd = sources.environment.0.iter().find_map(|(name, value)| {
        let name = name.to_str().filter(|name| name.starts_with("MILLHAND_"))?;
        value.to_str().is_none().then_some(name)
    });
    if let Some(name) = odd {
        return Err(ConfigError { place: name.to_owned(), problem: "its value is not UTF-8".to_owned() });
    }
    for (name, value) in sources.variables() {
        if let Some((_, key)) = variables.iter().find(|(variable, _)| variable == name) {
            set_text(settings, key, name, value)?;
        } else if name.starts_with("MILLHAND_") && name != "MILLHAND_CONFIG" {
            // Others may use the prefix for something of their own, so only what looks like a typo is refused.
            // What they all begin with would make all of them look alike.
            let bare = |name: &'_ str| name.trim_start_matches("MILLHAND_").to_owned();
            let known: Vec<_> = variables.iter().map(|(variable, _)| bare(variable)).collect();
            if let Some(meant) = nearest(&bare(name), known.iter().map(String::as_str)) {
                let meant = format!("MILLHAND_{meant}");
                let problem = format!("unknown variable; did you mean {meant}?");
                return Err(ConfigError { place: name.to_owned(), problem });
            }
        }
    }
    Ok(())
}

/// What the environment says of a database in other words than ours; ours win.
fn read_database(settings: &mut Settings, sources: &Sources) {
    if settings.database.url.is_none()
        && let Some(url) = sources.variable("DATABASE_URL")
    {
        settings.database.url = Some(SecretString::from(url));
        "DATABASE_URL".clone_into(&mut settings.database.url_from);
    }
    settings.database.variables = sources
        .variables()
        .filter(|(name, value)| name.starts_with("PG") && !value.is_empty())
        .map(|(name, value)| (name.to_owned(), SecretString::from(value)))
        .collect();
}

/// What no single key can tell.
fn check(settings: &Settings, file: &Path) -> Result<(), ConfigError> {
    let refuse = |problem: &str| {
        Err(ConfigError { place: format!("settings ({} and variables)", file.display()), problem: problem.to_owned() })
    };
    let (timings, retry, opencode) = (&settings.timings, &settings.retry, &settings.opencode);
    if timings.heartbeat.is_zero() || timings.heartbeat.saturating_mul(2) > timings.lease {
        return refuse(
            "timings.heartbeat must be at most half of timings.lease, so that one lost heartbeat costs no turn",
        );
    }
    if timings.poll_min.is_zero() || timings.poll_min > timings.poll_max {
        return refuse("timings.poll_min must be more than 0 and at most timings.poll_max");
    }
    if timings.rescue.is_zero() || timings.listen_check.is_zero() || timings.settle_poll.is_zero() {
        return refuse("timings.rescue, timings.listen_check and timings.settle_poll must be more than 0");
    }
    if timings.reap.is_zero() || timings.notify.is_zero() || timings.webhook_timeout.is_zero() {
        return refuse("timings.reap, timings.notify and timings.webhook_timeout must be more than 0");
    }
    if settings.api.rate < 1 {
        return refuse("api.rate must be at least 1");
    }
    if timings.login_code.is_zero() || timings.browser_login.is_zero() || timings.access_recheck.is_zero() {
        return refuse("timings.login_code, timings.browser_login and timings.access_recheck must be more than 0");
    }
    if timings.viewer_poll.is_zero() || timings.viewer_beat.is_zero() || timings.fleet_poll.is_zero() {
        return refuse("timings.viewer_poll, timings.viewer_beat and timings.fleet_poll must be more than 0");
    }
    if timings.webhook_backoff > timings.webhook_backoff_cap {
        return refuse("timings.webhook_backoff must be at most timings.webhook_backoff_cap");
    }
    let (root, private) = (real(settings.home.root()), real(&settings.home.private()));
    for path in settings.sandbox.write.iter().map(|path| real(path)) {
        if root.starts_with(&path) || path.starts_with(&root) {
            return refuse(&format!("sandbox.write: {} is around or in Millhand's own folder", path.display()));
        }
    }
    if let Some(path) = settings.sandbox.read.iter().map(|path| real(path)).find(|path| path.starts_with(&private)) {
        return refuse(&format!("sandbox.read: {} is in Millhand's private folder", path.display()));
    }
    if retry.backoff_base > retry.backoff_cap {
        return refuse("retry.backoff_base must be at most retry.backoff_cap");
    }
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&settings.log.level) {
        return refuse(&format!("log.level: {error}; use error, warn, info, debug or trace"));
    }
    if let Some(config) = &opencode.config {
        if config.trim_start().starts_with('{') {
            if let Err(error) = serde_json::from_str::<serde_json::Map<_, _>>(config) {
                return refuse(&format!("agent.opencode.config: not a JSON object: {error}"));
            }
        } else if !Path::new(config).is_absolute() {
            return refuse("agent.opencode.config: expected a JSON object, or the absolute path of a file with one");
        }
    }
    if let Some(model) = &opencode.default_model
        && !model.contains('/')
        && opencode.default_provider.is_none()
    {
        return refuse("agent.opencode.default_model: expected provider/model, or set agent.opencode.default_provider");
    }
    Ok(())
}

/// A path as it really is, if it is there.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
