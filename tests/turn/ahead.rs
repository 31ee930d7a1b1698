//! What an agent changed is read ahead, while it is made sure that it is at rest, and counts only where it was. A backend of our own
//! says so, since the real one is not at rest too early at will.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use millhand::{
    agent::{
        AgentError, AgentProject, AgentSession, AskDesk, Backend, Probe, Prompt, Seat, SessionRequest, TurnReport,
        command::Commands,
    },
    git::Git,
    model::{event::AgentEvent, outcome::Ending, server::Running},
    supervise::Supervisor,
    turn::{Runner, Turns, lease::Leases},
    worktrees::Worktrees,
};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    queue::{HOST, claim_as, register},
    support::world::{TURN_WITHIN, World},
};

/// What the agent does when it seemed to be at rest.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// It was, whatever somebody else does to its files when they have been read.
    Rests,
    /// It goes on when they have been read, and comes to rest later.
    GoesOn,
    /// It goes on while they are being read, and comes to rest later.
    GoesOnAtOnce,
    /// It goes on when they have been read, and nobody knows since when it is at rest.
    IsNotHeardOf,
    /// It goes on, and has what it wrote first ignored.
    Ignores,
}

/// Writes `first`, seems to be at rest, and then.
struct Agent {
    /// The checkpoint of its files.
    checkpoint: PathBuf,
    then: Then,
}

impl Agent {
    /// Waits until its files have been read ahead.
    async fn was_read(&self) -> Result<()> {
        let until = Instant::now() + TURN_WITHIN;
        while !self.checkpoint.exists() {
            ensure!(Instant::now() < until, "nothing is read ahead");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Since when it is at rest.
    async fn work(&self, folder: &Path, rest: &Notify) -> Result<Option<Instant>> {
        std::fs::write(folder.join("first"), "x\n")?;
        let since = Instant::now();
        rest.notify_one();
        if !matches!(self.then, Then::GoesOnAtOnce) {
            self.was_read().await?;
        }
        let (name, content) =
            if matches!(self.then, Then::Ignores) { (".gitignore", "first\n") } else { ("second", "x\n") };
        std::fs::write(folder.join(name), content)?;
        if matches!(self.then, Then::Rests) {
            return Ok(Some(since));
        }
        rest.notify_one();
        Ok((!matches!(self.then, Then::IsNotHeardOf)).then(Instant::now))
    }
}

#[async_trait]
impl Backend for Agent {
    fn reserve(&self, projects: &[i64], _newcomers: usize) -> Vec<Seat> {
        projects.iter().map(|project| Seat::new(*project, ())).collect()
    }

    async fn ensure_session(
        &self,
        request: SessionRequest,
        _events: &mpsc::Sender<AgentEvent>,
    ) -> Result<AgentSession, AgentError> {
        Ok(AgentSession {
            id: "ses_1".to_owned(),
            resumed: false,
            config_hash: String::new(),
            mode: "build".to_owned(),
            step_limit: None,
            model: "scripted/none".to_owned(),
            variant: None,
            project: request.project,
            directory: request.directory,
        })
    }

    async fn prompt(
        &self,
        session: &AgentSession,
        _prompt: Prompt,
        _desk: &dyn AskDesk,
        _events: &mpsc::Sender<AgentEvent>,
        rest: &Notify,
        _stop: CancellationToken,
    ) -> TurnReport {
        let (ending, error, rests_since) = match self.work(&session.directory, rest).await {
            Ok(since) => (Ending::Completed, String::new(), since),
            Err(error) => (Ending::AgentError, error.to_string(), None),
        };
        TurnReport { ending, error, summary: String::new(), steps: Vec::new(), rests_since }
    }

    async fn close(&self, _project: &AgentProject, _directory: &std::path::Path) -> Result<(), AgentError> {
        Ok(())
    }

    async fn tend(&self) {}

    async fn take_over(&self) {}

    fn servers(&self) -> Vec<Running> {
        Vec::new()
    }

    async fn probe(&self) -> Probe {
        Probe::default()
    }

    async fn shutdown(&self, _within: Duration) {}
}

/// Runs one turn of that agent; the paths of the change set that is open then.
async fn run(then: Then) -> Result<Vec<String>> {
    let world = World::new(&[]).await?;
    let store = world.db.store()?;
    let home = world.settings.home.clone();
    millhand::config::prepare_home(&home)?;
    let git = Git::new(None, world.settings.environment.0.clone().into_iter().collect(), home.clone()).await?;
    let worktrees = Worktrees {
        store: store.clone(),
        git: git.clone(),
        home: home.clone(),
        host_id: HOST.to_owned(),
        settings: world.settings.worktrees,
        timings: world.settings.timings,
    };
    let turns = Turns {
        store: store.clone(),
        git,
        worktrees,
        commands: Commands {
            supervisor: Supervisor::new(crate::support::millhand(), "ahead"),
            confinement: None,
            environment: world.settings.environment.clone(),
            home: home.clone(),
            run_as: None,
            processes: 1,
            kill_grace: Duration::from_secs(1),
        },
        backend: Arc::new(Agent { checkpoint: home.mirror(1).join("refs/millhand/sessions/1/1"), then }),
        home,
        host_id: HOST.to_owned(),
        agents_user: None,
        default_model: None,
        timings: world.settings.timings,
        retry: world.settings.retry,
        step_resumes: 0,
    };
    let task = world.queue("go").await?;
    let worker = Uuid::new_v4();
    register(&store, worker, HOST).await;
    let sent = tokio::time::Instant::now();
    let claimed = claim_as(&store, worker, HOST, 1).await.pop().context("a claim")?;
    let lease = Leases::new(world.settings.timings.lease).hold(claimed.token, sent);
    turns.run(claimed, lease).await;
    assert_eq!(world.verdict(task).await?, ("completed".to_owned(), "completed".to_owned(), String::new()));
    let sets = world.sql("SELECT state FROM millhand.change_sets").await?;
    assert_eq!(sets.iter().map(|row| row.get(0)).collect::<Vec<&str>>(), ["open"], "one, and no draft is left");
    let paths = world.sql("SELECT path FROM millhand.pending_changes ORDER BY path").await?;
    Ok(paths.iter().map(|row| row.get(0)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_ahead_counts_where_the_agent_stayed_at_rest() -> Result<()> {
    assert_eq!(run(Then::Rests).await?, ["first"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_too_early_is_not_remembered_as_a_file_of_the_project() -> Result<()> {
    assert_eq!(run(Then::Ignores).await?, [".gitignore"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_did_after_it_seemed_to_rest_is_recorded_too() -> Result<()> {
    for then in [Then::GoesOn, Then::GoesOnAtOnce, Then::IsNotHeardOf] {
        assert_eq!(run(then).await?, ["first", "second"], "{then:?}");
    }
    Ok(())
}
