//! The settings, parsed: what the rest of the program is given.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use secrecy::SecretString;

use super::{Home, Timings};
use crate::model::retry::RetryPolicy;

/// All settings of a process, read once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `MILLHAND_HOME`: where all data of this host lives.
    pub home: Home,
    /// The database.
    pub database: DatabaseSettings,
    /// How much a worker takes on.
    pub worker: WorkerSettings,
    /// All durations.
    pub timings: Timings,
    /// Bounds on trying again.
    pub retry: RetryPolicy,
    /// The agent opencode.
    pub opencode: OpencodeSettings,
    /// What agents may reach.
    pub sandbox: SandboxSettings,
    /// The private Postgres.
    pub postgres: PostgresSettings,
    /// Worktrees that no session uses.
    pub worktrees: WorktreeSettings,
    /// How long things are kept.
    pub retention: RetentionSettings,
    /// Commits that take what agents changed.
    pub apply: ApplySettings,
    /// The HTTP API and the dashboard.
    pub api: ApiSettings,
    /// Logging.
    pub log: LogSettings,
    /// The environment that the process was started in: where programs are looked for, and what agents are passed of it.
    pub environment: Environment,
}

/// The environment of the process, taken once. Its values may be secrets, so they are not shown.
#[derive(Clone, Default)]
pub struct Environment(pub BTreeMap<OsString, OsString>);

impl Environment {
    /// A variable, unless it is missing or empty.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// The same, if it is UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.to_str()
    }
}

impl<N: Into<OsString>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// Which database, and how to talk to it.
#[derive(Clone)]
pub struct DatabaseSettings {
    /// URL from a flag, `MILLHAND_DATABASE_URL`, the file or `DATABASE_URL`, in this order; none: see `variables`.
    pub url: Option<SecretString>,
    /// Where the URL came from, for error messages.
    pub url_from: String,
    /// The `PG*` variables of the environment. Without a URL, and with `PGHOST`, `PGHOSTADDR` or `PGSERVICE` among
    /// them, they name the database. Without any of them, the private Postgres is used.
    pub variables: BTreeMap<String, SecretString>,
    /// Listen for notifications; off for poolers such as PgBouncer, which then costs latency only.
    pub listen: bool,
}

impl DatabaseSettings {
    /// Whether the `PG*` variables say where a database is.
    pub fn variables_name_a_database(&self) -> bool {
        ["PGHOST", "PGHOSTADDR", "PGSERVICE"].iter().any(|name| self.variables.contains_key(*name))
    }

    /// Whether Millhand runs a Postgres of its own.
    pub fn is_private(&self) -> bool {
        self.url.is_none() && !self.variables_name_a_database()
    }
}

impl fmt::Debug for DatabaseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseSettings")
            .field("url_from", &self.url_from)
            .field("variables", &self.variables.keys())
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

/// How much a worker takes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSettings {
    /// Turns at once; none: [`WorkerSettings::turns_at_once`] works it out.
    pub concurrency: Option<usize>,
    /// Processes that a setup command or a check may have at once.
    pub command_processes: i32,
    /// Change sets that are checked at once.
    pub checks_at_once: i32,
}

/// More turns than this on one host are asked for by number only.
const MOST_BY_DEFAULT: usize = 64;

impl WorkerSettings {
    /// Processes that a setup command or a check may have at once.
    pub fn processes_of_a_command(&self) -> usize {
        usize::try_from(self.command_processes.max(1)).unwrap_or(1)
    }

    /// Turns at once: as set, else for this machine.
    pub fn turns_at_once(&self) -> usize {
        self.concurrency.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            turns_for(cores, super::machine::memory_bytes())
        })
    }
}

/// Turns at once for a machine: four per core, as a turn mostly waits for its model, and no more than fit into
/// memory at 800 MB each with 2 GB left for the rest.
pub fn turns_for(cores: usize, memory_bytes: Option<u64>) -> usize {
    cores.saturating_mul(4).min(fit_into(memory_bytes)).clamp(1, MOST_BY_DEFAULT)
}

/// Agent servers at once for a machine: as many as fit into memory.
pub fn servers_for(memory_bytes: Option<u64>) -> usize {
    fit_into(memory_bytes).clamp(1, MOST_BY_DEFAULT)
}

/// What fits into memory at 800 MB each with 2 GB left for the rest.
fn fit_into(memory_bytes: Option<u64>) -> usize {
    const LEFT_FOR_THE_REST: u64 = 2_000_000_000;
    const EACH: u64 = 800_000_000;
    memory_bytes.map_or(usize::MAX, |bytes| {
        usize::try_from(bytes.saturating_sub(LEFT_FOR_THE_REST) / EACH).unwrap_or(usize::MAX)
    })
}

/// How opencode is found and run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpencodeSettings {
    /// The binary; none: looked for.
    pub binary: Option<PathBuf>,
    /// The operator's opencode configuration, on top of the user's own: JSON, or the path of a file with it.
    pub config: Option<String>,
    /// Provider of model names without one.
    pub default_provider: Option<String>,
    /// Model of tasks that name none, in projects that name none; none: the user's opencode configuration.
    pub default_model: Option<String>,
    /// Let opencode take snapshots of its own.
    pub snapshot: bool,
    /// Let opencode run language servers.
    pub lsp: bool,
    /// Let opencode run formatters.
    pub formatter: bool,
    /// Servers at once; none: [`OpencodeSettings::servers_at_once`] works it out.
    pub max_servers: Option<usize>,
    /// Memory, in MB, above which a server is replaced.
    pub recycle_mb: i32,
    /// How often a turn that was cut off at its limit of steps is told to go on.
    pub step_resumes: i32,
    /// Let servers outlive a worker that dies, for the next one to take them over.
    pub adopt: bool,
}

impl OpencodeSettings {
    /// Servers at once: as set, else for this machine.
    pub fn servers_at_once(&self) -> usize {
        self.max_servers.unwrap_or_else(|| servers_for(super::machine::memory_bytes()))
    }

    /// Memory, in bytes, above which a server is replaced.
    pub fn recycle_bytes(&self) -> u64 {
        u64::from(self.recycle_mb.unsigned_abs()) * 1_000_000
    }
}

/// What agents may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxSettings {
    /// Whether they are confined at all.
    pub mode: SandboxMode,
    /// What they may read beside the system, toolchains and their own folders.
    pub read: Vec<PathBuf>,
    /// What they may write beside their own folders.
    pub write: Vec<PathBuf>,
    /// The user that they run as, if the worker is root; none: the worker's.
    pub user: Option<String>,
}

/// Whether agents are confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SandboxMode {
    /// They are; a kernel that cannot is an error.
    #[default]
    On,
    /// They are not.
    Off,
}

/// The private Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresSettings {
    /// Folder with `postgres` and `initdb`; none: looked for.
    pub binaries: Option<PathBuf>,
}

/// Worktrees that no session uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorktreeSettings {
    /// How many of a project's wait, reset, for a new session.
    pub pool: i32,
    /// Bytes that a project's worktrees may take on this host; none: as many as there are.
    pub quota: Option<i64>,
}

/// How long things are kept. What was paid is kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Days that transcripts are kept; 0: for ever.
    pub events_days: i32,
    /// Days that finished tasks of closed sessions are kept; 0: for ever.
    pub tasks_days: i32,
    /// Days that deliveries to webhooks are kept after their end; 0: for ever.
    pub deliveries_days: i32,
}

impl Default for RetentionSettings {
    fn default() -> Self {
        Self { events_days: 30, tasks_days: 0, deliveries_days: 30 }
    }
}

/// Commits that take what agents changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplySettings {
    /// `Name <address>`; none: the user's own.
    pub author: Option<String>,
    /// Template of the message.
    pub message: String,
    /// Template of the trailers, one a line.
    pub trailers: String,
    /// Sign them, as the user's git configuration says how.
    pub sign: bool,
}

impl Default for ApplySettings {
    fn default() -> Self {
        Self {
            author: None,
            message: "{title}".to_owned(),
            trailers: "Millhand-Session: {session}\nMillhand-Task: {task}".to_owned(),
            sign: false,
        }
    }
}

/// The HTTP API and the dashboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiSettings {
    /// Where it listens; none: nowhere.
    pub listen: Option<SocketAddr>,
    /// Names that it may be called by, beside its address and localhost.
    pub hosts: Vec<String>,
    /// Requests a second of one token or browser, over a while.
    pub rate: i32,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self { listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 7341))), hosts: Vec::new(), rate: 50 }
    }
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Filter, as tracing-subscriber reads it: `info`, `millhand=debug,info`.
    pub level: String,
    /// Form of a line.
    pub format: LogFormat,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Settings {
    /// The defaults of a home.
    pub fn new(home: Home) -> Self {
        Self {
            home,
            database: DatabaseSettings { url: None, url_from: String::new(), variables: BTreeMap::new(), listen: true },
            worker: WorkerSettings { concurrency: None, command_processes: 1000, checks_at_once: 1 },
            timings: Timings::default(),
            retry: RetryPolicy::default(),
            opencode: OpencodeSettings {
                binary: None,
                config: None,
                default_provider: None,
                default_model: None,
                snapshot: false,
                lsp: false,
                formatter: false,
                max_servers: None,
                recycle_mb: 1500,
                step_resumes: 1,
                adopt: true,
            },
            sandbox: SandboxSettings::default(),
            postgres: PostgresSettings { binaries: None },
            worktrees: WorktreeSettings { pool: 2, quota: None },
            retention: RetentionSettings::default(),
            apply: ApplySettings::default(),
            api: ApiSettings::default(),
            log: LogSettings { level: "info".to_owned(), format: LogFormat::Text },
            environment: Environment::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_fit_the_cores_and_the_memory() {
        let gigabytes = |n: u64| Some(n * 1_000_000_000);
        assert_eq!(turns_for(2, gigabytes(16)), 8);
        assert_eq!(turns_for(16, gigabytes(16)), 17);
        assert_eq!(turns_for(2, gigabytes(1)), 1, "never none");
        assert_eq!(turns_for(128, None), 64);
        assert_eq!((servers_for(gigabytes(16)), servers_for(gigabytes(1)), servers_for(None)), (17, 1, 64));
    }
}
