//! What people write: tasks, and the functions that act on them; projects.
//!
//! The rules are the database's own (triggers and functions of `schema.sql`), so that plain SQL and the command obey the
//! same ones.

use tokio_postgres::Row;

use super::{Result, Store, StoreError};

/// A task to insert.
#[derive(Clone, Debug, Default)]
pub struct NewTask<'a> {
    /// The project, for a task that opens a session.
    pub project: Option<&'a str>,
    /// The session to continue.
    pub session_id: Option<i64>,
    /// Where in the session.
    pub chat: NewTaskChat,
    /// What to ask.
    pub prompt: &'a str,
    /// Agent, with its mode; none: the project's.
    pub agent: Option<&'a str>,
    /// Model; none: the project's.
    pub model: Option<&'a str>,
    /// Variant of the model.
    pub variant: Option<&'a str>,
    /// Lower runs first.
    pub priority: i32,
    /// Inserting the same key again finds the first task.
    pub idempotency_key: &'a str,
    /// Commit that is merged into the worktree before the turn.
    pub merge_commit: Option<&'a str>,
    /// Branch that it is of; none: the session's own.
    pub merge_branch: Option<&'a str>,
}

/// Which chat a task goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NewTaskChat {
    /// The session's first one.
    #[default]
    First,
    /// This one.
    Existing(i64),
    /// A new one.
    New,
}

/// A task that is in the queue now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inserted {
    /// The task.
    pub task_id: i64,
    /// Its session.
    pub session_id: i64,
    /// Its chat.
    pub chat_id: i64,
    /// It was not there before.
    pub is_new: bool,
}

fn inserted(row: &Row, is_new: bool) -> Inserted {
    Inserted { task_id: row.get(0), session_id: row.get(1), chat_id: row.get(2), is_new }
}

/// What a project is to be, where it is not the default.
#[derive(Clone, Debug, Default)]
pub struct ProjectOptions<'a> {
    /// Agent of tasks that name none.
    pub agent: Option<&'a str>,
    /// Model of tasks that name none.
    pub model: Option<&'a str>,
    /// hold or continue.
    pub on_failure: Option<&'a str>,
    /// continue or ask.
    pub resend: Option<&'a str>,
    /// reject, allow or inbox.
    pub asks: Option<&'a str>,
    /// Load the repository's own agent configuration.
    pub trusted: Option<bool>,
    /// Names of variables that its agents may see.
    pub env_pass: Option<&'a [String]>,
    /// Charged attempts of a new task.
    pub max_attempts: Option<i32>,
}

impl Store {
    /// Puts a task into the queue, once per key.
    pub async fn insert_task(&self, task: &NewTask<'_>) -> Result<Inserted> {
        if let Some(found) = self.task_by_key(task.idempotency_key).await? {
            return Ok(found);
        }
        match self.insert_task_once(task).await {
            // Somebody inserted the key in between: an earlier try of ours, whose reply was lost.
            Err(StoreError::Refused { constraint: Some(name), .. }) if name == "tasks_idempotency_key" => self
                .task_by_key(task.idempotency_key)
                .await?
                .ok_or_else(|| StoreError::Unexpected("a task with this key was there, and is gone".to_owned())),
            other => other,
        }
    }

    async fn task_by_key(&self, key: &str) -> Result<Option<Inserted>> {
        let client = self.client().await?;
        let sql = "SELECT id, session_id, chat_id FROM millhand.tasks WHERE idempotency_key = $1";
        Ok(client.query_opt(sql, &[&key]).await?.map(|row| inserted(&row, false)))
    }

    async fn insert_task_once(&self, task: &NewTask<'_>) -> Result<Inserted> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let chat_id: Option<i64> = match task.chat {
            NewTaskChat::First => None,
            NewTaskChat::Existing(id) => Some(id),
            // A statement of its own: the task's trigger looks the chat up.
            NewTaskChat::New => transaction
                .query_opt(
                    "INSERT INTO millhand.chats (session_id) SELECT id FROM millhand.sessions WHERE id = $1 RETURNING id",
                    &[&task.session_id],
                )
                .await?
                .map(|row| row.get(0)),
        };
        let row = transaction
            .query_one(
                include_str!("sql/insert_task.sql"),
                &[
                    &task.project,
                    &task.session_id,
                    &chat_id,
                    &task.prompt,
                    &task.agent,
                    &task.model,
                    &task.variant,
                    &task.priority,
                    &task.idempotency_key,
                    &task.merge_commit,
                    &task.merge_branch,
                ],
            )
            .await?;
        let found = inserted(&row, true);
        transaction.commit().await?;
        Ok(found)
    }

    async fn act(&self, sql: &str, task_id: i64) -> Result<bool> {
        Ok(self.client().await?.query_one(sql, &[&task_id]).await?.get(0))
    }

    /// Cancels a task; false if there was nothing to cancel.
    pub async fn cancel_task(&self, task_id: i64) -> Result<bool> {
        self.act("SELECT millhand.cancel_task($1)", task_id).await
    }

    /// Takes a task out of the inbox; false if it was not there.
    pub async fn dismiss_task(&self, task_id: i64) -> Result<bool> {
        self.act("SELECT millhand.dismiss_task($1)", task_id).await
    }

    /// Runs a task again, with another prompt, model or agent if given; false if it is not at rest.
    pub async fn retry_task(
        &self,
        task_id: i64,
        prompt: Option<&str>,
        model: Option<&str>,
        agent: Option<&str>,
    ) -> Result<bool> {
        let client = self.client().await?;
        let sql = "SELECT millhand.retry_task($1, $2, $3, $4)";
        Ok(client.query_one(sql, &[&task_id, &prompt, &model, &agent]).await?.get(0))
    }

    /// Registers a project, or changes the options of one that has the same source. An empty branch or model is none from now on.
    pub async fn add_project(
        &self,
        name: &str,
        source: &str,
        branch: Option<&str>,
        host_id: Option<&str>,
        options: &ProjectOptions<'_>,
    ) -> Result<()> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let new_branch = branch.filter(|name| !name.is_empty());
        transaction
            .execute("SELECT millhand.add_project($1, $2, $3, $4)", &[&name, &source, &new_branch, &host_id])
            .await?;
        transaction
            .execute(
                include_str!("sql/project_options.sql"),
                &[
                    &name,
                    &branch,
                    &options.agent,
                    &options.model,
                    &options.on_failure,
                    &options.asks,
                    &options.trusted,
                    &options.env_pass,
                    &options.max_attempts,
                    &options.resend,
                ],
            )
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Removes a project with its sessions and tasks, unless something of it runs. What it cost stays. The database refuses it while there are
    /// changes that nobody has reviewed, unless `force`.
    ///
    /// Returns false if there is no such project, or one of its tasks runs.
    pub async fn remove_project(&self, name: &str, force: bool) -> Result<bool> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        if force {
            transaction.batch_execute("SET LOCAL millhand.force = 'on'").await?;
        }
        let removed = transaction.query_opt(include_str!("sql/remove_project.sql"), &[&name]).await?;
        transaction.commit().await?;
        Ok(removed.is_some())
    }
}
