//! opencode: one warm `opencode serve` per project, HTTP and one event stream.
//!
//! - [`OpencodeBackend`] (here): which server a conversation runs on, and what is checked before anything is paid for.
//! - `pool`, `lifecycle`, `adopt`: which projects have a server, how servers come and go, and how one outlives its worker.
//! - `server`, `health`, `directories`, `conversations`, `config`, `catalogue`: a server process, whether it lives, the worktrees that it
//!   has loaded, the conversations that it need not be asked about, what it is started with, and the models that it knows.
//! - `client`, `stream`, `wire`: its HTTP, its event stream, their format. `instructions`: the repository's AGENTS.md; `guard`:
//!   its code, which must not run unless trusted.
//! - `turn`: one turn from prompt to report. It waits and reads; `settle` and `ending` decide, `transcript`, `tag` and `tree` keep
//!   account. These are pure.
//!
//! What must hold: one server per data folder, however often it is started; a turn that is cancelled never costs the
//! server, nor the turns beside it; what the stream may not have told whole is read by GET; no prompt is paid for twice because a
//! server or a worker died (the ids of message and part are the caller's, and posting them again resumes).

use std::{
    collections::{BTreeMap, HashSet},
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::{
    catalogue::Catalogue, client::ClientError, config::Plan, facts::Facts, folders::Folders, pool::Pool, server::Server,
};
use super::{
    AgentError, AgentProject, AgentSession, AskDesk, Backend, Probe, Prompt, Seat, SessionRequest, TurnReport,
};
use crate::{
    agent::confine::Confinement,
    config::Timings,
    model::{ask::AskPolicy, counters::Counters, event::AgentEvent, outcome::Ending, server::Running},
    supervise::{RunAs, Supervisor},
    tools::{OPENCODE_TESTED, Search, Version, find_opencode},
};

mod adopt;
mod catalogue;
mod client;
mod config;
mod conversations;
mod directories;
mod ending;
mod facts;
mod folders;
mod guard;
mod health;
mod instructions;
mod lifecycle;
mod pool;
mod repeats;
mod server;
mod settle;
mod stream;
mod tag;
mod transcript;
mod tree;
mod turn;
mod wire;
mod yardstick;

/// Longest title of a conversation, in characters.
const MAX_TITLE: usize = 200;

/// What the backend is made with.
#[derive(Clone, Debug)]
pub struct OpencodeSetup {
    /// The program.
    pub binary: PathBuf,
    /// Starts the servers.
    pub supervisor: Supervisor,
    /// Every wait and deadline.
    pub timings: Timings,
    /// The worker's environment as it was at the start. What the agent sees of it is an allow-list.
    pub environment: BTreeMap<OsString, OsString>,
    /// Provider of model names without one.
    pub default_provider: Option<String>,
    /// Model of conversations that ask for none; none: the user's opencode configuration.
    pub default_model: Option<String>,
    /// The operator's opencode configuration, over the user's own. When it limits `enabled_providers` to ones that
    /// it declares whole, the installed opencode is not asked for its model catalogue.
    pub extra_config: Option<Value>,
    /// Let opencode take snapshots of its own.
    pub snapshot: bool,
    /// Let opencode run language servers.
    pub lsp: bool,
    /// Let opencode run formatters.
    pub formatter: bool,
    /// Servers at once: one per project that has something to do.
    pub max_servers: usize,
    /// Worktrees that one server keeps loaded.
    pub max_directories: usize,
    /// Memory, in bytes, above which a server is replaced when it is idle.
    pub recycle_bytes: u64,
    /// Tell what the model reasons.
    pub show_reasoning: bool,
    /// What the servers and all that they start may reach; none: whatever our user may.
    pub confinement: Option<Confinement>,
    /// Counts what happens to servers.
    pub counters: Counters,
    /// Whom the servers run as; none: as we do.
    pub user: Option<ServerUser>,
    /// A private folder for what is worth keeping between starts: the cut model catalogue.
    pub cache: PathBuf,
    /// A private folder for the servers' logs.
    pub logs: Option<PathBuf>,
}

/// The user of the servers, where that is another than ours.
#[derive(Clone, Debug)]
pub struct ServerUser {
    /// Its ids.
    pub run_as: RunAs,
    /// A folder for what belongs to no project.
    pub folder: PathBuf,
}

/// The opencode backend.
#[derive(Debug)]
pub struct OpencodeBackend {
    setup: OpencodeSetup,
    pool: Arc<Pool>,
    version: tokio::sync::Mutex<Option<(Stamp, Version)>>,
    catalogue: tokio::sync::Mutex<Option<(PathBuf, Catalogue)>>,
    closed: CancellationToken,
}

/// By this a replaced binary is noticed.
type Stamp = Option<(u64, SystemTime)>;

impl OpencodeBackend {
    /// A backend without any server yet.
    pub fn new(setup: OpencodeSetup) -> Self {
        Self {
            pool: Arc::new(Pool::new(setup.max_servers, setup.timings.server_patience, setup.counters.clone())),
            setup,
            version: tokio::sync::Mutex::default(),
            catalogue: tokio::sync::Mutex::default(),
            closed: CancellationToken::new(),
        }
    }

    /// The same, with the binary's version, which then need not be asked for again until the binary changes.
    #[must_use]
    pub fn with_version(self, version: Version) -> Self {
        let stamp = stamp(&self.setup.binary);
        Self { version: tokio::sync::Mutex::new(Some((stamp, version))), ..self }
    }

    /// Process id of a project's server, if one runs.
    pub async fn server_pid(&self, project_id: i64) -> Option<u32> {
        self.settled_server(project_id).await.filter(|server| server.is_usable()).map(|server| server.pid())
    }

    /// How many events of a project's server were not known to this version of ours.
    pub async fn unknown_events(&self, project_id: i64) -> Option<u64> {
        self.settled_server(project_id).await.map(|server| server.hub.unknown_events())
    }

    /// How many worktrees a project's server has loaded.
    pub async fn loaded_directories(&self, project_id: i64) -> Option<usize> {
        self.settled_server(project_id).await.map(|server| server.directories.len())
    }

    /// A project's server, once none starts or ends.
    async fn settled_server(&self, project_id: i64) -> Option<Arc<Server>> {
        let slot = self.pool.slot(project_id);
        let _turnstile = slot.turnstile.lock().await;
        slot.server()
    }

    /// The version of the installed opencode, which must not be too old.
    async fn version(&self) -> Result<Version, AgentError> {
        let mut known = self.version.lock().await;
        let stamp = stamp(&self.setup.binary);
        if let Some((at, version)) = &*known
            && *at == stamp
        {
            return Ok(*version);
        }
        let search = Search { setting: Some(self.setup.binary.clone()), ..Search::default() };
        let found = tokio::task::spawn_blocking(move || find_opencode(&search)).await;
        let found = found.map_err(|error| trouble(error.to_string()))?;
        let version = found.map_err(|error| misconfigured(error.to_string()))?.version;
        if (version.major, version.minor) > (OPENCODE_TESTED.major, OPENCODE_TESTED.minor) {
            tracing::warn!(%version, tested = %OPENCODE_TESTED, "opencode is newer than what Millhand was tested with");
        }
        *known = Some((stamp, version));
        Ok(version)
    }

    /// The models of the providers in use.
    async fn catalogue(
        &self,
        version: Version,
        events: Option<&mpsc::Sender<AgentEvent>>,
    ) -> Result<Catalogue, AgentError> {
        if catalogue::is_self_contained(self.setup.extra_config.as_ref()) {
            return Ok(Catalogue::empty());
        }
        let path = catalogue::cache_path(&self.setup, &version.to_string());
        let mut known = self.catalogue.lock().await;
        if let Some((at, catalogue)) = &*known
            && *at == path
        {
            return Ok(catalogue.clone());
        }
        let catalogue = match catalogue::read_cached(&path) {
            Some(catalogue) => catalogue,
            None => {
                if let Some(events) = events {
                    let message = "asking opencode once which models there are".to_owned();
                    let _ = events.send(AgentEvent::Status { message }).await;
                }
                let cut = self.probe_catalogue(version).await?;
                folders::create_private(&self.setup.cache)
                    .and_then(|()| catalogue::write_cached(&path, &cut))
                    .map_err(|error| trouble(format!("cannot write {}: {error}", path.display())))?;
                cut
            }
        };
        *known = Some((path, catalogue.clone()));
        Ok(catalogue)
    }

    /// Asks a server with the whole catalogue for all that it knows.
    async fn probe_catalogue(&self, version: Version) -> Result<Catalogue, AgentError> {
        let (server, folders) = self.start_probe(version, Catalogue::whole()).await?;
        let directory = folders.root();
        let answers = tokio::try_join!(server.client.all_providers(directory), server.client.providers(directory));
        server.stop().await;
        let (all, connected) = answers.map_err(from_client)?;
        Ok(catalogue::cut(&all, &connected, &self.setup))
    }

    async fn start_probe(&self, version: Version, catalogue: Catalogue) -> Result<(Server, Folders), AgentError> {
        let nobody = AgentProject {
            id: 0,
            name: "probe".to_owned(),
            folder: self.setup.cache.clone(),
            trusted: false,
            asks: AskPolicy::Reject,
            env_pass: Vec::new(),
        };
        let plan = Plan::new(&self.setup, &nobody, catalogue).map_err(unreadable_config)?;
        let folders = Folders::of_probe(&self.setup);
        let server = Server::start(&self.setup, version, &plan, &folders, None).await?;
        Ok((server, folders))
    }

    fn seat(&self, project: &AgentProject) -> Result<Seat, AgentError> {
        self.pool
            .sit(project.id)
            .ok_or_else(|| trouble("every opencode server is busy with another project".to_owned()))
    }

    /// What the server offers in a directory. Without the repository's own configuration it is the same in all.
    async fn facts(&self, server: &Server, directory: &Path) -> Result<Arc<Facts>, AgentError> {
        let key = if server.trusted { directory.to_owned() } else { PathBuf::new() };
        let mut known = server.facts.lock().await;
        if let Some(facts) = known.get(&key) {
            return Ok(Arc::clone(facts));
        }
        let client = server.client.patient(self.setup.timings.server_start);
        let answers = tokio::try_join!(client.modes(directory), client.providers(directory), client.config(directory));
        let (modes, providers, config) = answers.map_err(from_client)?;
        let facts = Arc::new(Facts::new(modes, providers, config));
        known.insert(key, Arc::clone(&facts));
        Ok(facts)
    }
}

#[async_trait]
impl Backend for OpencodeBackend {
    fn reserve(&self, projects: &[i64], newcomers: usize) -> Vec<Seat> {
        self.pool.reserve(projects, newcomers)
    }

    async fn ensure_session(
        &self,
        request: SessionRequest,
        events: &mpsc::Sender<AgentEvent>,
    ) -> Result<AgentSession, AgentError> {
        let directory = request
            .directory
            .canonicalize()
            .map_err(|error| trouble(format!("no worktree at {}: {error}", request.directory.display())))?;
        refuse_untrusted_code(&request.project, &directory)?;
        let _seat = self.seat(&request.project)?;
        let server = self.server(&request.project, events).await?;
        server.directories.touch(&directory).await;
        if server.directories.len() > self.setup.max_directories {
            self.let_go_of_idle(&server).await;
        }
        // The first request for a directory loads it.
        let _gate = match server.directories.is_warm(&directory) {
            true => None,
            false => Some(server.cold.acquire().await.map_err(|error| trouble(error.to_string()))?),
        };
        let facts = self.facts(&server, &directory).await?;
        let mode = facts.mode(request.mode.as_deref())?;
        let resolved = facts.model(
            request.model.as_deref(),
            request.variant.as_deref(),
            self.setup.default_model.as_deref(),
            self.setup.default_provider.as_deref(),
        )?;
        let resumed = resume(&server, &directory, request.resume.as_ref(), events).await?;
        let is_resumed = resumed.is_some();
        let id = match resumed {
            Some(id) => id,
            None => {
                // A conversation without a title costs a model call.
                let title: String = request.title.chars().take(MAX_TITLE).collect();
                let title = if title.trim().is_empty() { "Millhand".to_owned() } else { title };
                let client = server.client.patient(self.setup.timings.server_start);
                let id = client.create_session(&directory, &title).await.map_err(from_client)?.id;
                server.conversations.remember(&id, &directory, HashSet::new());
                id
            }
        };
        Ok(AgentSession {
            id,
            resumed: is_resumed,
            config_hash: server.config_hash.clone(),
            step_limit: facts.step_limit(&mode),
            mode,
            model: resolved.model,
            variant: resolved.variant,
            project: request.project,
            directory,
        })
    }

    async fn prompt(
        &self,
        session: &AgentSession,
        prompt: Prompt,
        desk: &dyn AskDesk,
        events: &mpsc::Sender<AgentEvent>,
        stop: CancellationToken,
    ) -> TurnReport {
        if let Err(error) = refuse_untrusted_code(&session.project, &session.directory) {
            return not_sent(error.ending, error.message);
        }
        let _seat = match self.seat(&session.project) {
            Ok(seat) => seat,
            Err(error) => return not_sent(error.ending, error.message),
        };
        let slot = self.pool.slot(session.project.id);
        // Somebody else may be about to start the next one.
        let server = tokio::select! {
            biased;
            _turnstile = slot.turnstile.lock() => slot.server(),
            () = stop.cancelled() => return not_sent(Ending::Aborted, "stopped before the prompt was sent".to_owned()),
        };
        let Some(server) = server.filter(|server| server.is_usable()) else {
            return not_sent(Ending::ServerLost, "opencode's server ended before the prompt was sent".to_owned());
        };
        let setup = turn::TurnSetup { timings: &self.setup.timings, desk, show_reasoning: self.setup.show_reasoning };
        turn::run(&server, session, &prompt, events, &stop, setup).await
    }

    async fn close(&self, project: &AgentProject, directory: &Path) -> Result<(), AgentError> {
        let Some(server) = self.pool.slot(project.id).server().filter(|server| server.is_usable()) else {
            return Ok(());
        };
        let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
        let leaving = server.directories.leave(&directory);
        if leaving.is_none() && server.directories.is_loaded(&directory) {
            return Err(trouble(format!("a turn runs in {}", directory.display())));
        }
        server.forget(&directory).await;
        let disposed = server.client.dispose(&directory).await.map_err(from_client);
        if let Some(leaving) = leaving {
            server.directories.forget(leaving);
        }
        disposed
    }

    async fn tend(&self) {
        self.tend_servers().await;
    }

    async fn take_over(&self) {
        self.take_over_leftovers().await;
    }

    fn servers(&self) -> Vec<Running> {
        self.running_servers()
    }

    async fn probe(&self) -> Probe {
        let version = match self.version().await {
            Ok(version) => version,
            Err(error) => return Probe { problem: Some(error.message), ..Probe::default() },
        };
        let mut probe = Probe { version: Some(version.to_string()), ..Probe::default() };
        let models = async {
            let catalogue = self.catalogue(version, None).await?;
            let (server, folders) = self.start_probe(version, catalogue).await?;
            let providers = server.client.providers(folders.root()).await;
            server.stop().await;
            let facts = Facts::new(Vec::new(), providers.map_err(from_client)?, wire::Config::default());
            Ok::<_, AgentError>(facts.model_names())
        };
        match models.await {
            Ok(models) => probe.models = models,
            Err(error) => probe.problem = Some(error.message),
        }
        probe
    }

    async fn shutdown(&self, within: Duration) {
        self.closed.cancel();
        let stops = self.pool.slots().into_iter().map(|slot| async move {
            let _turnstile = slot.turnstile.lock().await;
            slot.end().await;
        });
        if tokio::time::timeout(within, futures::future::join_all(stops)).await.is_err() {
            tracing::warn!("not every opencode server ended in time; their shims end them when we are gone");
        }
    }
}

fn stamp(binary: &Path) -> Stamp {
    std::fs::metadata(binary).ok().and_then(|metadata| Some((metadata.len(), metadata.modified().ok()?)))
}

/// opencode runs a repository's plugins even with its configuration off, so these need trust.
fn refuse_untrusted_code(project: &AgentProject, directory: &Path) -> Result<(), AgentError> {
    let Some(code) = guard::code_in(directory).filter(|_| !project.trusted) else { return Ok(()) };
    Err(AgentError {
        ending: Ending::RepositoryRefused,
        message: format!(
            "opencode would run code of this repository ({code}), which is not trusted; read it and trust the project, or \
             remove it from the branch"
        ),
    })
}

fn not_sent(ending: Ending, error: String) -> TurnReport {
    TurnReport { ending, error, summary: String::new(), steps: Vec::new() }
}

/// The conversation to go on with, if it can.
async fn resume(
    server: &Server,
    directory: &Path,
    wanted: Option<&(String, String)>,
    events: &mpsc::Sender<AgentEvent>,
) -> Result<Option<String>, AgentError> {
    let Some((id, hash)) = wanted else { return Ok(None) };
    let why = if *hash == server.config_hash {
        if server.conversations.is_known(id, directory) {
            return Ok(Some(id.clone()));
        }
        match server.client.session(id).await {
            Ok(session) if Path::new(&session.directory) == directory => return Ok(Some(id.clone())),
            Ok(session) => format!("it belongs to another folder, {}", session.directory),
            Err(error) if error.is_not_found() => "opencode does not have it any more".to_owned(),
            Err(error) => return Err(from_client(error)),
        }
    } else {
        "opencode's version or configuration has changed".to_owned()
    };
    let message = format!("the conversation could not be resumed ({why}); the agent starts without its memory");
    let _ = events.send(AgentEvent::Warning { message }).await;
    Ok(None)
}

fn from_client(error: ClientError) -> AgentError {
    let ending = match &error {
        ClientError::Unreachable { .. } => Ending::ServerLost,
        ClientError::Refused { .. } | ClientError::NotUnderstood { .. } => Ending::AgentError,
    };
    AgentError { ending, message: error.to_string() }
}

fn misconfigured(message: String) -> AgentError {
    AgentError { ending: Ending::Misconfigured, message }
}

fn trouble(message: String) -> AgentError {
    AgentError { ending: Ending::WorkerTrouble, message }
}

fn unreadable_config(error: std::io::Error) -> AgentError {
    misconfigured(format!("opencode's configuration cannot be read: {error}"))
}
