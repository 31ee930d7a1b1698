//! Work for the hosts: sessions of a few prompts each, inserted until they are acknowledged.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio_postgres::{Client, Config};

use super::Plan;
use crate::support::db::connect;

/// Prompts of a session.
pub(super) const LINE: usize = 5;
/// Between two inserts.
const PAUSE: Duration = Duration::from_millis(150);
/// Longest that faults wait for progress.
const ROOM: Duration = Duration::from_secs(15);
/// Between two tries.
const TRY_EVERY: Duration = Duration::from_millis(100);

/// Inserts the work.
#[derive(Clone)]
pub(super) struct Loader {
    plan: Plan,
    database: Config,
    acknowledged: PathBuf,
}

impl Loader {
    /// Registers the project.
    pub(super) async fn new(plan: Plan, database: Config, repository: &Path, acknowledged: &Path) -> Result<Self> {
        let client = connect(&database).await?;
        client.execute("SELECT millhand.add_project('acme', $1)", &[&repository.to_string_lossy()]).await?;
        client.batch_execute("UPDATE millhand.projects SET max_attempts = 100").await?;
        Ok(Self { plan, database, acknowledged: acknowledged.to_owned() })
    }

    /// Inserts all of it, however often the database goes away. What was acknowledged is in the file, a prompt a line.
    pub(super) async fn load(self) -> Result<()> {
        let mut file = File::create(&self.acknowledged)?;
        let mut session = None;
        for turn in 0..self.plan.turns {
            if turn % LINE == 0 {
                session = None;
            }
            let (task, its_session) = self.insert(&format!("turn-{turn}"), session).await;
            session = Some(its_session);
            writeln!(file, "{task} {its_session} turn-{turn}")?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// One prompt more in a session of each host, when nothing happens to anybody any more: nobody is restarted now, and so would look
    /// for work for that. Answers with how many there are.
    pub(super) async fn one_more_each(&self) -> Result<usize> {
        let mut file = File::options().append(true).open(&self.acknowledged)?;
        let client = connect(&self.database).await?;
        let sessions =
            "SELECT min(id) FROM millhand.sessions WHERE home_host IS NOT NULL GROUP BY home_host ORDER BY 1";
        let mut count = 0;
        for row in client.query(sessions, &[]).await? {
            let session: i64 = row.get(0);
            let prompt = format!("turn-{}", self.plan.turns + count);
            let (task, _) = self.insert(&prompt, Some(session)).await;
            writeln!(file, "{task} {session} {prompt}")?;
            count += 1;
        }
        Ok(count)
    }

    async fn insert(&self, prompt: &str, session: Option<i64>) -> (i64, i64) {
        loop {
            match self.try_insert(prompt, session).await {
                Ok(inserted) => return inserted,
                Err(_) => tokio::time::sleep(TRY_EVERY).await,
            }
        }
    }

    /// As a careful client does it: with a key, and looking first whether an earlier try went through.
    async fn try_insert(&self, prompt: &str, session: Option<i64>) -> Result<(i64, i64)> {
        let client = connect(&self.database).await?;
        let there = "SELECT id, session_id FROM millhand.tasks WHERE idempotency_key = $1";
        if let Some(row) = client.query_opt(there, &[&prompt]).await? {
            return Ok((row.get(0), row.get(1)));
        }
        let project = session.is_none().then_some("acme");
        let row = client
            .query_one(
                "INSERT INTO millhand.tasks (project, session_id, prompt, idempotency_key) VALUES ($1, $2, $3, $3) \
                 RETURNING id, session_id",
                &[&project, &session, &prompt],
            )
            .await?;
        Ok((row.get(0), row.get(1)))
    }
}

/// Whether every task has come to rest.
pub(super) struct AtRest {
    database: Config,
    turns: usize,
}

impl AtRest {
    pub(super) fn new(database: Config, turns: usize) -> Self {
        Self { database, turns }
    }

    /// Looks; a database that is away tells nothing.
    pub(super) async fn reached(&self) -> bool {
        self.resting().await.is_ok_and(|resting| resting >= self.turns)
    }

    /// Waits until more tasks than these have come to rest, but not for ever: however slow the machine is, faults leave room for work.
    pub(super) async fn progress(&self, before: usize) -> usize {
        let mut resting = before;
        let more = async {
            while resting <= before {
                resting = self.resting().await.unwrap_or(before);
                tokio::time::sleep(TRY_EVERY).await;
            }
        };
        let _ = tokio::time::timeout(ROOM, more).await;
        resting
    }

    async fn resting(&self) -> Result<usize> {
        let client: Client = connect(&self.database).await?;
        let sql = "SELECT count(*) FROM millhand.tasks WHERE state IN ('completed', 'failed', 'cancelled', 'blocked')";
        let count: i64 = client.query_one(sql, &[]).await?.get(0);
        usize::try_from(count).context("a count")
    }
}
