//! A worker that is killed and started again in time: its server and its turns go on, and nothing is paid twice.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use millhand::{config::host_id, supervise::find_family};
use tokio::process::Child;

use crate::support::{
    wait_until, worker,
    world::{TURN_WITHIN, World},
};

/// One model call, several seconds long.
const LONG_TEXT: &str = r#"{"chunk_delay_ms": 1000, "steps": [
  {"type": "text", "content": "One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty, and that is the end of it, at last, after all these many words."},
  {"type": "usage", "input": 100, "output": 10},
  {"type": "done"},
  {"type": "text", "content": "Again."},
  {"type": "done"}
]}"#;
/// A tool that waits for a file, in the first of two model calls.
const WAITS: &str = r#"[
  {"type": "text", "content": "I wait."},
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "touch begun; while [ ! -e go ]; do sleep 0.1; done; echo went >ended", "description": "Wait"}},
  {"type": "usage", "input": 100, "output": 10},
  {"type": "text", "content": "It is done."},
  {"type": "usage", "input": 200, "output": 20},
  {"type": "done"}
]"#;
const FINE: &str = r#"[{"type": "text", "content": "Fine."}, {"type": "done"}, {"type": "text", "content": "Again."}, {"type": "done"},
  {"type": "text", "content": "And again."}, {"type": "done"}, {"type": "text", "content": "Once more."}, {"type": "done"}]"#;
/// Enough for a busy machine to start a worker in.
const LEASE: (&str, &str) = ("MILLHAND_TIMINGS_LEASE", "20s");
/// Short, where it has to pass.
const SHORT_LEASE: (&str, &str) = ("MILLHAND_TIMINGS_LEASE", "5s");

/// A world whose worker can be killed.
struct Ground {
    world: World,
    scope: String,
    variables: Vec<(&'static str, &'static str)>,
    worker: Child,
}

impl Ground {
    async fn new(script: (&str, &str), variables: &[(&'static str, &'static str)]) -> Result<Self> {
        Self::of(World::new(&[script]).await?, variables)
    }

    fn of(world: World, variables: &[(&'static str, &'static str)]) -> Result<Self> {
        let worker = worker::start(&world, variables)?;
        let scope = host_id(&world.settings.home)?;
        Ok(Self { world, scope, variables: variables.to_vec(), worker })
    }

    fn worktree(&self) -> PathBuf {
        self.world.settings.home.worktree(1, 1)
    }

    async fn kill(&mut self) -> Result<Instant> {
        self.worker.kill().await?;
        Ok(Instant::now())
    }

    fn start_again(&mut self) -> Result<()> {
        self.worker = worker::start(&self.world, &self.variables)?;
        Ok(())
    }

    /// The project's servers. There may be one besides, by which a worker finds out what there is.
    fn servers(&self) -> Vec<u32> {
        let agents = self.world.settings.home.agent_folder(1);
        let serves_project =
            |pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| folder.starts_with(&agents));
        worker::servers(&self.scope).into_iter().filter(serves_project).collect()
    }

    /// The one server.
    async fn server(&self) -> Result<u32> {
        wait_until("one server runs", TURN_WITHIN, async || self.servers().len() == 1).await?;
        self.servers().pop().context("a server")
    }

    async fn logged(&self, words: &str, times: usize) -> Result<()> {
        let what = format!("logged {times} times: {words}");
        let logged = wait_until(&what, TURN_WITHIN, async || worker::log(&self.world).matches(words).count() >= times);
        logged.await.with_context(|| worker::log(&self.world))
    }

    async fn counts(&self, sql: &str, wanted: i64) -> Result<()> {
        wait_until(sql, TURN_WITHIN, async || self.world.one::<i64>(sql).await.is_ok_and(|n| n >= wanted)).await
    }

    async fn all_gone(&self, within: Duration) -> Result<()> {
        wait_until("no process is left", within, async || find_family(&self.scope).is_empty()).await
    }

    /// Tells the worker to stop, after which nothing may be left.
    async fn stop(mut self) -> Result<()> {
        let pid = self.worker.id().context("its process id")?;
        let status = std::process::Command::new("kill").args(["-TERM", &pid.to_string()]).status()?;
        ensure!(status.success());
        let status = tokio::time::timeout(TURN_WITHIN, self.worker.wait()).await??;
        ensure!(status.success(), "{status}: {}", worker::log(&self.world));
        let left = find_family(&self.scope);
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(())
    }
}

const FOLLOWED: &str = "SELECT count(*) FROM millhand.turn_events e JOIN millhand.attempts a ON a.id = e.attempt_id \
                        WHERE a.number = 2 AND e.data->>'message' LIKE 'following a turn%'";

/// Kills the worker at a moment, starts it again, and lets the turn end. Exactly as many model calls, one result, the same server.
async fn goes_on_after(script: (&str, &str), moment: &str, calls: usize, summary: &str) -> Result<()> {
    let mut ground = Ground::new(script, &[LEASE]).await?;
    let task = ground.world.queue("x").await?;
    ground.counts(moment, 1).await.with_context(|| worker::log(&ground.world))?;
    let server = ground.server().await?;
    let killed = ground.kill().await?;
    ground.start_again()?;
    ground.counts(FOLLOWED, 1).await.with_context(|| worker::log(&ground.world))?;
    let passed = killed.elapsed();
    println!("worker killed → its turn is followed again: {} ms", passed.as_millis());
    ensure!(passed < Duration::from_secs(20), "{passed:?}");
    fs::write(ground.worktree().join("go"), "")?;
    let verdict = (ground.world.settled(task).await?, ground.world.verdict(task).await?);
    ensure!(verdict.0 == "completed", "{verdict:?}: {}", worker::log(&ground.world));
    ensure!(ground.server().await? == server, "{}", worker::log(&ground.world));

    assert_eq!(ground.world.model.requests().len(), calls, "model calls");
    let row =
        &ground.world.sql("SELECT attempts, infra_losses, last_attempt, output_summary FROM millhand.tasks").await?[0];
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1), row.get::<_, i32>(2)), (1, 1, 2));
    assert!(row.get::<_, &str>(3).ends_with(summary), "{}", row.get::<_, &str>(3));
    let outcomes: String =
        ground.world.one("SELECT string_agg(outcome, ' ' ORDER BY number) FROM millhand.attempts").await?;
    assert_eq!(outcomes, "lost completed");
    assert_eq!(ground.world.one::<i64>("SELECT count(DISTINCT agent_session) FROM millhand.attempts").await?, 1);
    let billed = ground.world.model.billed().total();
    let recorded: i64 = ground
        .world
        .one("SELECT sum(input_tokens + output_tokens + reasoning_tokens + cache_read_tokens)::bigint FROM millhand.usage")
        .await?;
    assert_eq!(u64::try_from(recorded)?, billed, "every token is recorded once");
    ground.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_goes_on_whose_worker_was_killed_while_the_model_answered() -> Result<()> {
    let streams = "SELECT count(*) FROM millhand.turn_events WHERE kind = 'text_delta'";
    goes_on_after(("long", LONG_TEXT), streams, 1, "many words.").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_goes_on_whose_worker_was_killed_while_a_tool_ran() -> Result<()> {
    let runs = "SELECT count(*) FROM millhand.turn_events WHERE kind = 'tool' AND data->'call'->>'status' = 'running'";
    goes_on_after(("waits", WAITS), runs, 2, "It is done.").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_ended_without_a_worker_is_recorded_by_the_next() -> Result<()> {
    let mut ground = Ground::new(("waits", WAITS), &[LEASE]).await?;
    let task = ground.world.queue("x").await?;
    wait_until("the tool runs", TURN_WITHIN, async || ground.worktree().join("begun").exists()).await?;
    let server = ground.server().await?;
    ground.kill().await?;
    fs::write(ground.worktree().join("go"), "")?;
    wait_until("the second call is made", TURN_WITHIN, async || ground.world.model.requests().len() == 2).await?;
    ground.start_again()?;
    assert_eq!(ground.world.settled(task).await?, "completed", "{:?}", ground.world.verdict(task).await?);
    assert_eq!((ground.server().await?, ground.world.model.requests().len()), (server, 2));
    let paths: String =
        ground.world.one("SELECT string_agg(path, ' ' ORDER BY path) FROM millhand.pending_changes").await?;
    assert_eq!(paths, "begun ended go");
    ground.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_is_adopted_three_times_and_then_ended() -> Result<()> {
    let mut ground = Ground::new(("fine", FINE), &[LEASE]).await?;
    let first = ground.world.queue("x").await?;
    assert_eq!(ground.world.settled(first).await?, "completed");
    let server = ground.server().await?;
    for times in 1..=3 {
        ground.kill().await?;
        ground.start_again()?;
        ground.logged("adopted opencode's server", times).await?;
        assert_eq!(ground.servers(), [server]);
    }
    let queued = Instant::now();
    let sql = "INSERT INTO millhand.tasks (session_id, prompt) VALUES (1, 'and more') RETURNING id";
    let second = ground.world.one::<i64>(sql).await?;
    assert_eq!(ground.world.settled(second).await?, "completed");
    println!("a turn on an adopted server: {} ms", queued.elapsed().as_millis());
    assert_eq!(ground.servers(), [server], "the turn was a warm one");
    assert_eq!(ground.world.one::<i64>("SELECT count(DISTINCT agent_session) FROM millhand.attempts").await?, 1);

    ground.kill().await?;
    ground.start_again()?;
    ground.logged("adopted too often", 1).await?;
    wait_until("it is ended", TURN_WITHIN, async || ground.servers().is_empty()).await?;
    let third = ground.world.one::<i64>(sql).await?;
    assert_eq!(ground.world.settled(third).await?, "completed");
    assert_ne!(ground.server().await?, server);
    ground.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_server_that_dies_costs_no_more_than_one_of_our_own() -> Result<()> {
    let mut ground = Ground::new(("waits", WAITS), &[LEASE]).await?;
    let task = ground.world.queue("x").await?;
    wait_until("the tool runs", TURN_WITHIN, async || ground.worktree().join("begun").exists()).await?;
    ground.kill().await?;
    ground.start_again()?;
    ground.counts(FOLLOWED, 1).await.with_context(|| worker::log(&ground.world))?;
    let server = ground.server().await?;
    fs::write(ground.worktree().join("go"), "")?;
    std::process::Command::new("kill").args(["-KILL", &server.to_string()]).status()?;
    assert_eq!(ground.world.settled(task).await?, "completed", "{:?}", ground.world.verdict(task).await?);
    assert_ne!(ground.server().await?, server);
    ground.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_next_worker_turns_end_at_their_deadline_and_idle_servers_after_a_grace() -> Result<()> {
    let mut ground = Ground::new(("waits", WAITS), &[SHORT_LEASE]).await?;
    let task = ground.world.queue("x").await?;
    wait_until("the tool runs", TURN_WITHIN, async || ground.worktree().join("begun").exists()).await?;
    ensure!(find_family(&ground.scope).len() >= 2, "its server, and its tool");
    ground.kill().await?;
    ground.all_gone(Duration::from_secs(10)).await?;
    // Too late, but not lost: by its ids it goes on, on a new server.
    ground.start_again()?;
    fs::write(ground.worktree().join("go"), "")?;
    assert_eq!(ground.world.settled(task).await?, "completed", "{:?}", ground.world.verdict(task).await?);
    ground.stop().await?;

    let mut ground = Ground::new(("fine", FINE), &[LEASE, ("MILLHAND_TIMINGS_ADOPT_GRACE", "4s")]).await?;
    let task = ground.world.queue("x").await?;
    assert_eq!(ground.world.settled(task).await?, "completed");
    let server = ground.server().await?;
    let killed = ground.kill().await?;
    wait_until("it ends", Duration::from_secs(20), async || ground.servers().is_empty()).await?;
    ensure!(killed.elapsed() > Duration::from_secs(2), "{:?}: process {server} has a grace", killed.elapsed());
    ground.all_gone(Duration::from_secs(10)).await?;
    let doors = async || {
        let left = fs::read_dir(ground.world.settings.home.shims()).into_iter().flatten().flatten();
        left.map(|entry| entry.file_name()).eq(["key"])
    };
    wait_until("its door is closed", Duration::from_secs(10), doors).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_nobody_comes_for_is_aborted_and_its_server_stays() -> Result<()> {
    let mut ground = Ground::new(("waits", WAITS), &[SHORT_LEASE]).await?;
    let task = ground.world.queue("x").await?;
    wait_until("the tool runs", TURN_WITHIN, async || ground.worktree().join("begun").exists()).await?;
    ground.kill().await?;
    ground.world.sql(&format!("SELECT millhand.cancel_task({task})")).await?;
    ground.start_again()?;
    assert_eq!(ground.world.settled(task).await?, "cancelled");
    ground.logged("nobody came for a turn", 1).await?;
    wait_until("its tool is gone", TURN_WITHIN, async || {
        !find_family(&ground.scope).iter().any(|pid| {
            fs::read(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.starts_with(b"sh") || name.starts_with(b"bash") || name.starts_with(b"sleep"))
        })
    })
    .await?;
    assert_eq!(ground.world.model.requests().len(), 1, "nothing more is paid for");
    ground.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_prompt_of_a_chat_does_not_wait_for_a_turn_that_was_cancelled_meanwhile() -> Result<()> {
    let world = World::new(&[("waits", WAITS), ("fine", FINE)]).await?;
    let mut ground = Ground::of(world, &[LEASE])?;
    let task = ground.world.queue("x").await?;
    wait_until("the tool runs", TURN_WITHIN, async || ground.worktree().join("begun").exists()).await?;
    let server = ground.server().await?;
    let sql =
        "INSERT INTO millhand.tasks (session_id, prompt, model) VALUES (1, 'and more', 'scripted/fine') RETURNING id";
    let next = ground.world.one::<i64>(sql).await?;
    ground.kill().await?;
    ground.world.sql(&format!("SELECT millhand.cancel_task({task})")).await?;
    ground.start_again()?;
    assert_eq!(ground.world.settled(next).await?, "completed", "{:?}", ground.world.verdict(next).await?);
    assert_eq!(ground.world.state(task).await?, "cancelled");
    assert_eq!(ground.servers(), [server]);
    assert!(!ground.worktree().join("ended").exists(), "what was cancelled has not gone on");
    assert_eq!(ground.world.model.requests().len(), 2);
    ground.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_would_be_started_otherwise_now_is_not_kept() -> Result<()> {
    for (name, value) in
        [("LANG", "de_DE.UTF-8"), ("MILLHAND_SANDBOX_READ", "/srv:/mnt"), ("MILLHAND_AGENT_OPENCODE_LSP", "true")]
    {
        let mut ground = Ground::new(("fine", FINE), &[LEASE]).await?;
        let task = ground.world.queue("x").await?;
        assert_eq!(ground.world.settled(task).await?, "completed");
        let server = ground.server().await?;
        ground.kill().await?;
        ground.variables.push((name, value));
        ground.start_again()?;
        ground.logged("adopted opencode's server", 1).await?;
        let again = ground.world.queue("x").await?;
        assert_eq!(ground.world.settled(again).await?, "completed");
        assert_ne!(ground.server().await?, server, "{name}");
        ground.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_well_is_not_kept_and_its_turn_goes_on_on_the_next() -> Result<()> {
    let mut ground = Ground::new(("waits", WAITS), &[LEASE]).await?;
    let task = ground.world.queue("x").await?;
    wait_until("the tool runs", TURN_WITHIN, async || ground.worktree().join("begun").exists()).await?;
    let server = ground.server().await?;
    std::process::Command::new("kill").args(["-STOP", &server.to_string()]).status()?;
    ground.kill().await?;
    fs::write(ground.worktree().join("go"), "")?;
    ground.start_again()?;
    assert_eq!(ground.world.settled(task).await?, "completed", "{:?}", ground.world.verdict(task).await?);
    ensure!(worker::log(&ground.world).contains("is not well"), "{}", worker::log(&ground.world));
    assert_ne!(ground.server().await?, server);
    ground.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn several_turns_of_one_server_all_go_on() -> Result<()> {
    let mut ground = Ground::new(("waits", WAITS), &[LEASE]).await?;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        tasks.push(ground.world.queue("x").await?);
    }
    let home = ground.world.settings.home.clone();
    let worktrees = || (1..=4).map(|session| home.worktree(1, session));
    wait_until("all tools run", TURN_WITHIN, async || worktrees().all(|tree| tree.join("begun").exists())).await?;
    let server = ground.server().await?;
    ground.kill().await?;
    ground.start_again()?;
    ground.counts(FOLLOWED, 4).await.with_context(|| worker::log(&ground.world))?;
    for worktree in worktrees() {
        fs::write(worktree.join("go"), "")?;
    }
    for task in tasks {
        assert_eq!(ground.world.settled(task).await?, "completed", "{:?}", ground.world.verdict(task).await?);
    }
    assert_eq!((ground.server().await?, ground.world.model.requests().len()), (server, 8));
    ground.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_a_worker_that_is_gone_or_never_got_to_work_leaves_nothing_behind() -> Result<()> {
    let mut ground = Ground::new(("fine", FINE), &[LEASE]).await?;
    for how in ["down", "a worker that waits for its database"] {
        let task = ground.world.queue("x").await?;
        assert_eq!(ground.world.settled(task).await?, "completed");
        ground.server().await?;
        ground.kill().await?;
        ensure!(!find_family(&ground.scope).is_empty(), "its server waits for the next worker");
        let mut command = if how == "down" {
            worker::command(&ground.world, "down", &[])?
        } else {
            worker::command(
                &ground.world,
                "worker",
                &[("MILLHAND_DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")],
            )?
        };
        let mut stopping = command.spawn()?;
        if how != "down" {
            ground.logged("waiting for it", 1).await?;
            let pid = stopping.id().context("its process id")?;
            std::process::Command::new("kill").args(["-TERM", &pid.to_string()]).status()?;
        }
        let status = tokio::time::timeout(TURN_WITHIN, stopping.wait()).await??;
        ensure!(status.success(), "{how}: {status}: {}", worker::log(&ground.world));
        let left = find_family(&ground.scope);
        ensure!(left.is_empty(), "{how}: {left:?}");
        if how == "down" {
            ground.start_again()?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_adoption_is_off_servers_end_with_their_worker() -> Result<()> {
    let mut ground = Ground::new(("fine", FINE), &[LEASE, ("MILLHAND_AGENT_OPENCODE_ADOPT", "false")]).await?;
    let task = ground.world.queue("x").await?;
    assert_eq!(ground.world.settled(task).await?, "completed");
    ground.kill().await?;
    ground.all_gone(Duration::from_secs(20)).await
}

/// A first turn, and a second one that does as a file says which the test has put there.
const OBEYS: &str = r#"[{"type": "text", "content": "Fine."}, {"type": "done"},
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "node knock.js", "description": "Knock"}},
  {"type": "text", "content": "I knocked."}, {"type": "done"}]"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_knows_the_door_gets_nothing_without_the_key() -> Result<()> {
    let ground = Ground::new(("obeys", OBEYS), &[LEASE]).await?;
    let first = ground.world.queue("x").await?;
    assert_eq!(ground.world.settled(first).await?, "completed");
    let shims = ground.world.settings.home.shims().canonicalize()?;
    let doors: Vec<_> = fs::read_dir(&shims)?.flatten().map(|entry| entry.path()).collect();
    let socket = doors.iter().find(|path| !path.ends_with("key")).context("a door")?;
    let script = format!(
        r#"const fs = require("fs"), said = [];
        for (const what of ["{shims}", "{shims}/key", "{socket}"]) {{
          try {{ fs.statSync(what).isDirectory() ? fs.readdirSync(what) : fs.readFileSync(what); said.push("read " + what) }} catch {{}}
        }}
        const door = require("net").connect("{socket}", () => {{
          said.push("connected");
          door.write(JSON.stringify({{protocol: 1, key: "{wrong}"}}) + "\n" + JSON.stringify({{stop: {{grace_ms: 0}}}}) + "\n");
        }});
        door.on("data", data => said.push("heard " + data)).on("error", () => {{}});
        door.on("close", () => fs.writeFileSync("said", said.join("\n") + "\nclosed\n"));"#,
        shims = shims.display(),
        socket = socket.display(),
        wrong = "0".repeat(64),
    );
    fs::write(ground.worktree().join("knock.js"), script)?;
    let server = ground.server().await?;
    let sql = "INSERT INTO millhand.tasks (session_id, prompt) VALUES (1, 'and more') RETURNING id";
    let second = ground.world.one::<i64>(sql).await?;
    assert_eq!(ground.world.settled(second).await?, "completed");
    // Landlock lets it connect; the key is what keeps it out.
    assert_eq!(fs::read_to_string(ground.worktree().join("said"))?, "connected\nclosed\n");
    assert_eq!(ground.servers(), [server], "it lives");
    ground.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_password_is_in_no_file_and_in_no_arguments_and_nobody_is_let_in_without_it() -> Result<()> {
    let mut ground = Ground::new(("fine", FINE), &[LEASE]).await?;
    for round in 0..2 {
        let task = ground.world.queue("x").await?;
        assert_eq!(ground.world.settled(task).await?, "completed");
        let server = ground.server().await?;
        let environment = fs::read(format!("/proc/{server}/environ"))?;
        let password = environment
            .split(|byte| *byte == 0)
            .find_map(|entry| entry.strip_prefix(b"OPENCODE_SERVER_PASSWORD="))
            .context("the password")?;
        ensure!(password.len() == 64);
        let has = |bytes: &[u8]| bytes.windows(password.len()).any(|window| window == password);
        let mut folders = vec![ground.world.path().to_owned()];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)?.flatten() {
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    files += 1;
                    ensure!(!has(&fs::read(entry.path()).unwrap_or_default()), "{}", entry.path().display());
                }
            }
        }
        ensure!(files > 20 && worker::log(&ground.world).contains("opencode"), "{files} files");
        for process in fs::read_dir("/proc")?.flatten() {
            ensure!(!has(&fs::read(process.path().join("cmdline")).unwrap_or_default()), "{process:?}");
        }
        let line = fs::read_to_string(format!("/proc/{server}/cmdline"))?;
        let port = line.split('\0').skip_while(|word| *word != "--port").nth(1).context("its port")?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let password = std::str::from_utf8(password)?;
        for (shown, expected) in [(None, 401), (Some("wrong"), 401), (Some(password), 200)] {
            let request = http.get(format!("http://127.0.0.1:{port}/session"));
            let request = match shown {
                Some(shown) => request.basic_auth("opencode", Some(shown)),
                None => request,
            };
            assert_eq!(request.send().await?.status(), expected, "with {shown:?}");
        }
        if round == 0 {
            ground.kill().await?;
            ground.start_again()?;
            ground.logged("adopted opencode's server", 1).await?;
        }
    }
    ground.stop().await
}
