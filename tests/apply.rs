//! Applying what agents changed to the user's own repository, with a real Postgres and real git: once, or not at all.

mod files;
mod forecast;
mod hosts;
mod kills;
mod lost;
mod random;
mod review;
mod targets;
mod user;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use millhand::{
    actions::{ActionError, Applied, Applier, ApplyRequest},
    config::{ApplySettings, Home, Timings, WorktreeSettings, host_id},
    git::{Base, Git, Mirror, Step, Worktree},
    model::{
        ids::{AnyId, SessionId},
        retry::Verdict,
    },
    store::{
        Store,
        queue::{Claimed, Finish, Finished},
        turns::Owner,
    },
    worktrees::{Taking, Worktrees},
};
use uuid::Uuid;

use crate::{
    queue::{claim_as, register},
    support::{TestDb, millhand as program, world::git, world::make_repository},
};

/// A database, the user's repository, and a home without a worker.
struct Rig {
    db: TestDb,
    store: Store,
    root: PathBuf,
    _folder: tempfile::TempDir,
    worker: Uuid,
    host: String,
    applier: Applier,
}

/// Files of the repository.
const FILES: &[(&str, &str)] = &[
    ("README.md", "# acme\none\ntwo\nthree\nfour\nfive\nsix\n"),
    (".gitignore", "ignored\n"),
    ("src/a.sh", "echo a\n"),
    ("src/b.txt", "b\n"),
    ("docs/c.md", "c\n"),
];

fn quiet(_: Step) {}

impl Rig {
    async fn new() -> Self {
        Self::with(FILES).await
    }

    async fn with(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("millhand-apply-").tempdir().expect("folder");
        let root = folder.path().canonicalize().expect("canonical");
        make_repository(&root.join("acme"), files).expect("repository");
        Self::on(folder, "acme").await
    }

    /// Over the repository of this name in a folder.
    async fn on(folder: tempfile::TempDir, source: &str) -> Self {
        let root = folder.path().canonicalize().expect("canonical");
        let source = if source.contains("://") { source.to_owned() } else { root.join(source).display().to_string() };
        fs::create_dir_all(root.join("user")).expect("user");
        if !root.join("user/.gitconfig").exists() {
            fs::write(root.join("user/.gitconfig"), "[user]\n\tname = Ada\n\temail = ada@example.org\n")
                .expect("config");
        }
        let db = TestDb::new().await.expect("database");
        let store = db.store().expect("store");
        let home = Home::new(root.join("home"));
        let host = host_id(&home).expect("host");
        let worker = Uuid::new_v4();
        register(&store, worker, &host).await;
        let environment = vec![
            ("PATH".into(), std::env::var_os("PATH").expect("PATH")),
            ("HOME".into(), root.join("user").into_os_string()),
        ];
        let git = Git::new(None, environment, home.clone()).await.expect("git");
        let applier = applier(&store, git, home, &host);
        let rig = Self { db, store, root, _folder: folder, worker, host, applier };
        rig.sql(&format!("SELECT millhand.add_project('acme', '{source}')")).await;
        rig
    }

    fn source(&self) -> PathBuf {
        self.root.join("acme")
    }

    /// git in the user's repository.
    fn user(&self, arguments: &[&str]) -> String {
        git(&self.source(), arguments).expect("git")
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.source().join(name)).ok()
    }

    fn write(&self, name: &str, text: &str) {
        write(&self.source(), name, text);
    }

    /// A commit of the user's own.
    fn commit(&self, name: &str, text: &str) -> String {
        self.write(name, text);
        self.user(&["add", "-A"]);
        self.user(&["commit", "-qm", "the user's own"]);
        self.user(&["rev-parse", "HEAD"])
    }

    async fn sql(&self, sql: &str) -> Vec<tokio_postgres::Row> {
        let client = self.db.client().await.expect("client");
        client.query(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        self.sql(sql).await[0].get(0)
    }

    /// A whole turn in a new session, in which the agent does this in its worktree.
    async fn session(&self, agent: impl FnOnce(&Path)) -> i64 {
        let insert = "INSERT INTO millhand.tasks (project, prompt) VALUES ('acme', 'Do it') RETURNING session_id";
        let session = self.one(insert).await;
        self.turn(agent).await;
        session
    }

    /// Another turn of a session.
    async fn send(&self, session: i64, agent: impl FnOnce(&Path)) {
        self.sql(&format!("INSERT INTO millhand.tasks (session_id, prompt) VALUES ({session}, 'and then')")).await;
        self.turn(agent).await;
    }

    /// Claims the next task and takes the worktree, as a turn does.
    async fn begin(&self) -> (Claimed, Mirror, Worktree) {
        let claimed = claim_as(&self.store, self.worker, &self.host, 1).await.pop().expect("something to claim");
        let git = &self.applier.git;
        let mirror = git.ensure_mirror(claimed.project_id, &claimed.source, None).await.expect("mirror");
        let base = match &claimed.base_commit {
            Some(commit) => Base { branch: claimed.base_branch.clone(), commit: commit.clone() },
            None => git.resolve_base(&mirror, None).await.expect("base"),
        };
        let taking = Taking { token: claimed.token, session_id: claimed.session_id };
        let worktree = self.applier.worktrees.take(taking, &mirror, &base).await.expect("worktree");
        (claimed, mirror, worktree)
    }

    /// What a turn does at its end.
    async fn end(&self, claimed: &Claimed, mirror: &Mirror, worktree: &Worktree) {
        let git = &self.applier.git;
        let checkpoint = git.checkpoint(mirror, worktree, claimed.task_id, "turn").await.expect("checkpoint");
        let changes = git.diff(mirror, &worktree.base_commit, &checkpoint).await.expect("diff");
        let owner = Owner {
            attempt_id: claimed.attempt_id,
            task_id: claimed.task_id,
            session_id: claimed.session_id,
            project: &claimed.project,
            agent: "opencode",
        };
        self.store.draft_changes(owner, &changes).await.expect("draft");
        let finish = Finish {
            token: claimed.token,
            outcome: "completed",
            error_class: None,
            error_message: None,
            verdict: Verdict::Completed,
            summary: Some("said"),
            host_id: &self.host,
        };
        let finished = self.store.finish(&finish).await.expect("finish");
        assert!(matches!(finished, Finished::Recorded(_)), "{finished:?}");
    }

    async fn turn(&self, agent: impl FnOnce(&Path)) {
        let (claimed, mirror, worktree) = self.begin().await;
        agent(&worktree.path);
        self.end(&claimed, &mirror, &worktree).await;
    }

    async fn try_apply(&self, session: i64, request: &ApplyRequest) -> Result<Applied, ActionError> {
        self.applier.apply(AnyId::Session(SessionId(session)), request, &quiet).await
    }

    async fn apply(&self, session: i64) -> Applied {
        self.try_apply(session, &request()).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Why it is refused; and that nothing was changed.
    async fn refusal(&self, session: i64, request: &ApplyRequest) -> String {
        let before = self.everything().await;
        let why = match self.try_apply(session, request).await {
            Err(error) => error.to_string(),
            Ok(applied) => panic!("{applied:?}"),
        };
        assert_eq!(self.everything().await, before, "{why}");
        why
    }

    /// Refs, index, files and decisions.
    async fn everything(&self) -> String {
        let mut text = self.user(&["for-each-ref", "--format=%(refname) %(objectname)"]);
        text += &self.user(&["ls-files", "-s"]);
        text += &self.user(&["status", "--porcelain", "--ignored"]);
        for file in files(&self.source()) {
            let name = file.strip_prefix(self.source()).expect("inside").display().to_string();
            text +=
                &format!("{name}: {:?}\n", fs::read(&file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
        }
        for row in self.sql("SELECT id, state, apply_id FROM millhand.pending_changes ORDER BY id").await {
            text +=
                &format!("{} {} {:?}\n", row.get::<_, i64>(0), row.get::<_, String>(1), row.get::<_, Option<i64>>(2));
        }
        text
    }

    async fn open_set(&self, session: i64) -> (i64, String, String) {
        let sql = format!(
            "SELECT id, state, tree_id FROM millhand.change_sets WHERE session_id = {session} AND state <> 'draft' ORDER BY id DESC"
        );
        let row = &self.sql(&sql).await[0];
        (row.get(0), row.get(1), row.get(2))
    }

    /// Paths of the newest change set with their states.
    async fn decided(&self, session: i64) -> Vec<(String, String)> {
        let (set, ..) = self.open_set(session).await;
        let sql = format!("SELECT path, state FROM millhand.pending_changes WHERE change_set_id = {set} ORDER BY id");
        self.sql(&sql).await.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    fn worktree(&self, session: i64) -> PathBuf {
        self.applier.worktrees.home.worktree(1, session)
    }

    /// The real program, on this database and home.
    fn program(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(program());
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.root.join("user"))
            .env("USER", "ada")
            .env("MILLHAND_HOME", self.root.join("home"))
            .env("DATABASE_URL", self.db.url())
            .current_dir(&self.root)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

/// What a host applies with.
fn applier(store: &Store, git: Git, home: Home, host: &str) -> Applier {
    let timings = Timings { apply_lock: Duration::from_millis(300), ..Timings::default() };
    let worktrees = Worktrees {
        store: store.clone(),
        git: git.clone(),
        home,
        host_id: host.to_owned(),
        settings: WorktreeSettings { pool: 0, quota: None },
        timings,
    };
    Applier {
        store: store.clone(),
        git,
        worktrees,
        host_id: host.to_owned(),
        settings: ApplySettings::default(),
        timings,
    }
}

fn request() -> ApplyRequest {
    ApplyRequest { who: "ada".to_owned(), ..ApplyRequest::default() }
}

fn only(paths: &[&str]) -> ApplyRequest {
    ApplyRequest { only: paths.iter().map(|path| (*path).to_owned()).collect(), ..request() }
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("parent")).expect("folder");
    fs::write(path, text).expect("write");
}

/// What an agent does: a change, an addition, a deletion, a move.
fn work(path: &Path) {
    write(path, "README.md", "# acme\none\ntwo\nthree\nfour\nfive\nSIX\n");
    write(path, "new/file.txt", "new\n");
    fs::remove_file(path.join("docs/c.md")).expect("remove");
    fs::rename(path.join("src/b.txt"), path.join("src/moved.txt")).expect("rename");
}

/// All files below a folder, git's own aside.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("folder").flatten() {
            let path = entry.path();
            if path.file_name().is_some_and(|name| name == ".git") {
                continue;
            }
            if entry.file_type().expect("type").is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}
