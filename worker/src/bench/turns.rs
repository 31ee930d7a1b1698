//! Whole turns of a real worker, beside bare ones on the same opencode server, and beside `opencode run` started cold.
//!
//! **The work** is the same everywhere: the model calls `write` once, with a small file, and then says a text; two model calls, each
//! answered at once. Warm turns, bare turns (see [`OpencodeBackend::bare_turn`](crate::agent::opencode::OpencodeBackend::bare_turn))
//! and cold runs take turns, so that whatever else the machine does strikes all of them.
//!
//! **Committed** means: another connection was told so by the database, which a trigger in the scratch database sees to. So figures up to it
//! hold the trigger and a notification, too.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Bench, Figure, Samples, cold, place::Place};
use crate::{
    agent::{AgentProject, AgentSession, Backend, Prompt, SessionRequest},
    config::Settings,
    git::Git,
    model::{ask::AskPolicy, resume::message_id},
    scripted::{Prices, RecordedRequest, Script, ScriptedModel, model_name},
    service::Host,
    store::{Ends, Store},
    tools::{Search, find_opencode},
};

const GROUP: &str = "turns";
pub(super) const PROJECT: &str = "bench";
/// The script's name, and so the model's.
pub(super) const SCRIPT: &str = "one-write";
/// Where the work is written to.
pub(super) const FILE: &str = "notes.txt";
/// Longest that one turn may take, however busy the machine is.
pub(super) const TURN_WITHIN: Duration = Duration::from_secs(120);
/// How long opencode may take to be looked at when a worker starts.
const PROBE_WITHIN: Duration = Duration::from_secs(120);
/// Between looks at what the model was asked.
const LOOK: Duration = Duration::from_millis(1);
/// Files of the repository.
const FILES: usize = 20;
/// Turns of each kind that warm everything and are not counted.
const WARM_UP: usize = 5;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Rounds of warm and bare turns, each with one cold run of each kind behind it.
    pub rounds: usize,
    /// Warm and bare turns of a round.
    pub turns: usize,
    /// First turns in new worktrees, and turns at once.
    pub worktrees: usize,
}

impl Size {
    /// What the README's figures are made with.
    pub const FULL: Self = Self { rounds: 6, turns: 20, worktrees: 20 };
    /// A quick look.
    pub const QUICK: Self = Self { rounds: 6, turns: 10, worktrees: 20 };
}

/// The scripted model with the work.
pub(super) async fn start_model() -> Result<ScriptedModel> {
    let steps = json!([
        {"type": "tool_call", "id": "call_write", "name": "write", "arguments": {"filePath": FILE, "content": "{{prompt}}\n"}},
        {"type": "text", "content": "Written."},
        {"type": "done"},
    ]);
    let stalling = json!([{"type": "text", "content": "I think."}, {"type": "stall"}]);
    let scripts = [Script::parse(SCRIPT, &steps.to_string())?, Script::parse("stalling", &stalling.to_string())?];
    Ok(ScriptedModel::start(scripts, ([127, 0, 0, 1], 0).into()).await?)
}

/// The user's opencode.
pub(super) async fn opencode(settings: &Settings) -> Result<PathBuf> {
    let search = Search {
        setting: settings.opencode.binary.clone(),
        path: settings.environment.get("PATH").map(ToOwned::to_owned),
        tools: settings.home.tools(),
        memory: None,
    };
    Ok(tokio::task::spawn_blocking(move || find_opencode(&search)).await??.path)
}

/// The operator's configuration: the scripted model, and no other.
pub(super) fn operator_config(model: &ScriptedModel) -> Value {
    let mut config = model.provider_config(Prices::default());
    config["enabled_providers"] = json!(["scripted"]);
    config
}

/// Measures with a worker in this process, on this database and in a folder below the home.
pub async fn run(bench: &Bench<'_>, store: &Store, size: Size, report: &mut dyn FnMut(Figure)) -> Result<()> {
    let binary = opencode(bench.settings).await?;
    let place = Place::new(bench.settings)?;
    let model = start_model().await?;
    let done = within(bench, store, &place, &model, &binary, size, report).await;
    model.shutdown().await;
    place.remove().await?;
    done
}

async fn within(
    bench: &Bench<'_>,
    store: &Store,
    place: &Place,
    model: &ScriptedModel,
    binary: &Path,
    size: Size,
    report: &mut dyn FnMut(Figure),
) -> Result<()> {
    let mut settings = Settings::new(place.home());
    settings.environment = place.environment();
    settings.opencode.binary = Some(binary.to_owned());
    settings.opencode.config = Some(operator_config(model).to_string());
    settings.opencode.adopt = false;
    settings.api.listen = None;
    settings.worker.concurrency = Some(size.worktrees.max(4));
    settings.database.listen = bench.settings.database.listen;
    let git = Git::new(None, settings.environment.0.clone().into_iter().collect(), place.home()).await?;
    let source = place.repository(git.binary(), "source", FILES).await?;
    let project = store.load_repository(PROJECT, &source.to_string_lossy()).await?;
    let cold = cold::Cold::new(place, git.binary(), binary, model, &source).await?;
    let host = Host::start(&settings, store.clone(), bench.millhand.clone()).await?;
    let measured = async {
        let rig = Rig { store, ends: store.watch_ends().await?, place, model, host: &host, project };
        rig.measure(&cold, size, report).await
    };
    let measured = bench.unless_stopped(measured).await;
    let hurry = CancellationToken::new();
    hurry.cancel();
    host.stop(hurry).await;
    measured
}

/// What is measured with.
struct Rig<'a> {
    store: &'a Store,
    ends: Ends,
    place: &'a Place,
    model: &'a ScriptedModel,
    host: &'a Host,
    project: i64,
}

/// A turn with its moments. For a bare one: from before the POST, to idle.
struct Turn {
    /// The session that it ran in; 0 for a bare one, which has none.
    session: i64,
    total: Duration,
    to_first_request: Duration,
    from_last_byte: Duration,
}

#[derive(Default)]
struct Measured {
    total: Samples,
    to_first_request: Samples,
    from_last_byte: Samples,
    bare: Samples,
    bare_to_first_request: Samples,
    bare_from_last_byte: Samples,
    cold: cold::Runs,
}

impl Rig<'_> {
    async fn measure(&self, cold: &cold::Cold<'_>, size: Size, report: &mut dyn FnMut(Figure)) -> Result<()> {
        self.wait_for_probe().await?;
        let measured = self.beside_one_another(cold, size).await?;
        tell(&measured, report);
        let sessions = self.first_turns(size, report).await?;
        self.at_once(&sessions, report).await
    }

    /// When a worker starts it looks at what opencode offers, which must not be measured with the rest.
    async fn wait_for_probe(&self) -> Result<()> {
        let known = async {
            while !self.store.knows_agents().await? {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PROBE_WITHIN, known).await.context("the worker did not say what agents it has")?
    }

    /// Warm turns, bare turns and cold runs, in turn.
    async fn beside_one_another(&self, cold: &cold::Cold<'_>, size: Size) -> Result<Measured> {
        let mut measured = Measured::default();
        let session = self.turn(None).await?.session;
        let bare = self.bare_session().await?;
        for _ in 0..WARM_UP {
            self.turn(Some(session)).await?;
            self.bare_turn(&bare).await?;
        }
        cold.warm_up().await?;
        let server = self.host.backend().server_pid(self.project).await;
        for _ in 0..size.rounds {
            for _ in 0..size.turns {
                let turn = self.turn(Some(session)).await?;
                measured.total.push(turn.total);
                measured.to_first_request.push(turn.to_first_request);
                measured.from_last_byte.push(turn.from_last_byte);
                let turn = self.bare_turn(&bare).await?;
                measured.bare.push(turn.total);
                measured.bare_to_first_request.push(turn.to_first_request);
                measured.bare_from_last_byte.push(turn.from_last_byte);
            }
            cold.run(&mut measured.cold).await?;
        }
        let same = server.is_some() && self.host.backend().server_pid(self.project).await == server;
        ensure!(same, "opencode's server was replaced while warm turns were measured: they were not all warm");
        Ok(measured)
    }

    /// One turn of Millhand's, in a session or a new one.
    async fn turn(&self, session: Option<i64>) -> Result<Turn> {
        let prompt = unique_prompt();
        let model = model_name(SCRIPT);
        let began = Instant::now();
        let task = self.store.load_task(PROJECT, session, &prompt, &model).await?;
        let [first, last] = self.both_answers(&prompt).await?;
        let seen = self.ends.when_completed(&[task.task], TURN_WITHIN).await?;
        let committed = *seen.first().context("a task")?;
        self.check(&self.place.home().worktree(self.project, task.session), &prompt)?;
        let last_byte = last.last_byte.context("the answer's last byte")?.instant;
        Ok(Turn {
            session: task.session,
            total: committed.duration_since(began),
            to_first_request: first.arrived.instant.duration_since(began),
            from_last_byte: committed.duration_since(last_byte),
        })
    }

    /// Waits until the model has answered both calls of a turn, without touching the database.
    async fn both_answers(&self, prompt: &str) -> Result<[RecordedRequest; 2]> {
        let deadline = Instant::now() + TURN_WITHIN;
        loop {
            let mut requests = self.model.last_requests(8);
            requests.retain(|request| request.tools_offered && request.prompt.contains(prompt));
            let find = |message: usize| requests.iter().find(|r| r.message == message && r.complete).cloned();
            if let (Some(first), Some(last)) = (find(0), find(1)) {
                return Ok([first, last]);
            }
            ensure!(Instant::now() < deadline, "a turn did not ask the model twice within {TURN_WITHIN:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A conversation for bare turns, on the same server, in a worktree like the others.
    async fn bare_session(&self) -> Result<AgentSession> {
        let session = self.turn(None).await?.session;
        let directory = self.place.home().worktree(self.project, session);
        // Agents may not write over what another conversation wrote, without having read it.
        fs::remove_file(directory.join(FILE))?;
        let request = SessionRequest {
            project: AgentProject {
                id: self.project,
                name: PROJECT.to_owned(),
                folder: self.place.home().agent_folder(self.project),
                trusted: false,
                asks: AskPolicy::Reject,
                env_pass: Vec::new(),
            },
            directory,
            title: "bare".to_owned(),
            mode: None,
            model: Some(model_name(SCRIPT)),
            variant: None,
            resume: None,
        };
        // What it tells is not needed: nobody reads it, and that holds nobody up.
        let (events, mut told) = tokio::sync::mpsc::channel(64);
        told.close();
        let before = self.host.backend().server_pid(self.project).await;
        let session = self.host.backend().ensure_session(request, &events).await?;
        let after = self.host.backend().server_pid(self.project).await;
        ensure!(before.is_some() && before == after, "bare turns would run on another server than Millhand's");
        Ok(session)
    }

    async fn bare_turn(&self, session: &AgentSession) -> Result<Turn> {
        let id = message_id(Uuid::new_v4().simple(), SystemTime::now());
        let text = unique_prompt();
        let prompt = Prompt::new(text.clone(), id);
        let began = Instant::now();
        let total = self.host.backend().bare_turn(session, &prompt, TURN_WITHIN).await?;
        let [first, last] = self.both_answers(&text).await?;
        self.check(&session.directory, &text)?;
        let last_byte = last.last_byte.context("the answer's last byte")?.instant;
        Ok(Turn {
            session: 0,
            total,
            to_first_request: first.arrived.instant.duration_since(began),
            from_last_byte: (began + total).saturating_duration_since(last_byte),
        })
    }

    /// Whether the work was done.
    fn check(&self, worktree: &Path, prompt: &str) -> Result<()> {
        check_work(&worktree.join(FILE), prompt)
    }

    /// First turns in new worktrees while the server is up, one after another.
    async fn first_turns(&self, size: Size, report: &mut dyn FnMut(Figure)) -> Result<Vec<i64>> {
        let mut samples = Samples::default();
        let mut sessions = Vec::new();
        for _ in 0..size.worktrees {
            let turn = self.turn(None).await?;
            samples.push(turn.total);
            sessions.push(turn.session);
        }
        report(samples.figure(GROUP, "first turn in a new worktree, server up").aim("≤ 800 ms"));
        Ok(sessions)
    }

    /// A turn in each of these sessions, all queued at once.
    async fn at_once(&self, sessions: &[i64], report: &mut dyn FnMut(Figure)) -> Result<()> {
        let prompt = unique_prompt();
        let model = model_name(SCRIPT);
        let began = Instant::now();
        let queued = sessions.iter().map(|session| self.store.load_task(PROJECT, Some(*session), &prompt, &model));
        let tasks: Vec<i64> =
            futures::future::try_join_all(queued).await?.into_iter().map(|queued| queued.task).collect();
        let seen = self.ends.when_completed(&tasks, TURN_WITHIN).await?;
        let mut samples = Samples::default();
        for committed in seen {
            samples.push(committed.duration_since(began));
        }
        let all = samples.percentile(1.0).unwrap_or_default().as_secs_f64() * 1e3;
        let count = sessions.len();
        report(samples.figure(GROUP, format!("{count} warm turns at once in {count} worktrees, each")));
        report(Figure::value(GROUP, format!("{count} warm turns at once, until the last is over"), all, "ms"));
        Ok(())
    }
}

fn tell(measured: &Measured, report: &mut dyn FnMut(Figure)) {
    let Measured { total, to_first_request, from_last_byte, bare, cold, .. } = measured;
    report(to_first_request.figure(GROUP, "INSERT → the model's first request, warm"));
    report(from_last_byte.figure(GROUP, "the model's last byte → committed"));
    report(total.figure(GROUP, "warm turn, INSERT → committed"));
    report(bare.figure(GROUP, "the same turn bare: prompt posted → idle"));
    report(Figure::difference(GROUP, "own share of a warm turn: warm − bare", total, bare).aim("p50 < 25 ms"));
    let before = &measured.bare_to_first_request;
    report(Figure::difference(GROUP, "own share before the model's first request", to_first_request, before));
    let after = &measured.bare_from_last_byte;
    report(Figure::difference(GROUP, "own share after the model's last byte", from_last_byte, after));
    report(cold.default.figure(GROUP, "opencode run, cold, default configuration"));
    report(cold.lean.figure(GROUP, "opencode run, cold, lean configuration"));
    report(Figure::ratio(GROUP, "cold default / warm turn", &cold.default, total).aim("≥ 9, then 20"));
    report(Figure::ratio(GROUP, "cold lean / warm turn", &cold.lean, total));
}

/// A prompt that no other turn has, so that requests and files can be told apart.
pub(super) fn unique_prompt() -> String {
    format!("Write the note {}.", Uuid::new_v4().simple())
}

/// Whether the work was done.
pub(super) fn check_work(file: &Path, prompt: &str) -> Result<()> {
    let found = fs::read_to_string(file).with_context(|| format!("a turn did not write {}", file.display()))?;
    ensure!(found.trim_end() == prompt, "a turn wrote {found:?} to {} instead of {prompt:?}", file.display());
    Ok(())
}
