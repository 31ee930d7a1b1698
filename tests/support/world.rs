//! A whole host: database, repository, scripted model, and the worker that `millhand worker` runs, in this process.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use millhand::{
    config::{Environment, Home, Settings, Timings},
    scripted::{Prices, ScriptedModel},
    service::Host,
};
use tempfile::TempDir;
use tokio_postgres::{Client, Row, types::FromSql};
use tokio_util::sync::CancellationToken;

use super::{TestDb, opencode::find_opencode, wait_until};

/// Longest that a task of a test may take; a busy machine is slow, and some providers are tried again for a minute.
pub const TURN_WITHIN: Duration = Duration::from_secs(120);

/// Everything but the worker, which is started and stopped at will.
pub struct World {
    folder: TempDir,
    pub db: TestDb,
    pub model: ScriptedModel,
    pub settings: Settings,
    client: Client,
}

impl World {
    /// A repository with a README, registered as `acme`, and these scripts (name, JSON) as models.
    pub async fn new(scripts: &[(&str, &str)]) -> Result<Self> {
        Self::with_files(scripts, &[("README.md", "# acme\n"), ("src/main.sh", "#!/bin/sh\necho acme\n")]).await
    }

    /// The same, with these files in the repository.
    pub async fn with_files(scripts: &[(&str, &str)], files: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("millhand-world-").tempdir()?;
        let db = TestDb::new().await?;
        let model = super::model::start_model(scripts).await?;
        let mut config = model.provider_config(Prices::default());
        config["enabled_providers"] = serde_json::json!(["scripted"]);
        let mut settings = Settings::new(Home::new(folder.path().join("home")));
        settings.environment = environment(folder.path())?;
        settings.opencode.binary = Some(find_opencode()?.path);
        settings.opencode.config = Some(config.to_string());
        settings.opencode.default_model = scripts.first().map(|(name, _)| format!("scripted/{name}"));
        settings.worker.concurrency = Some(8);
        // Worlds are many, and the usual port is one.
        settings.api.listen = None;
        settings.timings = quick();
        settings.retry.backoff_base = Duration::from_millis(200);
        settings.retry.rate_limit_wait = Duration::from_millis(200);
        std::fs::create_dir_all(folder.path().join("user"))?;
        let client = db.client().await?;
        let world = Self { folder, db, model, settings, client };
        make_repository(&world.repository(), files)?;
        world
            .client
            .execute("SELECT millhand.add_project('acme', $1)", &[&world.repository().to_string_lossy()])
            .await?;
        Ok(world)
    }

    /// Where everything is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The user's repository.
    pub fn repository(&self) -> PathBuf {
        self.path().canonicalize().unwrap_or_else(|_| self.path().to_owned()).join("acme")
    }

    /// Starts the worker.
    pub async fn start(&self) -> Result<Host> {
        Host::start(&self.settings, self.db.store()?, super::millhand().to_owned()).await
    }

    /// Runs SQL.
    pub async fn sql(&self, sql: &str) -> Result<Vec<Row>> {
        self.client.query(sql, &[]).await.with_context(|| sql.to_owned())
    }

    /// The first value of the first row.
    pub async fn one<T: for<'a> FromSql<'a>>(&self, sql: &str) -> Result<T> {
        let rows = self.sql(sql).await?;
        ensure!(!rows.is_empty(), "no row: {sql}");
        Ok(rows[0].try_get(0)?)
    }

    /// Queues a prompt in a new session. Returns the task.
    pub async fn queue(&self, prompt: &str) -> Result<i64> {
        let sql = "INSERT INTO millhand.tasks (project, prompt) VALUES ('acme', $1) RETURNING id";
        Ok(self.client.query_one(sql, &[&prompt]).await?.get(0))
    }

    /// Queues a prompt in a new session for a script.
    pub async fn queue_for(&self, script: &str, prompt: &str) -> Result<i64> {
        let sql = "INSERT INTO millhand.tasks (project, prompt, model) VALUES ('acme', $1, $2) RETURNING id";
        Ok(self.client.query_one(sql, &[&prompt, &format!("scripted/{script}")]).await?.get(0))
    }

    /// Waits for a task to come to rest. Returns its state.
    pub async fn settled(&self, task: i64) -> Result<String> {
        wait_until(&format!("t{task} is over"), TURN_WITHIN, async || {
            self.state(task).await.is_ok_and(|s| ["completed", "failed", "cancelled", "blocked"].contains(&s.as_str()))
        })
        .await?;
        self.state(task).await
    }

    /// A task's state.
    pub async fn state(&self, task: i64) -> Result<String> {
        self.one(&format!("SELECT state FROM millhand.tasks WHERE id = {task}")).await
    }

    /// What a task is recorded with: state, outcome of its last attempt, error.
    pub async fn verdict(&self, task: i64) -> Result<(String, String, String)> {
        let row = self
            .sql(&format!(
                "SELECT t.state, coalesce(a.outcome, ''), coalesce(t.error_message, '') FROM millhand.tasks t \
                 JOIN millhand.attempts a ON a.task_id = t.id AND a.number = t.last_attempt WHERE t.id = {task}"
            ))
            .await?;
        ensure!(row.len() == 1, "t{task} has no attempt");
        Ok((row[0].get(0), row[0].get(1), row[0].get(2)))
    }

    /// The open patch of a task's change set, whole.
    pub async fn patch(&self, task: i64) -> Result<Vec<u8>> {
        let rows = self
            .sql(&format!(
                "SELECT p.patch FROM millhand.pending_changes p JOIN millhand.change_sets s ON s.id = p.change_set_id \
                 WHERE s.task_id = {task} AND s.state <> 'draft' ORDER BY p.id"
            ))
            .await?;
        Ok(rows.iter().flat_map(|row| row.get::<_, Vec<u8>>(0)).collect())
    }
}

/// Stops a host at once.
pub async fn stop(host: Host) {
    let hurry = CancellationToken::new();
    hurry.cancel();
    host.stop(hurry).await;
}

/// Shorter where only waiting would be tested.
fn quick() -> Timings {
    Timings {
        poll_max: Duration::from_secs(1),
        rescue: Duration::from_secs(1),
        settle_poll: Duration::from_secs(1),
        drain: Duration::from_secs(5),
        ..Timings::default()
    }
}

/// A user's environment with a home of its own: nothing of the machine's user is seen.
fn environment(folder: &Path) -> Result<Environment> {
    let home = folder.join("user");
    let path = std::env::var_os("PATH").context("PATH")?;
    Ok([("PATH", path), ("HOME", home.into_os_string()), ("LANG", "C.UTF-8".into())].into_iter().collect())
}

/// A repository with one commit.
pub fn make_repository(path: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (name, content) in files {
        let file = path.join(name);
        std::fs::create_dir_all(file.parent().context("parent")?)?;
        std::fs::write(file, content)?;
    }
    for arguments in [&["init", "-q", "-b", "main"][..], &["add", "-A"], &["commit", "-q", "-m", "first"]] {
        git(path, arguments)?;
    }
    Ok(())
}

/// git as a user with no configuration runs it; what it printed.
pub fn git(folder: &Path, arguments: &[&str]) -> Result<String> {
    let output = std::process::Command::new("git")
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"])
        .args(arguments)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()?;
    ensure!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
