//! Sessions whose host is gone: which they are, what is recorded of their worktree, and the move to another host.

use std::time::Duration;

use super::{Result, Store, seconds};

/// A session with something to run, on a host that has had no worker for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwaySession {
    /// The session.
    pub session_id: i64,
    /// Key of its project.
    pub project_id: i64,
    /// Name of its project.
    pub project: String,
    /// Path or URL of the repository.
    pub source: String,
    /// Branch that it started from.
    pub base_branch: Option<String>,
    /// Commit that it started from.
    pub base_commit: String,
    /// The host that is gone.
    pub home_host: String,
}

/// What the last turn of a session left in its worktree, as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedTree {
    /// The change set of that turn.
    pub change_set_id: i64,
    /// The task of that turn.
    pub task_id: i64,
    /// The commit that the patches apply to.
    pub base_commit: String,
    /// The tree that they lead to.
    pub tree_id: String,
    /// One patch per file.
    pub patches: Vec<Vec<u8>>,
    /// A person has applied all of it.
    pub is_applied: bool,
    /// A person has taken the files back to an earlier checkpoint since.
    pub is_rolled_back: bool,
}

/// Where a session is to be at home.
#[derive(Clone, Copy, Debug)]
pub struct NewHome<'a> {
    /// The host.
    pub host_id: &'a str,
    /// Its worktree there.
    pub path: &'a str,
    /// The branch of the worktree.
    pub branch: &'a str,
    /// The trash there.
    pub trash: &'a str,
    /// The commit to make the worktree from.
    pub checkpoint: &'a str,
    /// The change set that it was made from; none: there was none.
    pub change_set: Option<i64>,
}

impl Store {
    /// Sessions that this host may take over, because theirs has had no worker for `away`.
    pub async fn away_sessions(
        &self,
        host_id: &str,
        away: Duration,
        agents: &[String],
        without: &[i64],
        at_most: i64,
    ) -> Result<Vec<AwaySession>> {
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/away_sessions.sql")).await?;
        let rows = client.query(&statement, &[&host_id, &seconds(away), &agents, &without, &at_most]).await?;
        let session = |row: &tokio_postgres::Row| AwaySession {
            session_id: row.get("session_id"),
            project_id: row.get("project_id"),
            project: row.get("project"),
            source: row.get("source"),
            base_branch: row.get("base_branch"),
            base_commit: row.get("base_commit"),
            home_host: row.get("home_host"),
        };
        Ok(rows.iter().map(session).collect())
    }

    /// What the last recorded turn of a session left; none if no turn of it has been recorded.
    pub async fn recorded_tree(&self, session_id: i64) -> Result<Option<RecordedTree>> {
        let client = self.client().await?;
        let newest = "SELECT id, task_id, base_commit, tree_id, \
                          EXISTS (SELECT 1 FROM millhand.audit_log a WHERE a.action = 'roll_back' AND a.at > c.created_at \
                                  AND a.details @> jsonb_build_object('session_id', c.session_id)) \
                      FROM millhand.change_sets c WHERE session_id = $1 AND state <> 'draft' ORDER BY id DESC LIMIT 1";
        let Some(row) = client.query_opt(newest, &[&session_id]).await? else { return Ok(None) };
        let set: i64 = row.get(0);
        let patches =
            "SELECT patch, state = 'applied' FROM millhand.pending_changes WHERE change_set_id = $1 ORDER BY id";
        let files = client.query(patches, &[&set]).await?;
        let is_applied = files.iter().all(|row| row.get(1));
        let patches = files.iter().map(|row| row.get(0)).collect();
        let task_id: Option<i64> = row.get(1);
        Ok(Some(RecordedTree {
            change_set_id: set,
            task_id: task_id.unwrap_or_default(),
            base_commit: row.get(2),
            tree_id: row.get(3),
            patches,
            is_applied,
            is_rolled_back: row.get(4),
        }))
    }

    /// What people call a host: its newest worker's hostname, or its id if it never had one.
    pub async fn name_of_host(&self, host_id: &str) -> Result<String> {
        let sql = "SELECT hostname FROM millhand.workers WHERE host_id = $1 ORDER BY heartbeat_at DESC LIMIT 1";
        let row = self.client().await?.query_opt(sql, &[&host_id]).await?;
        Ok(row.map_or_else(|| host_id.to_owned(), |row| format!("{} ({host_id})", row.get::<_, String>(0))))
    }

    /// The patches of a change set, one per file.
    pub async fn patches(&self, change_set_id: i64) -> Result<Vec<Vec<u8>>> {
        let sql = "SELECT patch FROM millhand.pending_changes WHERE change_set_id = $1 ORDER BY id";
        Ok(self.client().await?.query(sql, &[&change_set_id]).await?.iter().map(|row| row.get(0)).collect())
    }

    /// Moves a session to another host, in one transaction that no claim passes. False if it is not to be moved any more: it was claimed or
    /// closed, its host is back, somebody else was quicker, an apply or a rollback has changed what it is, or the new host still keeps an earlier
    /// worktree of it.
    pub async fn rehome_session(&self, session: &AwaySession, to: NewHome<'_>, away: Duration) -> Result<bool> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        transaction.batch_execute("SET LOCAL lock_timeout = '2s'").await?;
        let lock = "SELECT 1 FROM millhand.sessions WHERE id = $1 AND home_host = $2 AND base_commit = $3 AND state = 'open' FOR UPDATE";
        let locked =
            transaction.query_opt(lock, &[&session.session_id, &session.home_host, &session.base_commit]).await?;
        if locked.is_none() {
            return Ok(false);
        }
        // In a statement of its own: what was committed before the lock was taken is seen.
        let is_taken = "SELECT EXISTS (SELECT 1 FROM millhand.leases WHERE session_id = $1) \
                     OR EXISTS (SELECT 1 FROM millhand.workers WHERE host_id = $2 \
                                AND greatest(heartbeat_at, stopped_at) > now() - make_interval(secs => $3)) \
                     OR EXISTS (SELECT 1 FROM millhand.worktrees WHERE host_id = $4 AND path = $5 AND state NOT IN ('gone', 'trashed')) \
                     OR (SELECT max(id) FROM millhand.change_sets WHERE session_id = $1 AND state <> 'draft') IS DISTINCT FROM $6::bigint \
                     OR EXISTS (SELECT 1 FROM millhand.change_sets c JOIN millhand.audit_log a ON a.action = 'roll_back' \
                                AND a.at > c.created_at AND a.details @> jsonb_build_object('session_id', $1::bigint) WHERE c.id = $6)";
        let row = transaction
            .query_one(
                is_taken,
                &[&session.session_id, &session.home_host, &seconds(away), &to.host_id, &to.path, &to.change_set],
            )
            .await?;
        if row.get(0) {
            return Ok(false);
        }
        // What is in the trash there is of an earlier stay, and goes its way from where it is.
        let earlier = "UPDATE millhand.worktrees SET path = $3 || '/' || slot || '/worktree' \
                       WHERE host_id = $1 AND path = $2 AND state = 'trashed' AND slot IS NOT NULL";
        transaction.execute(earlier, &[&to.host_id, &to.path, &to.trash]).await?;
        let worktree = "INSERT INTO millhand.worktrees \
                            (session_id, last_session_id, project, project_id, host_id, path, branch, base_commit, state, checkpoint) \
                        VALUES ($1, $1, $2, $3, $4, $5, $6, $7, 'gone', $8) \
                        ON CONFLICT (host_id, path) DO UPDATE SET session_id = excluded.session_id, \
                            last_session_id = excluded.last_session_id, project = excluded.project, \
                            project_id = excluded.project_id, branch = excluded.branch, base_commit = excluded.base_commit, \
                            checkpoint = excluded.checkpoint, slot = NULL, let_go_at = NULL";
        transaction
            .execute(
                worktree,
                &[
                    &session.session_id,
                    &session.project,
                    &session.project_id,
                    &to.host_id,
                    &to.path,
                    &to.branch,
                    &session.base_commit,
                    &to.checkpoint,
                ],
            )
            .await?;
        // Its worktree there is an orphan now: should the host come back, what is in it is kept as a commit before it goes.
        let orphan = "UPDATE millhand.worktrees SET session_id = NULL WHERE session_id = $1 AND host_id = $2";
        transaction.execute(orphan, &[&session.session_id, &session.home_host]).await?;
        let moved = "UPDATE millhand.sessions SET home_host = $2 WHERE id = $1";
        transaction.execute(moved, &[&session.session_id, &to.host_id]).await?;
        let lanes = "UPDATE millhand.tasks SET lane = millhand.lane_of(session_id, agent) \
                     WHERE session_id = $1 AND state = 'pending'";
        transaction.execute(lanes, &[&session.session_id]).await?;
        let audit = "INSERT INTO millhand.audit_log (action, project, details) VALUES ('rehome_session', $1, \
                     jsonb_build_object('session_id', $2::bigint, 'from', $3::text, 'to', $4::text))";
        transaction.execute(audit, &[&session.project, &session.session_id, &session.home_host, &to.host_id]).await?;
        transaction.batch_execute("NOTIFY tasks_new").await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// What was asked and answered in a chat before a task, newest first, unless this conversation of the agent's was there.
    pub async fn unknown_to_agent(
        &self,
        chat_id: i64,
        before_task: i64,
        agent_session: &str,
        at_most: i64,
    ) -> Result<Vec<(String, Option<String>)>> {
        let client = self.client().await?;
        let sql = "SELECT t.prompt, t.output_summary FROM millhand.tasks t \
                   WHERE t.chat_id = $1 AND t.id < $2 AND t.state = 'completed' \
                     AND NOT EXISTS (SELECT 1 FROM millhand.tasks c JOIN millhand.attempts a ON a.task_id = c.id \
                                     WHERE c.chat_id = $1 AND a.agent_session = $3 AND a.outcome = 'completed') \
                   ORDER BY t.id DESC LIMIT $4";
        let rows = client.query(sql, &[&chat_id, &before_task, &agent_session, &at_most]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}
