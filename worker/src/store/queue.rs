//! The queue: claim, heartbeat, finish, rescue. Everything that ends or takes an attempt is fenced by its lease.

use std::time::Duration;

use tokio_postgres::{Row, types::Json};
use uuid::Uuid;

use super::{Result, Store, StoreError, budgets, connect::ANSWER_WITHIN, seconds};
use crate::model::{
    ask::AskPolicy,
    budget::Gate,
    counters::Count,
    outcome::ErrorClass,
    retry::{Counts, Verdict},
};

/// A task that this worker has just claimed.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// Key of the attempt.
    pub attempt_id: i64,
    /// The task.
    pub task_id: i64,
    /// Which attempt of the task it is.
    pub number: i32,
    /// Proof of holding the lease.
    pub token: Uuid,
    /// The session.
    pub session_id: i64,
    /// The chat.
    pub chat_id: i64,
    /// What to ask the agent.
    pub prompt: String,
    /// Agent as asked for, with its mode.
    pub agent: String,
    /// Model as asked for.
    pub model: Option<String>,
    /// Variant of the model.
    pub variant: Option<String>,
    /// What the verdict on the attempt depends on.
    pub counts: Counts,
    /// Id of the message, if an earlier attempt may have sent it.
    pub message_id: Option<String>,
    /// Commit that is merged into the worktree before the turn.
    pub merge_commit: Option<String>,
    /// Branch that it is of; none: the one that the session started from.
    pub merge_branch: Option<String>,
    /// Title of the session.
    pub title: String,
    /// Branch that the session starts or started from.
    pub base_branch: Option<String>,
    /// Commit that the session started from; none: this is its first turn.
    pub base_commit: Option<String>,
    /// Host that has the session's worktree.
    pub home_host: Option<String>,
    /// Key of the project.
    pub project_id: i64,
    /// Name of the project.
    pub project: String,
    /// Path or URL of the repository.
    pub source: String,
    /// Whether the repository's own agent configuration is loaded.
    pub trusted: bool,
    /// Who answers what its agents ask.
    pub asks: AskPolicy,
    /// A message that was sent before is not sent again, but a person asked.
    pub asks_before_resend: bool,
    /// Variables of the worker's environment that the agent may see.
    pub env_pass: Vec<String>,
    /// New worktrees of the project are set up: see [`Store::setup`].
    pub has_setup: bool,
}

fn claimed(row: &Row) -> Claimed {
    Claimed {
        attempt_id: row.get("attempt_id"),
        task_id: row.get("task_id"),
        number: row.get("number"),
        token: row.get("token"),
        session_id: row.get("session_id"),
        chat_id: row.get("chat_id"),
        prompt: row.get("prompt"),
        agent: row.get("agent"),
        model: row.get("model"),
        variant: row.get("variant"),
        counts: Counts {
            attempts: row.get("attempts"),
            max_attempts: row.get("max_attempts"),
            infra_losses: row.get("infra_losses"),
        },
        message_id: row.get("message_id"),
        merge_commit: row.get("merge_commit"),
        merge_branch: row.get("merge_branch"),
        title: row.get("title"),
        base_branch: row.get("base_branch"),
        base_commit: row.get("base_commit"),
        home_host: row.get("home_host"),
        project_id: row.get("project_id"),
        project: row.get("project"),
        source: row.get("source"),
        trusted: row.get("trusted"),
        asks: AskPolicy::parse(row.get("ask_policy")),
        asks_before_resend: row.get("asks_before_resend"),
        env_pass: row.get("env_pass"),
        has_setup: row.get("has_setup"),
    }
}

/// What the database says of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseState {
    /// The lease.
    pub token: Uuid,
    /// It was renewed. If not, somebody had it locked: not lost, try again.
    pub renewed: bool,
    /// A person asked to cancel its task.
    pub cancelled: bool,
}

/// How an attempt is recorded.
#[derive(Clone, Debug)]
pub struct Finish<'a> {
    /// The lease.
    pub token: Uuid,
    /// The value of `attempts.outcome`.
    pub outcome: &'a str,
    /// Whom it is charged to.
    pub error_class: Option<ErrorClass>,
    /// What went wrong and what to do.
    pub error_message: Option<&'a str>,
    /// What becomes of the task.
    pub verdict: Verdict,
    /// The agent's last words.
    pub summary: Option<&'a str>,
    /// The host.
    pub host_id: &'a str,
}

/// What a finishing write did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finished {
    /// Recorded; the task's state now.
    Recorded(String),
    /// The lease is not ours any more: nothing was written, and nothing may be.
    Fenced,
}

/// A task taken from a worker that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rescued {
    /// The task.
    pub task_id: i64,
    /// Its state now: pending, blocked or cancelled.
    pub state: String,
}

fn rescued(rows: &[Row]) -> Vec<Rescued> {
    rows.iter().map(|row| Rescued { task_id: row.get(0), state: row.get(1) }).collect()
}

impl Store {
    /// Makes the lowest waiting tasks of nudged sessions their heads, and tells which lanes have pending tasks.
    ///
    /// Returns the number promoted, the lanes, and what budgets let pass of them.
    ///
    /// Its commit does not wait for the disk: if a crash of the database undoes it, the nudges are there again.
    pub async fn advance_and_list_lanes(&self) -> Result<(i32, Vec<String>, Gate)> {
        self.answered(ANSWER_WITHIN, self.advance_and_list_lanes_once()).await
    }

    async fn advance_and_list_lanes_once(&self) -> Result<(i32, Vec<String>, Gate)> {
        let client = self.relaxed().await?;
        let advance = client.prepare_cached("SELECT millhand.advance()").await?;
        let lanes = client.prepare_cached(include_str!("sql/lanes.sql")).await?;
        let budgets = client.prepare_cached(budgets::GATE).await?;
        // Pipelined: the others see what the first committed.
        let asked = (client.query_one(&advance, &[]), client.query(&lanes, &[]), client.query(&budgets, &[]));
        let (promoted, rows, limits) = futures::future::try_join3(asked.0, asked.1, asked.2).await?;
        Ok((promoted.get(0), rows.iter().map(|row| row.get(0)).collect(), budgets::gate(&limits)))
    }

    /// Claims up to `at_most` tasks of these lanes, in one short transaction that is committed before this returns.
    ///
    /// The commit does not wait for the disk. Nothing is spent on a claim until [`Store::before_prompt`] has been committed, which does
    /// wait, and with it all that was committed before. If a crash of the database undoes a claim, its lease is gone, and that call says so.
    pub async fn claim(
        &self,
        lanes: &[String],
        at_most: usize,
        worker: Uuid,
        host_id: &str,
        lease: Duration,
    ) -> Result<Vec<Claimed>> {
        if lanes.is_empty() || at_most == 0 {
            return Ok(Vec::new());
        }
        // A bound that Postgres knows when it plans makes a plan that it can keep: planning anew costs more than the claim. One that it
        // does not know makes it read and sort the whole lane.
        let sql = include_str!("sql/claim.sql").replace("LIMIT $5", &format!("LIMIT {at_most}"));
        let claim = async {
            let client = self.relaxed().await?;
            let statement = client.prepare_cached(&sql).await?;
            Ok(client.query(&statement, &[&lanes, &worker, &seconds(lease), &host_id]).await?)
        };
        let rows = self.answered(ANSWER_WITHIN, claim).await?;
        self.counters().add(Count::Claimed, rows.len() as u64);
        Ok(rows.iter().map(claimed).collect())
    }

    /// How long until the next pending task is due; none if there is no later one.
    pub async fn next_due(&self) -> Result<Option<Duration>> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached(
                "SELECT extract(epoch FROM run_at - now())::float8 FROM millhand.tasks \
                 WHERE state = 'pending' AND run_at > now() ORDER BY run_at LIMIT 1",
            )
            .await?;
        let row = client.query_opt(&statement, &[]).await?;
        Ok(row.map(|row| Duration::try_from_secs_f64(row.get(0)).unwrap_or(Duration::ZERO)))
    }

    /// Wakes workers: something became claimable that the caller does not claim itself.
    pub async fn announce(&self) -> Result<()> {
        self.client().await?.batch_execute("NOTIFY tasks_new").await?;
        Ok(())
    }

    /// Renews leases, on a connection of its own. A token that is missing in the answer is lost.
    ///
    /// Without an answer in time it fails, and the next one has a new connection.
    pub async fn heartbeat(
        &self,
        worker: Uuid,
        tokens: &[Uuid],
        lease: Duration,
        within: Duration,
    ) -> Result<Vec<LeaseState>> {
        let counters = Json(self.counters().all());
        let beat = async {
            let client = self.heartbeat_client().await?;
            let statement = client.prepare_cached(include_str!("sql/heartbeat.sql")).await?;
            Ok(client.query(&statement, &[&tokens, &seconds(lease), &worker, &counters]).await?)
        };
        let rows = self.answered(within, beat).await?;
        Ok(rows
            .iter()
            .map(|row| LeaseState { token: row.get(0), renewed: row.get(1), cancelled: row.get(2) })
            .collect())
    }

    /// Ends an attempt. Where the reply is lost, tries again and reads what the first try did.
    pub async fn finish(&self, finish: &Finish<'_>) -> Result<Finished> {
        let finished = match self.answered(ANSWER_WITHIN, self.finish_once(finish)).await? {
            Some(state) => Finished::Recorded(state),
            // No lease: somebody took it, or an earlier try of ours had gone through.
            None => self.answered(ANSWER_WITHIN, self.recorded(finish)).await?,
        };
        let count = match &finished {
            Finished::Recorded(_) => Count::Finished(finish.outcome),
            Finished::Fenced => Count::Fenced,
        };
        self.counters().add(count, 1);
        Ok(finished)
    }

    async fn finish_once(&self, finish: &Finish<'_>) -> Result<Option<String>> {
        let (verdict, wait, charged, infra_loss, keep_message) = match finish.verdict {
            Verdict::Completed => ("completed", Duration::ZERO, true, false, false),
            Verdict::Again { wait, charged, infra_loss, keep_message } => {
                ("again", wait, charged, infra_loss, keep_message)
            }
            Verdict::Failed => ("failed", Duration::ZERO, true, false, false),
            Verdict::Blocked => ("blocked", Duration::ZERO, false, true, true),
            Verdict::Asks => ("blocked", Duration::ZERO, false, false, true),
        };
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/finish.sql")).await?;
        let row = client
            .query_opt(
                &statement,
                &[
                    &finish.token,
                    &finish.outcome,
                    &finish.error_class.map(ErrorClass::as_str),
                    &finish.error_message,
                    &verdict,
                    &seconds(wait),
                    &charged,
                    &infra_loss,
                    &keep_message,
                    &finish.summary,
                    &finish.host_id,
                ],
            )
            .await?;
        Ok(row.map(|row| row.get(0)))
    }

    async fn recorded(&self, finish: &Finish<'_>) -> Result<Finished> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached(
                "SELECT a.outcome, t.state FROM millhand.attempts a JOIN millhand.tasks t ON t.id = a.task_id \
                 WHERE a.token = $1",
            )
            .await?;
        let Some(row) = client.query_opt(&statement, &[&finish.token]).await? else {
            return Ok(Finished::Fenced);
        };
        Ok(match row.get::<_, Option<&str>>(0) {
            Some(outcome) if outcome == finish.outcome => Finished::Recorded(row.get(1)),
            _ => Finished::Fenced,
        })
    }

    /// Gives tasks whose lease has run out to whoever claims them next.
    pub async fn rescue_expired(&self, lease: Duration, max_losses: i32, at_most: i64) -> Result<Vec<Rescued>> {
        let client = self.client().await?;
        let sql = concat!(include_str!("sql/rescue_expired.sql"), include_str!("sql/rescue_tail.sql"));
        let statement = client.prepare_cached(sql).await?;
        let rows = client.query(&statement, &[&seconds(lease), &max_losses, &at_most]).await?;
        self.counters().add(Count::Rescued, rows.len() as u64);
        Ok(rescued(&rows))
    }

    /// Takes back what earlier workers of this host held. Only the holder of the host's lock may call it: the lock
    /// proves that they are dead.
    pub async fn rescue_host(&self, host_id: &str, max_losses: i32, worker: Uuid) -> Result<Vec<Rescued>> {
        let client = self.client().await?;
        let sql = concat!(include_str!("sql/rescue_host.sql"), include_str!("sql/rescue_tail.sql"));
        let statement = client.prepare_cached(sql).await?;
        let rows = client.query(&statement, &[&host_id, &max_losses, &worker]).await?;
        self.counters().add(Count::TakenBack, rows.len() as u64);
        Ok(rescued(&rows))
    }

    /// Gives back, uncharged, what this worker claimed without ever hearing of it. `held` are the leases that it knows; no claim of its
    /// own may be under way.
    pub async fn release_unheld(&self, worker: Uuid, held: &[Uuid], max_losses: i32) -> Result<Vec<Rescued>> {
        let client = self.client().await?;
        let sql = concat!(include_str!("sql/rescue_unheld.sql"), include_str!("sql/rescue_tail.sql"));
        let statement = client.prepare_cached(sql).await?;
        let rows = client.query(&statement, &[&worker, &max_losses, &held]).await?;
        self.counters().add(Count::GivenBack, rows.len() as u64);
        Ok(rescued(&rows))
    }

    /// Shortens leases that end later than any can, and tells the time by the database's clock, since 1970.
    pub async fn clamp_leases(&self, lease: Duration) -> Result<Duration> {
        let client = self.client().await?;
        let clamp = client.prepare_cached(include_str!("sql/clamp_leases.sql")).await?;
        let clamped = client.execute(&clamp, &[&seconds(lease)]).await?;
        if clamped > 0 {
            self.counters().add(Count::Clamped, clamped);
            tracing::warn!(leases = clamped, "leases ended too late; was the database's clock set back?");
        }
        let clock = client.prepare_cached("SELECT extract(epoch FROM clock_timestamp())::float8").await?;
        let now: f64 = client.query_one(&clock, &[]).await?.get(0);
        Ok(Duration::try_from_secs_f64(now).unwrap_or_default())
    }

    /// Takes back tasks that run without a lease, for so long at least.
    pub(super) async fn rescue_leaseless(&self, grace: Duration, max_losses: i32) -> Result<Vec<Rescued>> {
        let client = self.client().await?;
        let sql = concat!(include_str!("sql/rescue_leaseless.sql"), include_str!("sql/rescue_tail.sql"));
        let statement = client.prepare_cached(sql).await?;
        Ok(rescued(&client.query(&statement, &[&seconds(grace), &max_losses]).await?))
    }

    /// Backstop of the lines: nudges sessions that should move and that nobody nudged. Returns how many.
    pub async fn sweep_lines(&self) -> Result<i32> {
        let client = self.client().await?;
        let statement = client.prepare_cached("SELECT millhand.sweep_lines()").await?;
        Ok(client.query_one(&statement, &[]).await?.get(0))
    }

    /// Records that a worker has started.
    pub async fn register_worker(&self, worker: &WorkerRow<'_>) -> Result<()> {
        let capacity = i32::try_from(worker.capacity)
            .map_err(|_| StoreError::Unexpected("capacity is out of range".to_owned()))?;
        self.client()
            .await?
            .execute(
                "INSERT INTO millhand.workers (id, host_id, hostname, version, capacity) VALUES ($1, $2, $3, $4, $5)",
                &[&worker.id, &worker.host_id, &worker.hostname, &worker.version, &capacity],
            )
            .await?;
        Ok(())
    }

    /// Records that a worker takes no more tasks.
    pub async fn drain_worker(&self, worker: Uuid) -> Result<()> {
        self.client().await?.execute("UPDATE millhand.workers SET draining = true WHERE id = $1", &[&worker]).await?;
        Ok(())
    }

    /// Records that a worker has stopped in order.
    pub async fn stop_worker(&self, worker: Uuid) -> Result<()> {
        self.client()
            .await?
            .execute("UPDATE millhand.workers SET stopped_at = clock_timestamp() WHERE id = $1", &[&worker])
            .await?;
        Ok(())
    }
}

/// A worker, as it registers.
#[derive(Clone, Debug)]
pub struct WorkerRow<'a> {
    /// Random, new at each start.
    pub id: Uuid,
    /// The host.
    pub host_id: &'a str,
    /// For people.
    pub hostname: &'a str,
    /// Version of millhand.
    pub version: &'a str,
    /// Turns at once.
    pub capacity: usize,
}

/// What a host can run, as it is recorded.
#[derive(Clone, Debug)]
pub struct AgentRow<'a> {
    /// Whether it can run.
    pub installed: bool,
    /// Version found.
    pub version: Option<&'a str>,
    /// Why it cannot run.
    pub problem: Option<&'a str>,
    /// Models that it offers.
    pub models: &'a [String],
}

impl Store {
    /// Records what a host can run.
    pub async fn record_agent(&self, host_id: &str, agent: &str, backend: &str, row: &AgentRow<'_>) -> Result<()> {
        self.client()
            .await?
            .execute(
                "INSERT INTO millhand.agents (host_id, agent, backend, installed, version, problem, models) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7) \
                 ON CONFLICT (host_id, agent) DO UPDATE SET backend = excluded.backend, installed = excluded.installed, \
                 version = excluded.version, problem = excluded.problem, probed_at = now(), \
                 models = CASE WHEN excluded.problem IS NULL THEN excluded.models ELSE agents.models END",
                &[
                    &host_id,
                    &agent,
                    &backend,
                    &row.installed,
                    &row.version,
                    &row.problem,
                    &Json(row.models),
                ],
            )
            .await?;
        Ok(())
    }
}
