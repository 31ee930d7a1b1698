//! The life of worktrees, with a real Postgres and real git: taken, let go of, brought back.

mod crash;
mod ends;
mod fence;
mod lost;
mod many;
mod pool;
mod processes;
mod quota;
mod setup;
mod whole;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use millhand::{
    config::{Home, Timings, WorktreeSettings},
    git::{Base, Git, Mirror, Worktree},
    model::retry::Verdict,
    store::{
        Store,
        queue::{Claimed, Finished},
        worktrees::WorktreeRow,
    },
    worktrees::{Outcome, Round, Taking, Worktrees},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    queue::{HOST, claim_as, finish_as, register},
    support::{
        TestDb,
        world::{git, make_repository},
    },
};

/// A database, a repository, and a home without a worker.
struct Rig {
    db: TestDb,
    store: Store,
    _folder: tempfile::TempDir,
    worker: Uuid,
    worktrees: Worktrees,
}

impl Rig {
    async fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("millhand-reaper-").tempdir().expect("folder");
        let db = TestDb::new().await.expect("database");
        let store = db.store().expect("store");
        let worker = Uuid::new_v4();
        register(&store, worker, HOST).await;
        let root = folder.path().canonicalize().expect("canonical");
        make_repository(
            &root.join("acme"),
            &[("README.md", "# acme\n"), (".gitignore", "ignored/\n"), ("src/a.sh", "echo a\n")],
        )
        .expect("repository");
        let home = Home::new(root.join("home"));
        let path = std::env::var_os("PATH").expect("PATH");
        let environment = vec![("PATH".into(), path), ("HOME".into(), root.join("user").into_os_string())];
        let git = Git::new(None, environment, home.clone()).await.expect("git");
        let worktrees = Worktrees {
            store: store.clone(),
            git,
            home,
            host_id: HOST.to_owned(),
            settings: WorktreeSettings { pool: 0, quota: None },
            timings: Timings { kill_grace: Duration::from_millis(200), ..Timings::default() },
        };
        let rig = Self { db, store, _folder: folder, worker, worktrees };
        rig.sql(&format!("SELECT millhand.add_project('acme', '{}')", root.join("acme").display())).await;
        rig
    }

    async fn sql(&self, sql: &str) -> Vec<tokio_postgres::Row> {
        let client = self.db.client().await.expect("client");
        client.query(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        self.sql(sql).await[0].get(0)
    }

    /// Queues a task in a new session; its session.
    async fn open(&self) -> i64 {
        self.one("INSERT INTO millhand.tasks (project, prompt) VALUES ('acme', 'do it') RETURNING session_id").await
    }

    async fn send(&self, session: i64) {
        let sql = format!("INSERT INTO millhand.tasks (session_id, prompt) VALUES ({session}, 'and then')");
        self.sql(&sql).await;
    }

    async fn claim(&self) -> Claimed {
        claim_as(&self.store, self.worker, HOST, 1).await.pop().expect("something to claim")
    }

    async fn mirror(&self, claimed: &Claimed) -> (Mirror, Base) {
        let git = &self.worktrees.git;
        let mirror = git.ensure_mirror(claimed.project_id, &claimed.source, None).await.expect("mirror");
        let base = match &claimed.base_commit {
            Some(commit) => Base { branch: claimed.base_branch.clone(), commit: commit.clone() },
            None => git.resolve_base(&mirror, None).await.expect("base"),
        };
        (mirror, base)
    }

    /// Claims the next task and takes the worktree, as a turn does.
    async fn begin(&self) -> (Claimed, Mirror, Worktree) {
        let claimed = self.claim().await;
        let (mirror, base) = self.mirror(&claimed).await;
        let taking = Taking { token: claimed.token, session_id: claimed.session_id };
        let worktree = self.worktrees.take(taking, &mirror, &base).await.expect("worktree");
        (claimed, mirror, worktree)
    }

    /// What a turn does at its end.
    async fn end(&self, claimed: &Claimed, mirror: &Mirror, worktree: &Worktree) {
        self.worktrees.git.checkpoint(mirror, worktree, claimed.task_id, "turn").await.expect("checkpoint");
        let finished = finish_as(&self.store, claimed, Verdict::Completed).await;
        assert!(matches!(finished, Finished::Recorded(_)), "{finished:?}");
    }

    /// A whole turn, in which the agent does this in its worktree.
    async fn turn(&self, agent: impl FnOnce(&Path)) -> Worktree {
        let (claimed, mirror, worktree) = self.begin().await;
        agent(&worktree.path);
        self.end(&claimed, &mirror, &worktree).await;
        worktree
    }

    /// A session with some work: a tracked change, an untracked file, an ignored one, a commit of the agent's own.
    async fn worked(&self) -> (i64, Worktree) {
        let session = self.open().await;
        let worktree = self.turn(work).await;
        assert_eq!(worktree.session_id, session);
        (session, worktree)
    }

    async fn close(&self, session: i64) {
        assert!(self.store.close_session(session).await.expect("close"));
    }

    /// As if it was two hours later, as far as the grace is concerned.
    async fn later(&self) {
        self.sql(
            "UPDATE millhand.worktrees SET let_go_at = let_go_at - interval '2 hours', \
             last_used_at = last_used_at - interval '2 hours', trashed_at = trashed_at - interval '2 hours', tried_at = NULL",
        )
        .await;
    }

    /// As if the trash had been kept long enough.
    async fn much_later(&self) {
        self.sql("UPDATE millhand.worktrees SET trashed_at = trashed_at - interval '8 days'").await;
    }

    async fn round(&self) -> Vec<Outcome> {
        let Round { done } =
            self.worktrees.round(None, &CancellationToken::new()).await.expect("a round of the reaper");
        done.into_iter().map(|(_, outcome)| outcome).collect()
    }

    /// The row of a session's worktree.
    async fn row(&self, session: i64) -> WorktreeRow {
        let found = self.store.worktree_of_session(session, HOST).await.expect("query");
        found.expect("a row")
    }

    async fn restore(&self, session: i64) -> &'static str {
        let id = self.row(session).await.id;
        self.worktrees.restore(id).await.expect("restore").from
    }

    fn trash(&self) -> Vec<PathBuf> {
        names(&self.worktrees.home.trash())
    }
}

fn work(path: &Path) {
    fs::write(path.join("README.md"), "# acme\nchanged\n").expect("write");
    fs::write(path.join("new.txt"), "new\n").expect("write");
    fs::create_dir_all(path.join("ignored")).expect("folder");
    fs::write(path.join("ignored/cache"), "cache\n").expect("write");
    git(path, &["add", "new.txt"]).expect("git add");
    git(path, &["commit", "-qm", "the agent's own"]).expect("git commit");
}

fn assert_worked(path: &Path, with_ignored: bool) {
    let read = |name: &str| fs::read_to_string(path.join(name)).ok();
    assert_eq!(read("README.md").as_deref(), Some("# acme\nchanged\n"));
    assert_eq!(read("new.txt").as_deref(), Some("new\n"));
    assert_eq!(read("src/a.sh").as_deref(), Some("echo a\n"));
    assert_eq!(read("ignored/cache").as_deref(), with_ignored.then_some("cache\n"));
    if with_ignored {
        assert_eq!(git(path, &["log", "-1", "--format=%s"]).expect("git log"), "the agent's own");
    }
    git(path, &["status", "--porcelain"]).expect("the agent's repository works");
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    names.sort();
    names
}
