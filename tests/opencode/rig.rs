//! A backend with everything around it: a home, repositories, a scripted model, an agent that sees nothing of this machine.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use millhand::{
    agent::{
        AgentProject, AgentSession, Backend, Prompt, SessionRequest, TurnReport,
        opencode::{OpencodeBackend, OpencodeSetup},
    },
    config::Timings,
    model::{ask::AskPolicy, event::AgentEvent, resume::message_id},
    scripted::{Prices, Script, ScriptedModel, model_name},
    supervise::{Supervisor, end_family, find_family},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{process::Command, sync::mpsc};
use tokio_util::sync::CancellationToken;

use crate::support::{desk::Nobody, millhand, opencode::find_opencode};

/// Longest that anything in these tests may take.
pub const LONG: Duration = Duration::from_secs(120);

static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// A backend and what it works on.
pub struct Rig {
    pub folder: TempDir,
    pub model: ScriptedModel,
    pub setup: OpencodeSetup,
    pub backend: OpencodeBackend,
    pub project: AgentProject,
}

/// What came of a turn.
#[derive(Debug)]
pub struct Ran {
    pub report: TurnReport,
    pub events: Vec<AgentEvent>,
}

impl Rig {
    /// A rig whose model says these scripts, given as name and JSON.
    pub async fn new(scripts: &[(&str, &str)]) -> Result<Self> {
        Self::with(scripts, json!({}), |_| {}).await
    }

    /// The same, with more configuration of the operator's, and a change to the set-up.
    pub async fn with(scripts: &[(&str, &str)], extra: Value, change: impl FnOnce(&mut OpencodeSetup)) -> Result<Self> {
        let scripts = scripts.iter().map(|(name, json)| Script::parse(name, json)).collect::<Result<Vec<_>, _>>()?;
        let model = ScriptedModel::start(scripts, "127.0.0.1:0".parse()?).await?;
        let folder = TempDir::new()?;
        let root = folder.path().canonicalize()?;
        std::fs::create_dir_all(root.join("home"))?;
        let mut config = model.provider_config(Prices::default());
        merge(&mut config, &json!({"enabled_providers": ["scripted"]}));
        merge(&mut config, &extra);
        let environment = [
            ("PATH", std::env::var_os("PATH").unwrap_or_default()),
            ("HOME", root.join("home").into()),
            ("LANG", "C.UTF-8".into()),
            ("GIT_CONFIG_NOSYSTEM", "1".into()),
        ];
        let mut setup = OpencodeSetup {
            binary: find_opencode()?.path,
            supervisor: Supervisor::new(millhand(), format!("test-{}", uuid::Uuid::new_v4().simple())),
            timings: Timings { settle_poll: Duration::from_secs(2), server_start: LONG, ..Timings::default() },
            environment: environment.into_iter().map(|(k, v)| (k.into(), v)).collect::<BTreeMap<OsString, OsString>>(),
            default_provider: Some("scripted".to_owned()),
            default_model: None,
            extra_config: Some(config),
            snapshot: false,
            lsp: false,
            formatter: false,
            max_servers: 4,
            max_directories: 50,
            recycle_bytes: 4_000_000_000,
            show_reasoning: true,
            confinement: None,
            counters: millhand::model::counters::Counters::default(),
            user: None,
            cache: root.join("private/opencode"),
            logs: Some(root.join("logs")),
        };
        std::fs::create_dir_all(root.join("logs"))?;
        change(&mut setup);
        let project = AgentProject {
            id: 1,
            name: "sample".to_owned(),
            folder: root.join("agents/1"),
            trusted: false,
            asks: AskPolicy::Reject,
            env_pass: Vec::new(),
        };
        let backend = OpencodeBackend::new(setup.clone());
        Ok(Self { folder, model, setup, backend, project })
    }

    /// A repository of its own, with these files committed.
    pub async fn worktree(&self, name: &str, files: &[(&str, &str)]) -> Result<PathBuf> {
        let directory = self.project.folder.join("worktrees").join(name);
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("README.md"), "# Sample\n\nTwo lines.\n")?;
        for (path, content) in files {
            let path = directory.join(path);
            std::fs::create_dir_all(path.parent().context("parent")?)?;
            std::fs::write(path, content)?;
        }
        for arguments in [&["init", "-q", "-b", "main"][..], &["add", "-A"], &["commit", "-q", "-m", "first"]] {
            let status = Command::new("git")
                .args(["-c", "user.name=Tester", "-c", "user.email=tester@example.invalid"])
                .args(arguments)
                .current_dir(&directory)
                .env("HOME", self.folder.path().join("home"))
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .status()
                .await?;
            ensure!(status.success(), "git {arguments:?}: {status}");
        }
        Ok(directory)
    }

    pub fn request(&self, directory: &Path, script: &str) -> SessionRequest {
        SessionRequest {
            project: self.project.clone(),
            directory: directory.to_owned(),
            title: "A test".to_owned(),
            mode: None,
            model: Some(model_name(script)),
            variant: None,
            resume: None,
        }
    }

    /// Opens a conversation that must come to be, and gives the events that came with it.
    pub async fn open(&self, request: SessionRequest) -> Result<(AgentSession, Vec<AgentEvent>)> {
        let (sender, mut events) = mpsc::channel(100);
        let session = tokio::time::timeout(LONG, self.backend.ensure_session(request, &sender)).await??;
        drop(sender);
        let mut heard = Vec::new();
        while let Some(event) = events.recv().await {
            heard.push(event);
        }
        Ok((session, heard))
    }

    pub async fn session(&self, directory: &Path, script: &str) -> Result<AgentSession> {
        Ok(self.open(self.request(directory, script)).await?.0)
    }

    /// Runs a turn to its end.
    pub async fn prompt(&self, session: &AgentSession, prompt: Prompt) -> Result<Ran> {
        self.prompt_until(session, prompt, CancellationToken::new(), |_| {}).await
    }

    /// Runs a turn to its end, looking at each event as it comes.
    pub async fn prompt_until(
        &self,
        session: &AgentSession,
        prompt: Prompt,
        stop: CancellationToken,
        mut look: impl FnMut(&AgentEvent),
    ) -> Result<Ran> {
        let (sender, mut receiver) = mpsc::channel(100);
        let mut events = Vec::new();
        let turn = async {
            let report = self.backend.prompt(session, prompt, &Nobody, &sender, stop).await;
            drop(sender);
            report
        };
        let listen = async {
            while let Some(event) = receiver.recv().await {
                look(&event);
                events.push(event);
            }
        };
        // The sender is moved into `turn`, so both end together.
        let (report, ()) = tokio::time::timeout(LONG, async { tokio::join!(turn, listen) }).await?;
        Ok(Ran { report, events })
    }

    /// One turn of a script in a new worktree.
    pub async fn run(&self, script: &str) -> Result<Ran> {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let directory = self.worktree(&format!("w{number}"), &[]).await?;
        let session = self.session(&directory, script).await?;
        self.prompt(&session, prompt("Do what the script says")).await
    }

    /// Ends the servers, and checks that nothing of them is left.
    pub async fn end(self) -> Result<()> {
        self.backend.shutdown(LONG).await;
        let scope = self.setup.supervisor.scope();
        let left = find_family(scope);
        if !left.is_empty() {
            end_family(scope, Duration::from_millis(200)).await;
        }
        ensure!(left.is_empty(), "processes are left: {left:?}");
        Ok(())
    }

    /// Puts a shell script in place of the binary: `$REAL` is opencode, `$HERE` the rig's folder.
    pub fn wrapped(setup: &mut OpencodeSetup, script: &str) {
        let here = setup.cache.parent().and_then(Path::parent).expect("the rig's folder").to_owned();
        let path = here.join("wrapper");
        let real = setup.binary.display();
        let text = format!("#!/bin/sh\nREAL='{real}'\nHERE='{}'\n{script}\n", here.display());
        std::fs::write(&path, text).expect("the wrapper");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
        setup.binary = path;
    }
}

/// A prompt with new ids.
pub fn prompt(text: &str) -> Prompt {
    let id = message_id(uuid::Uuid::new_v4().simple(), std::time::SystemTime::now());
    Prompt::new(text.to_owned(), id)
}

impl Ran {
    /// The whole texts, in order.
    pub fn texts(&self) -> Vec<&str> {
        let text = |event: &'_ AgentEvent| matches!(event, AgentEvent::Text { .. });
        let events = self.events.iter().filter(|event| text(event));
        events.map(|event| if let AgentEvent::Text { text, .. } = event { text.as_str() } else { "" }).collect()
    }

    /// Texts and their deltas, by part.
    pub fn deltas(&self) -> BTreeMap<&str, String> {
        let mut deltas: BTreeMap<&str, String> = BTreeMap::new();
        for event in &self.events {
            if let AgentEvent::TextDelta { part, delta } = event {
                deltas.entry(part).or_default().push_str(delta);
            }
        }
        deltas
    }

    /// The warnings.
    pub fn warnings(&self) -> Vec<&str> {
        let events = self.events.iter();
        events
            .filter_map(|event| match event {
                AgentEvent::Warning { message } => Some(message.as_str()),
                _ => None,
            })
            .collect()
    }

    /// What remains of it in the record: final parts in order, without what differs from run to run.
    pub fn record(&self) -> Vec<Value> {
        let mut last: Vec<(String, Value)> = Vec::new();
        for event in &self.events {
            let (part, entry) = match event {
                AgentEvent::Text { part, text } => (part, json!({"text": text})),
                AgentEvent::Reasoning { part, text } => (part, json!({"reasoning": text})),
                AgentEvent::Tool { part, call } => (
                    part,
                    json!({"tool": call.tool, "status": call.status, "input": call.input, "output": call.output, "exit": call.exit_code}),
                ),
                AgentEvent::StepFinish { part, reason, usage } => {
                    (part, json!({"finish": reason, "output": usage.output_tokens}))
                }
                _ => continue,
            };
            match last.iter_mut().find(|(id, _)| id == part) {
                Some((_, known)) => *known = entry,
                None => last.push((part.clone(), entry)),
            }
        }
        // Parts are told in the order in which they were heard of, which a lost stream changes; ids ascend.
        last.sort_by(|(a, _), (b, _)| a.cmp(b));
        last.into_iter().map(|(_, entry)| entry).collect()
    }
}

pub fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}
