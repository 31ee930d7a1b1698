//! One turn, from claim to finish, readable from top to bottom in [`Turns::perform`].
//!
//! mirror → session → worktree → its setup → server → agent session → prompt → follow → settle → checkpoint and diff → finish.
//!
//! A turn holds no transaction and no lock: only its lease. Exactly one place ends an attempt: [`finish`].

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    agent::{AgentProject, AgentSession, Backend, Prompt, SessionRequest, TurnReport, command::Commands},
    config::{Home, Timings},
    git::{Base, Git, GitError, Mirror, Worktree},
    model::{event::AgentEvent, lane::split_agent, outcome::Ending, retry::RetryPolicy},
    store::{Store, StoreError, queue::Claimed, turns::Owner},
    supervise::{RunAs, hand_over},
    worktrees::{TakeError, Taking, Worktrees},
};

mod changes;
mod desk;
mod finish;
pub mod lease;
mod merge;
mod persist;
mod resume;
mod setup;
mod transcript;

use desk::Desk;
use lease::{Lease, StopReason};
use persist::persist;
use transcript::Transcript;

/// With less than this free, what cannot be written probably found no room.
const NO_SPACE_BYTES: u64 = 100_000_000;

/// Runs a claimed task. The claimer knows no more of a turn than this.
#[async_trait]
pub trait Runner: Send + Sync {
    /// Runs it to its end, which is recorded unless the lease was lost.
    async fn run(&self, claimed: Claimed, lease: Lease);
}

/// What turns need. One for all turns of a worker.
pub struct Turns {
    /// The database.
    pub store: Store,
    /// Mirrors and worktrees.
    pub git: Git,
    /// Gives each session its worktree.
    pub worktrees: Worktrees,
    /// Runs the projects' own setup of worktrees.
    pub commands: Commands,
    /// Who does the turns.
    pub backend: Arc<dyn Backend>,
    /// Folders.
    pub home: Home,
    /// This host.
    pub host_id: String,
    /// Whom agents run as, and whose the worktrees' files therefore are; none: as we do.
    pub agents_user: Option<RunAs>,
    /// Model of tasks that name none, before the agent's own default.
    pub default_model: Option<String>,
    /// Intervals and bounds.
    pub timings: Timings,
    /// Bounds on trying again.
    pub retry: RetryPolicy,
    /// How often a turn that the agent cut off at its limit of steps is told to go on.
    pub step_resumes: u32,
}

/// Why a turn came to no report.
enum Interrupted {
    /// An ending to be recorded, in words.
    Ended(Ending, String),
    /// The lease is lost: write nothing.
    Fenced,
}

impl From<StoreError> for Interrupted {
    fn from(error: StoreError) -> Self {
        Self::Ended(Ending::WorkerTrouble, error.to_string())
    }
}

impl From<GitError> for Interrupted {
    fn from(error: GitError) -> Self {
        let ending = if error.is_refusal() { Ending::RepositoryRefused } else { Ending::WorkerTrouble };
        Self::Ended(ending, error.to_string())
    }
}

impl From<TakeError> for Interrupted {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Fenced => Self::Fenced,
            TakeError::Store(error) => error.into(),
            TakeError::Git(error) => error.into(),
        }
    }
}

impl From<crate::agent::AgentError> for Interrupted {
    fn from(error: crate::agent::AgentError) -> Self {
        Self::Ended(error.ending, error.message)
    }
}

/// How an attempt went, ready to be recorded.
struct Performed {
    ending: Ending,
    error: String,
    summary: Option<String>,
    /// Answers of the model cost something.
    billed: bool,
}

#[async_trait]
impl Runner for Turns {
    async fn run(&self, claimed: Claimed, lease: Lease) {
        let transcript = Transcript::start(self.store.clone(), &claimed, lease.meter());
        let performed = match self.perform(&claimed, &lease, &transcript).await {
            Ok(performed) => performed,
            Err(Interrupted::Ended(ending, error)) => {
                let error = if ending == Ending::WorkerTrouble { self.with_space(error) } else { error };
                Performed { ending, error, summary: None, billed: false }
            }
            Err(Interrupted::Fenced) => {
                tracing::warn!("the lease is lost: this attempt is discarded");
                transcript.discard().await;
                return;
            }
        };
        // The turn is over: from here on the database alone decides whether its result counts.
        lease.settle();
        if !performed.error.is_empty() && performed.ending != Ending::Completed {
            transcript.say(AgentEvent::Warning { message: performed.error.clone() }).await;
        }
        transcript.close().await;
        finish::finish(self, &claimed, &lease, &performed).await;
    }
}

impl Turns {
    async fn perform(
        &self,
        claimed: &Claimed,
        lease: &Lease,
        transcript: &Transcript,
    ) -> Result<Performed, Interrupted> {
        let (mirror, worktree) = tokio::select! {
            () = lease.stopped().cancelled() => return interrupted(lease),
            worktree = self.worktree(claimed, lease, transcript) => worktree?,
        };
        let (mirror, worktree) = merge::merge_in(self, claimed, lease, mirror, worktree, transcript).await?;
        setup::set_up(self, claimed, lease, &mirror, &worktree, transcript).await?;
        let (agent, _) = split_agent(&claimed.agent);
        let session = tokio::select! {
            () = lease.stopped().cancelled() => return interrupted(lease),
            session = self.agent_session(claimed, agent, lease, &worktree, transcript) => session?,
        };
        let mut report = self.converse(claimed, agent, &session, lease, transcript).await?;
        if report.ending == Ending::Aborted
            && let Some(limit) = lease.limit()
        {
            (report.ending, report.error) = (Ending::OverBudget, limit);
        }
        let owner = owner(claimed, agent);
        if lease.reason() == Some(StopReason::LeaseLost) {
            // Nothing of the turn counts, but what it cost was paid all the same.
            if let Err(error) = self.store.record_usage(owner, &report.steps).await {
                tracing::warn!(%error, steps = report.steps.len(), "the usage of a lost turn could not be recorded");
            }
            return Err(Interrupted::Fenced);
        }
        // From here on nothing takes long, and nothing of it may be lost for want of a heartbeat.
        lease.settle();
        let usage = persist(lease, || self.store.record_usage(owner, &report.steps));
        let changes = changes::record(self, claimed, owner, lease, &mirror, &worktree);
        let (usage, changes) = tokio::join!(usage, changes);
        usage?;
        changes?;
        Ok(Performed {
            ending: report.ending,
            error: report.error,
            billed: report.steps.iter().any(|step| step.total_tokens() > 0),
            summary: (!report.summary.is_empty()).then_some(report.summary),
        })
    }

    /// Adds to an error of ours that the disk is full, where it is: those who write do not all say so.
    fn with_space(&self, error: String) -> String {
        let free = rustix::fs::statvfs(self.home.root()).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        match free {
            Ok(free) if free < NO_SPACE_BYTES => {
                let home = self.home.root().display();
                format!("{error}; the disk is full: {} MB are free for {home}", free / 1_000_000)
            }
            _ => error,
        }
    }

    /// mirror → session → worktree.
    async fn worktree(
        &self,
        claimed: &Claimed,
        lease: &Lease,
        transcript: &Transcript,
    ) -> Result<(Mirror, Worktree), Interrupted> {
        let (mirror, base) = self.base(claimed, transcript).await?;
        let taking = Taking { token: lease.token(), session_id: claimed.session_id };
        // All of it can be done again: what is made already is taken up.
        let take = || async {
            match self.worktrees.take(taking, &mirror, &base).await {
                Err(TakeError::Store(error)) => Err(error),
                taken => Ok(taken),
            }
        };
        let worktree = persist(lease, take).await??;
        self.hand_over(&worktree).await?;
        Ok((mirror, worktree))
    }

    /// What we wrote into the worktree, now or since its last turn, is the agent's from here on.
    async fn hand_over(&self, worktree: &Worktree) -> Result<(), Interrupted> {
        let (home, path, user) = (self.home.root().to_owned(), worktree.path.clone(), self.agents_user);
        let given = tokio::task::spawn_blocking(move || hand_over(&home, &path, user)).await;
        given.map_err(std::io::Error::other).flatten().map_err(|error| {
            let message = format!("cannot give {} to the agents' user: {error}", worktree.path.display());
            Interrupted::Ended(Ending::WorkerTrouble, message)
        })
    }

    /// The mirror, with the commit that the session starts or started from. A session that has one never looks at the source
    /// again: its repository may be away for a while.
    async fn base(&self, claimed: &Claimed, transcript: &Transcript) -> Result<(Mirror, Base), Interrupted> {
        if let Some(commit) = &claimed.base_commit
            && let Some(mirror) = self.git.mirror_with(claimed.project_id, commit).await?
        {
            return Ok((mirror, Base { branch: claimed.base_branch.clone(), commit: commit.clone() }));
        }
        transcript.say(AgentEvent::Status { message: "preparing the worktree".to_owned() }).await;
        let mirror = self.git.ensure_mirror(claimed.project_id, &claimed.source, None).await?;
        let base = match &claimed.base_commit {
            Some(commit) => Base { branch: claimed.base_branch.clone(), commit: commit.clone() },
            None => self.git.resolve_base(&mirror, claimed.base_branch.as_deref()).await?,
        };
        Ok((mirror, base))
    }

    /// server → agent session.
    async fn agent_session(
        &self,
        claimed: &Claimed,
        agent: &str,
        lease: &Lease,
        worktree: &Worktree,
        transcript: &Transcript,
    ) -> Result<AgentSession, Interrupted> {
        let resume = persist(lease, || self.store.agent_session(claimed.chat_id, agent, &self.host_id)).await?;
        let request = SessionRequest {
            project: AgentProject {
                id: claimed.project_id,
                name: claimed.project.clone(),
                folder: self.home.agent_folder(claimed.project_id),
                trusted: claimed.trusted,
                asks: claimed.asks,
                env_pass: claimed.env_pass.clone(),
            },
            directory: worktree.path.clone(),
            title: claimed.title.clone(),
            mode: split_agent(&claimed.agent).1.map(str::to_owned),
            model: claimed.model.clone().or_else(|| self.default_model.clone()),
            variant: claimed.variant.clone(),
            resume: resume.map(|row| (row.external_id, row.config_hash)),
        };
        Ok(self.backend.ensure_session(request, transcript.events()).await?)
    }

    /// prompt → follow → settle.
    async fn follow(
        &self,
        session: &AgentSession,
        prompt: Prompt,
        desk: &Desk<'_>,
        lease: &Lease,
        transcript: &Transcript,
        until: Instant,
    ) -> TurnReport {
        let stop = lease.stopped().child_token();
        let turn = self.backend.prompt(session, prompt, desk, transcript.events(), stop.clone());
        tokio::pin!(turn);
        tokio::select! {
            report = &mut turn => report,
            () = tokio::time::sleep_until(until) => {
                stop.cancel();
                let report = turn.await;
                if report.ending == Ending::Aborted {
                    let minutes = self.timings.turn_limit.as_secs() / 60;
                    TurnReport {
                        ending: Ending::TimedOut,
                        error: format!("the turn took longer than {minutes} minutes (turn_limit) and was stopped"),
                        ..report
                    }
                } else {
                    report
                }
            }
        }
    }
}

fn owner<'a>(claimed: &'a Claimed, agent: &'a str) -> Owner<'a> {
    Owner {
        attempt_id: claimed.attempt_id,
        task_id: claimed.task_id,
        session_id: claimed.session_id,
        project: &claimed.project,
        agent,
    }
}

/// Stopped before the agent had anything to do.
fn interrupted<T>(lease: &Lease) -> Result<T, Interrupted> {
    match lease.reason() {
        Some(StopReason::Cancelled) => Err(Interrupted::Ended(Ending::Aborted, "cancelled".to_owned())),
        Some(StopReason::Shutdown) => {
            Err(Interrupted::Ended(Ending::Aborted, "the worker stopped; the task was handed back".to_owned()))
        }
        Some(StopReason::OverBudget) => {
            Err(Interrupted::Ended(Ending::OverBudget, lease.limit().unwrap_or_else(|| "over budget".to_owned())))
        }
        Some(StopReason::LeaseLost) | None => Err(Interrupted::Fenced),
    }
}
