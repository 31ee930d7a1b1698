//! A worker that is killed between what it writes to the database: while its server starts, the model answers, a tool runs or nothing does
//! any more, while the work is kept and measured, and while a worktree goes. The next one finishes, and one result is recorded.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use millhand::{config::host_id, supervise::find_family};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use super::kills::recorded_once;
use crate::support::{
    wait_until, worker,
    world::{TURN_WITHIN, World, git},
};

/// Files of a turn: so many that keeping and measuring them takes a while.
const FILES: usize = 600;
/// The tool waits to be let go. It is called twice: one that a kill cut off is not called again by a scripted model, as a real one would.
const WORK: &str = r#"{"chunk_delay_ms": 40, "steps": [
  {"type": "text", "content": "I work, and I say so in a sentence of more than a few words, so that it takes a while."},
  {"type": "tool_call", "id": "b", "name": "bash", "arguments": {"command": "i=0; while [ $i -lt 600 ]; do i=$((i+1)); echo {{prompt}} >f$i; done; touch begun; while [ ! -e ../{{prompt}} ]; do sleep 0.05; done; rm begun", "description": "Work"}},
  {"type": "text", "content": "Once more."},
  {"type": "tool_call", "id": "c", "name": "bash", "arguments": {"command": "i=0; while [ $i -lt 600 ]; do i=$((i+1)); echo {{prompt}} >f$i; done; touch begun; while [ ! -e ../{{prompt}} ]; do sleep 0.05; done; rm begun", "description": "Work"}},
  {"type": "usage", "input": 100, "output": 10},
  {"type": "text", "content": "Done."},
  {"type": "usage", "input": 200, "output": 20},
  {"type": "done"}
]}"#;
/// Worktrees go soon; a stopped worker's turns live longer than a step takes.
const VARIABLES: [(&str, &str); 4] = [
    ("MILLHAND_TIMINGS_LEASE", "20s"),
    ("MILLHAND_TIMINGS_REAP", "500ms"),
    ("MILLHAND_TIMINGS_REAP_GRACE", "0s"),
    ("MILLHAND_WORKTREES_POOL", "0"),
];

/// When the worker is killed; on a machine that is slow to tell, a little later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    ServerStart,
    Stream,
    Tool,
    /// Nobody sees how the turn ends.
    Idle,
    Checkpoint,
    Diff,
    Cleanup,
}

const STEPS: [Step; 7] =
    [Step::ServerStart, Step::Stream, Step::Tool, Step::Idle, Step::Checkpoint, Step::Diff, Step::Cleanup];

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_while_a_step_of_a_turn_runs_leaves_one_result() -> Result<()> {
    killed_within_each_step(("MILLHAND_AGENT_OPENCODE_ADOPT", "true")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_while_a_step_of_a_turn_runs_leaves_one_result_where_nothing_is_adopted() -> Result<()> {
    killed_within_each_step(("MILLHAND_AGENT_OPENCODE_ADOPT", "false")).await
}

async fn killed_within_each_step(adopt: (&'static str, &'static str)) -> Result<()> {
    let world = World::new(&[("work", WORK)]).await?;
    let mut variables = VARIABLES.to_vec();
    variables.push(adopt);
    let worker = worker::start(&world, &variables)?;
    let scope = host_id(&world.settings.home)?;
    let mut ground = Ground { world, scope, variables, worker };
    for step in STEPS {
        ground.kill_within(step).await.with_context(|| format!("{step:?}\n{}", worker::log(&ground.world)))?;
    }
    ground.stop().await
}

struct Ground {
    world: World,
    scope: String,
    variables: Vec<(&'static str, &'static str)>,
    worker: Child,
}

impl Ground {
    async fn kill_within(&mut self, step: Step) -> Result<()> {
        let prompt = format!("p{step:?}");
        let asked = self.world.model.requests().len();
        let task = self.world.queue(&prompt).await?;
        let session: i64 = self.world.one(&format!("SELECT session_id FROM millhand.tasks WHERE id = {task}")).await?;
        let worktree = self.world.settings.home.worktree(1, session);
        let go = worktree.with_file_name(&prompt);
        self.reach(step, task, session, asked, &go).await?;
        self.worker.kill().await?;
        if step != Step::Cleanup {
            fs::create_dir_all(go.parent().context("parent")?)?;
            fs::write(&go, "")?;
        }
        self.worker = worker::start(&self.world, &self.variables)?;
        let state = self.world.settled(task).await?;
        ensure!(state == "completed", "{:?}", self.world.verdict(task).await?);
        recorded_once(&self.world, task).await?;
        self.assert_whole(task, &prompt).await?;
        self.world.sql(&format!("UPDATE millhand.sessions SET state = 'closed' WHERE id = {session}")).await?;
        let trashed =
            format!("SELECT count(*) FROM millhand.worktrees WHERE session_id = {session} AND state = 'trashed'");
        wait_until("its worktree goes", TURN_WITHIN, async || self.counts(&trashed, 1).await).await?;
        ensure!(!worktree.exists(), "its folder is still there");
        Ok(())
    }

    /// Waits until the worker is within a step.
    async fn reach(&mut self, step: Step, task: i64, session: i64, asked: usize, go: &PathBuf) -> Result<()> {
        let begun = self.world.settings.home.worktree(1, session).join("begun");
        let mirror = self.world.settings.home.mirror(1);
        let streams = async || {
            let requests = self.world.model.requests();
            requests.len() > asked && requests.last().is_some_and(|last| last.last_byte.is_some() && !last.complete)
        };
        match step {
            Step::ServerStart => {
                wait_until("its server starts", TURN_WITHIN, async || !self.servers().is_empty()).await?;
                return Ok(());
            }
            Step::Stream => return wait_until("the model answers", TURN_WITHIN, streams).await,
            _ => wait_until("the tool runs", TURN_WITHIN, async || begun.exists()).await?,
        }
        match step {
            Step::ServerStart | Step::Stream | Step::Tool => {}
            Step::Idle => {
                self.signal(Signal::STOP)?;
                fs::write(go, "")?;
                let answered = async || {
                    let requests = self.world.model.requests();
                    requests.len() == asked + 3 && requests[asked..].iter().all(|request| request.complete)
                };
                wait_until("the turn ends", TURN_WITHIN, answered).await?;
            }
            Step::Checkpoint => {
                let before = objects(&mirror);
                fs::write(go, "")?;
                wait_until("the work is being kept", TURN_WITHIN, async || objects(&mirror) > before).await?;
            }
            Step::Diff => {
                fs::write(go, "")?;
                let kept = mirror.join(format!("refs/millhand/sessions/{session}/{task}"));
                wait_until("the work is kept", TURN_WITHIN, async || kept.exists()).await?;
            }
            Step::Cleanup => {
                fs::write(go, "")?;
                ensure!(self.world.settled(task).await? == "completed", "{:?}", self.world.verdict(task).await?);
                self.world.sql(&format!("UPDATE millhand.sessions SET state = 'closed' WHERE id = {session}")).await?;
                let going = format!(
                    "SELECT count(*) FROM millhand.worktrees WHERE session_id = {session} AND state <> 'ready'"
                );
                wait_until("its worktree goes", TURN_WITHIN, async || self.counts(&going, 1).await).await?;
            }
        }
        Ok(())
    }

    /// All files of a turn are in its change set, as they were written.
    async fn assert_whole(&self, task: i64, prompt: &str) -> Result<()> {
        let row = &self
            .world
            .sql(&format!(
                "SELECT s.commit_id, s.tree_id, (SELECT count(*) FROM millhand.pending_changes p WHERE p.change_set_id = s.id) \
                 FROM millhand.change_sets s WHERE s.task_id = {task} AND s.state = 'open'"
            ))
            .await?[0];
        ensure!(row.get::<_, i64>(2) == FILES as i64, "{} changes", row.get::<_, i64>(2));
        let mirror = self.world.settings.home.mirror(1);
        let (commit, tree): (String, String) = (row.get(0), row.get(1));
        ensure!(git(&mirror, &["rev-parse", &format!("{commit}^{{tree}}")])? == tree);
        let same = git(&mirror, &["grep", "-c", &format!("^{prompt}$"), &commit])?;
        ensure!(same.lines().count() == FILES, "{} files as they were written", same.lines().count());
        Ok(())
    }

    async fn counts(&self, sql: &str, wanted: i64) -> bool {
        self.world.one::<i64>(sql).await.is_ok_and(|count| count >= wanted)
    }

    /// The project's servers. There may be one besides, by which a worker finds out what there is.
    fn servers(&self) -> Vec<u32> {
        let agents = self.world.settings.home.agent_folder(1);
        let serves =
            |pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| folder.starts_with(&agents));
        worker::servers(&self.scope).into_iter().filter(serves).collect()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid =
            self.worker.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).context("the worker ended")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Stops the last worker in order; nothing is left of any.
    async fn stop(mut self) -> Result<()> {
        let started = async || worker::log(&self.world).matches("worker started").count() > STEPS.len();
        wait_until("the last worker runs", TURN_WITHIN, started).await?;
        self.signal(Signal::TERM)?;
        ensure!(
            tokio::time::timeout(TURN_WITHIN, self.worker.wait()).await??.success(),
            "{}",
            worker::log(&self.world)
        );
        wait_until("nothing is left", Duration::from_secs(10), async || find_family(&self.scope).is_empty()).await
    }
}

/// Folders of loose objects, and objects in them.
fn objects(mirror: &std::path::Path) -> usize {
    let folders = fs::read_dir(mirror.join("objects")).into_iter().flatten().flatten();
    folders.map(|folder| fs::read_dir(folder.path()).map_or(0, Iterator::count)).sum()
}
