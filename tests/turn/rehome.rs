//! Several hosts: a session whose host is gone for good goes on on another one, with its work.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use millhand::{
    config::{Home, Settings, WorktreeSettings, host_id},
    git::Git,
    service::Host,
    supervise::find_family,
    worktrees::Worktrees,
};
use tokio::process::{Child, Command};

use crate::support::{
    millhand, wait_until, worker,
    world::{TURN_WITHIN, World, git, stop},
};

/// First it leaves odd files; where those are, it is slow and leaves more. The same for each turn of a conversation: on the next host the
/// second one is the first.
const WORKS: &str = r#"[
  {"type": "text", "content": "I begin."},
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "if [ -e odd.bin ]; then touch begun; sleep 2; echo second > second.txt; else printf 'a\\0b\\377' > odd.bin; echo 'echo hi' > run.sh; chmod +x run.sh; rm src/main.sh; fi", "description": "Write"}},
  {"type": "text", "content": "That part is done."},
  {"type": "done"},
  {"type": "text", "content": "I go on."},
  {"type": "tool_call", "id": "c2", "name": "bash", "arguments": {"command": "touch begun; sleep 2; echo second > second.txt", "description": "Write"}},
  {"type": "text", "content": "That part is done."},
  {"type": "done"}
]"#;
/// How long a host must be gone.
const AWAY: Duration = Duration::from_secs(3);

/// Serves the repositories of a folder by URL.
struct GitDaemon {
    port: u16,
    _process: Child,
}

impl GitDaemon {
    async fn start(folder: &Path) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        // The program itself: `git daemon` would be its parent, and leave it behind.
        let programs = git(folder, &["--exec-path"])?;
        let process = Command::new(Path::new(&programs).join("git-daemon"))
            .args(["--export-all", "--reuseaddr", "--listen=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", folder.display()))
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        wait_until("git serves", Duration::from_secs(20), async || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        })
        .await?;
        Ok(Self { port, _process: process })
    }
}

/// The settings of another home on the same database.
fn elsewhere(world: &World) -> Settings {
    let mut settings = world.settings.clone();
    settings.home = Home::new(world.path().join("elsewhere"));
    settings.timings.rehome = AWAY;
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_host_is_gone_for_good_goes_on_elsewhere_with_its_work_and_its_past() -> Result<()> {
    let mut world = World::new(&[("works", WORKS)]).await?;
    let daemon = GitDaemon::start(world.repository().parent().context("parent")?).await?;
    world.sql(&format!("UPDATE millhand.projects SET source = 'git://127.0.0.1:{}/acme/.git'", daemon.port)).await?;
    // What the operator wants in each new worktree is not among what was recorded: it is done anew.
    world.sql("UPDATE millhand.projects SET setup_command = 'touch $TMPDIR/set-up-$(basename $PWD)'").await?;
    let timings = [
        ("MILLHAND_TIMINGS_LEASE", "3s"),
        ("MILLHAND_TIMINGS_HEARTBEAT", "500ms"),
        ("MILLHAND_TIMINGS_RESCUE", "500ms"),
    ];
    let mut gone = worker::start(&world, &timings)?;
    let first = world.queue("Begin the work").await?;
    assert_eq!(world.settled(first).await?, "completed", "{:?}", world.verdict(first).await?);
    let before: String = world.one("SELECT tree_id FROM millhand.change_sets WHERE state = 'open'").await?;

    let second: i64 = world
        .one("INSERT INTO millhand.tasks (session_id, prompt) SELECT session_id, 'Go on' FROM millhand.tasks RETURNING id")
        .await?;
    let scope = host_id(&world.settings.home)?;
    let there = world.settings.home.worktree(1, 1).join("begun");
    wait_until("the second turn works", TURN_WITHIN, async || there.exists()).await?;
    // The whole machine: its worker, its servers, their shims.
    gone.kill().await?;
    for pid in find_family(&scope) {
        let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status().await?;
    }

    let other = Host::start(&elsewhere(&world), world.db.store()?, millhand().to_owned()).await?;
    assert_eq!(world.settled(second).await?, "completed", "{:?}", world.verdict(second).await?);
    for home in [&world.settings.home, &elsewhere(&world).home] {
        assert!(home.agent_folder(1).join("tmp/set-up-s1").exists(), "{}", home.root().display());
    }
    let hosts: Vec<String> = world
        .sql("SELECT host_id FROM millhand.attempts WHERE task_id = 2 ORDER BY number")
        .await?
        .iter()
        .map(|r| r.get(0))
        .collect();
    assert_eq!(hosts.first(), Some(&scope));
    assert_ne!(hosts.last(), Some(&scope), "the last attempt ran elsewhere: {hosts:?}");
    assert_eq!(world.one::<String>("SELECT home_host FROM millhand.sessions").await?, *hosts.last().context("host")?);

    // What the first turn left is there, byte for byte, with what the second one did.
    let changes: String = world
        .one(
            "SELECT string_agg(p.path || ' ' || p.kind, ', ' ORDER BY p.path) FROM millhand.pending_changes p \
              WHERE p.state = 'pending'",
        )
        .await?;
    assert_eq!(changes, "begun added, odd.bin added, run.sh added, second.txt added, src/main.sh deleted");
    let here = world.path().join("elsewhere");
    let worktree = elsewhere(&world).home.worktree(1, 1);
    assert_eq!(std::fs::read(worktree.join("odd.bin"))?, b"a\0b\xff");
    let mirror = elsewhere(&world).home.mirror(1);
    assert_eq!(git(&mirror, &["rev-parse", "refs/millhand/sessions/1/1^{tree}"])?, before, "{}", here.display());

    // The agent has no memory there, is told what was before, and the person sees that.
    let told = world.model.requests().into_iter().rev().find(|r| r.tools_offered).context("a request")?;
    ensure!(told.prompt.contains("Begin the work") && told.prompt.contains("That part is done."), "{told:?}");
    let warned: i64 = world
        .one(
            "SELECT count(*) FROM millhand.turn_events e JOIN millhand.attempts a ON a.id = e.attempt_id \
              WHERE a.task_id = 2 AND e.kind = 'warning' AND e.data->>'message' LIKE '%conversation anew%'",
        )
        .await?;
    assert_eq!(warned, 1);
    assert_eq!(world.one::<i64>("SELECT count(*) FROM millhand.audit_log WHERE action = 'rehome_session'").await?, 1);
    stop(other).await;

    // The host comes back: its worktree is nobody's now, what is in it is kept, and the session stays where it is.
    world.settings.timings.reap_grace = Duration::ZERO;
    world.settings.timings.reap = Duration::from_millis(200);
    let back = world.start().await?;
    wait_until("its old worktree is in the trash", TURN_WITHIN, async || {
        let sql = format!("SELECT state = 'trashed' AND unrecorded FROM millhand.worktrees WHERE host_id = '{scope}'");
        world.one::<bool>(&sql).await.unwrap_or(false)
    })
    .await?;
    assert_ne!(world.one::<String>("SELECT home_host FROM millhand.sessions").await?, scope);
    stop(back).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_moved_with_exactly_what_was_recorded_or_not_at_all() -> Result<()> {
    let world = World::new(&[("works", WORKS)]).await?;
    let host = world.start().await?;
    let first = world.queue("Begin the work").await?;
    assert_eq!(world.settled(first).await?, "completed", "{:?}", world.verdict(first).await?);
    stop(host).await;
    world.sql("INSERT INTO millhand.tasks (session_id, prompt) SELECT session_id, 'Go on' FROM millhand.tasks").await?;

    let settings = elsewhere(&world);
    let store = world.db.store()?;
    millhand::config::prepare_home(&settings.home)?;
    let worktrees = Worktrees {
        store: store.clone(),
        git: Git::new(None, settings.environment.0.clone().into_iter().collect(), settings.home.clone()).await?,
        home: settings.home.clone(),
        host_id: "elsewhere".to_owned(),
        settings: WorktreeSettings { pool: 0, quota: None },
        timings: settings.timings,
    };
    let away = async || {
        store.advance_and_list_lanes().await?;
        store.away_sessions("elsewhere", AWAY, &["opencode".to_owned()], &[], 10).await
    };
    ensure!(away().await?.is_empty(), "its host was heard of a moment ago");
    world
        .sql("UPDATE millhand.workers SET heartbeat_at = now() - interval '1 h', stopped_at = now() - interval '1 h'")
        .await?;
    let found = away().await?;
    let [session] = found.as_slice() else { anyhow::bail!("{found:?}") };
    // A person sees it, until somebody can take it.
    let shown = &world.sql("SELECT task_id, state, error_class, error_message FROM millhand.inbox").await?[0];
    assert_eq!((shown.get::<_, i64>(0), shown.get::<_, &str>(1), shown.get::<_, &str>(2)), (2, "pending", "host_gone"));
    ensure!(shown.get::<_, &str>(3).contains("start one there"), "{}", shown.get::<_, &str>(3));

    world.sql("UPDATE millhand.pending_changes SET patch = convert_to(replace(convert_from(patch, 'UTF8'), 'echo hi', 'echo ho'), 'UTF8') WHERE path = 'run.sh'").await?;
    let refused = worktrees.rehome(session).await.err().context("refused")?.to_string();
    ensure!(refused.contains("lead to tree"), "{refused}");
    assert_eq!(world.one::<String>("SELECT home_host FROM millhand.sessions").await?, session.home_host);

    world.sql("UPDATE millhand.pending_changes SET patch = convert_to(replace(convert_from(patch, 'UTF8'), 'echo ho', 'echo hi'), 'UTF8') WHERE path = 'run.sh'").await?;
    // Its host is back a moment before: then it is not moved.
    world.sql("UPDATE millhand.workers SET heartbeat_at = now(), stopped_at = NULL").await?;
    ensure!(!worktrees.rehome(session).await?, "moved although its host is back");
    world.sql("UPDATE millhand.workers SET heartbeat_at = now() - interval '1 h'").await?;
    ensure!(worktrees.rehome(session).await?, "not moved");
    ensure!(!worktrees.rehome(session).await?, "moved twice");
    let lane: String = world.one("SELECT lane FROM millhand.tasks WHERE state = 'pending'").await?;
    ensure!(lane.starts_with("elsewhere/"), "{lane}");

    // A project of one host only is never moved.
    world.sql("UPDATE millhand.projects SET host_id = 'gone'").await?;
    world.sql("UPDATE millhand.sessions SET home_host = 'gone'").await?;
    world.sql("UPDATE millhand.tasks SET lane = millhand.lane_of(session_id, agent) WHERE state = 'pending'").await?;
    ensure!(away().await?.is_empty());
    Ok(())
}
