//! Databases and queues made for the benchmark.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use tokio::sync::watch;
use tokio_postgres::AsyncMessage;
use uuid::Uuid;

use super::{Connect, Result, Store, StoreError};

/// Has a scratch database tell of tasks that come to rest, and listens.
const TELL_ENDS: &str = "
CREATE FUNCTION public.bench_tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('bench_ends', NEW.id || ' ' || NEW.state);
    RETURN NULL;
END
$$;
CREATE TRIGGER bench_ends AFTER UPDATE OF state ON millhand.tasks FOR EACH ROW
    WHEN (NEW.state NOT IN ('pending', 'waiting', 'running')) EXECUTE FUNCTION public.bench_tell();
LISTEN bench_ends
";

/// A task that was queued.
#[derive(Clone, Copy, Debug)]
pub struct LoadedTask {
    /// The task.
    pub task: i64,
    /// Its session.
    pub session: i64,
}

impl Store {
    /// Registers a repository. Returns the project's id.
    pub async fn load_repository(&self, name: &str, source: &str) -> Result<i64> {
        let client = self.client().await?;
        Ok(client.query_one("SELECT millhand.add_project($1, $2)", &[&name, &source]).await?.get(0))
    }

    /// Queues a task, as a user's INSERT does: in a session, or in a new one of a project.
    pub async fn load_task(
        &self,
        project: &str,
        session: Option<i64>,
        prompt: &str,
        model: &str,
    ) -> Result<LoadedTask> {
        let client = self.client().await?;
        let row = match session {
            Some(session) => {
                let sql = "INSERT INTO millhand.tasks (session_id, prompt, model) VALUES ($1, $2, $3) RETURNING id, session_id";
                let statement = client.prepare_cached(sql).await?;
                client.query_one(&statement, &[&session, &prompt, &model]).await?
            }
            None => {
                let sql =
                    "INSERT INTO millhand.tasks (project, prompt, model) VALUES ($1, $2, $3) RETURNING id, session_id";
                let statement = client.prepare_cached(sql).await?;
                client.query_one(&statement, &[&project, &prompt, &model]).await?
            }
        };
        Ok(LoadedTask { task: row.get(0), session: row.get(1) })
    }

    /// Has this database, which must be a scratch one, tell when tasks come to rest: asking again and again would take time from those
    /// who are measured.
    pub async fn watch_ends(&self) -> Result<Ends> {
        let Connect { config, tls, .. } = self.connect();
        let (client, mut connection) = config.connect(tls.clone()).await?;
        let (seen, ends) = watch::channel(BTreeMap::new());
        tokio::spawn(async move {
            let mut messages = futures::stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(told) = message
                    && let Some((task, how)) = told.payload().split_once(' ')
                    && let Ok(task) = task.parse::<i64>()
                {
                    let end = (Instant::now(), how.to_owned());
                    seen.send_modify(|seen| drop(seen.insert(task, end)));
                }
            }
        });
        client.batch_execute(TELL_ENDS).await?;
        Ok(Ends { seen: ends, _client: client })
    }

    /// The host of a task's last attempt.
    pub async fn host_of_attempt(&self, task: i64) -> Result<String> {
        let sql = "SELECT host_id FROM millhand.attempts WHERE task_id = $1 ORDER BY number DESC LIMIT 1";
        Ok(self.client().await?.query_one(sql, &[&task]).await?.get(0))
    }

    /// Whether an attempt after a task's first one has the agent's conversation open.
    pub async fn is_open_again(&self, task: i64) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT FROM millhand.attempts WHERE task_id = $1 AND number > 1 AND agent_session IS NOT NULL)";
        Ok(self.client().await?.query_one(sql, &[&task]).await?.get(0))
    }

    /// Whether nothing of a task runs, nor will by itself.
    pub async fn is_at_rest(&self, task: i64) -> Result<bool> {
        let sql = "SELECT state NOT IN ('pending', 'waiting', 'running') FROM millhand.tasks WHERE id = $1";
        Ok(self.client().await?.query_one(sql, &[&task]).await?.get(0))
    }

    /// Whether a host has told what agents it can run.
    pub async fn knows_agents(&self) -> Result<bool> {
        Ok(self.client().await?.query_one("SELECT EXISTS (SELECT FROM millhand.agents)", &[]).await?.get(0))
    }

    /// Makes a database of its own on the same server, with the current schema. [`Store::drop_scratch`] removes it.
    pub async fn scratch(&self) -> Result<Self> {
        let name = format!("millhand_scratch_{}", Uuid::new_v4().simple());
        self.client().await?.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        let mut connect = self.connect().clone();
        connect.config.dbname(&name);
        let scratch = Self::new(Connect { pool_size: 24, ..connect })?;
        scratch.migrate().await?;
        Ok(scratch)
    }

    /// Removes what [`Store::scratch`] made.
    pub async fn drop_scratch(&self, scratch: Self) -> Result<()> {
        let Some(name) = scratch.connect().config.get_dbname().map(str::to_owned) else { return Ok(()) };
        scratch.close();
        self.client().await?.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        Ok(())
    }

    /// Registers a project that has no repository.
    pub async fn load_project(&self, name: &str) -> Result<()> {
        self.client().await?.execute("SELECT millhand.add_project($1, '/nowhere')", &[&name]).await?;
        Ok(())
    }

    /// Queues one task in a session of its own, as a user's INSERT does. Returns its id.
    pub async fn load_one(&self, project: &str) -> Result<i64> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached("INSERT INTO millhand.tasks (project, prompt) VALUES ($1, 'no-op') RETURNING id")
            .await?;
        Ok(client.query_one(&statement, &[&project]).await?.get(0))
    }

    /// Lets the database come to rest after a load: statistics, visibility, a checkpoint.
    pub async fn settle_load(&self) -> Result<()> {
        let client = self.client().await?;
        client.batch_execute("SET statement_timeout = 0").await?;
        client.batch_execute("VACUUM ANALYZE").await?;
        client.batch_execute("CHECKPOINT").await?;
        Ok(())
    }

    /// Queues `count` tasks, each in a session of its own, in a lane of `host` if one is given.
    pub async fn load_sessions(&self, project: &str, count: i64, host: Option<&str>) -> Result<()> {
        let client = self.client().await?;
        // In slices, each below the statement timeout.
        let mut left = count;
        while left > 0 {
            let slice = left.min(50_000);
            client
                .execute(
                    "INSERT INTO millhand.tasks (project, prompt) SELECT $1, 'no-op' FROM generate_series(1, $2::bigint)",
                    &[&project, &slice],
                )
                .await?;
            left -= slice;
        }
        if let Some(host) = host {
            client
                .execute(
                    "UPDATE millhand.tasks SET lane = $1 || substr(lane, 2) WHERE state = 'pending' AND lane LIKE '*/%'",
                    &[&host],
                )
                .await?;
        }
        Ok(())
    }

    /// Queues `count` tasks behind one another in one new session.
    pub async fn load_line(&self, project: &str, count: i64) -> Result<()> {
        let client = self.client().await?;
        client
            .execute(
                "WITH head AS (INSERT INTO millhand.tasks (project, prompt) VALUES ($1, 'no-op') RETURNING session_id) \
                 SELECT 1 FROM head",
                &[&project],
            )
            .await?;
        let session: i64 = client.query_one("SELECT max(session_id) FROM millhand.tasks", &[]).await?.get(0);
        client
            .execute(
                "INSERT INTO millhand.tasks (session_id, prompt) SELECT $1, 'no-op' FROM generate_series(1, $2::bigint)",
                &[&session, &count],
            )
            .await?;
        Ok(())
    }

    /// Makes a year's history of `tasks` finished tasks in twenty projects, in an empty database.
    pub async fn load_history(&self, tasks: i64) -> Result<()> {
        for n in 0..20 {
            self.load_project(&format!("bench-{n}")).await?;
        }
        let tables = ["tasks", "sessions", "usage", "change_sets", "worktrees"];
        let switch = |to: &str| tables.map(|table| format!("ALTER TABLE millhand.{table} {to} TRIGGER USER;")).concat();
        let client = self.client().await?;
        client.batch_execute(&format!("SET statement_timeout = 0; SET bench.tasks = {tasks};")).await?;
        client.batch_execute(&switch("DISABLE")).await?;
        client.batch_execute(include_str!("sql/load_history.sql")).await?;
        client.batch_execute(&switch("ENABLE")).await?;
        client.batch_execute("SELECT millhand.rebuild_spending()").await?;
        Ok(())
    }

    /// Counts the rows of a view, all of them.
    pub async fn read_view(&self, view: &str) -> Result<i64> {
        let client = self.client().await?;
        let statement = client.prepare_cached(&format!("SELECT * FROM millhand.{view}")).await?;
        Ok(i64::try_from(client.query(&statement, &[]).await?.len()).unwrap_or(i64::MAX))
    }

    /// Empties the queue.
    pub async fn unload(&self) -> Result<()> {
        self.client()
            .await?
            .batch_execute("TRUNCATE millhand.tasks, millhand.sessions, millhand.leases, millhand.nudges CASCADE")
            .await?;
        Ok(())
    }
}

/// Tasks that came to rest, as the database tells.
#[derive(Debug)]
pub struct Ends {
    seen: watch::Receiver<BTreeMap<i64, (Instant, String)>>,
    /// The connection ends with it.
    _client: tokio_postgres::Client,
}

impl Ends {
    /// Waits until all of these have completed. Returns when each was told of, in their order.
    ///
    /// # Errors
    ///
    /// One of them ended otherwise, or they are not over `within`.
    pub async fn when_completed(&self, tasks: &[i64], within: Duration) -> Result<Vec<Instant>> {
        let mut seen = self.seen.clone();
        let all = seen.wait_for(|seen| tasks.iter().all(|task| seen.contains_key(task)));
        let told = tokio::time::timeout(within, all).await;
        let Ok(Ok(told)) = told else {
            return Err(StoreError::Unexpected(format!("tasks {tasks:?} were not over within {within:?}")));
        };
        let when = |task: &i64| match told.get(task) {
            Some((when, how)) if how == "completed" => Ok(*when),
            end => Err(StoreError::Unexpected(format!("t{task} of the benchmark did not complete: {end:?}"))),
        };
        tasks.iter().map(when).collect()
    }
}
