//! The servers of agents: shown while they run, with what is on them, and not when they have ended.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::Rig;
use crate::support::{wait_until, world::stop};

const SHORT: &str = r#"[{"type": "text", "content": "Short."}, {"type": "done"}]"#;
const STALLS: &str = r#"[{"type": "text", "content": "I think."}, {"type": "stall"}]"#;
/// How long a change may take to be told.
const WITHIN: Duration = Duration::from_secs(60);

impl Rig {
    async fn servers(&self) -> Vec<Value> {
        let found = self.get("/api/servers").await.unwrap_or_default();
        found["items"].as_array().cloned().unwrap_or_default()
    }

    async fn until_servers(&self, what: &str, holds: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
        wait_until(what, WITHIN, async || holds(&self.servers().await)).await?;
        Ok(self.servers().await)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_shown_with_what_is_on_it_and_not_when_it_has_ended() -> Result<()> {
    let mut rig = Rig::new(&[("short", SHORT), ("stalls", STALLS)]).await?;
    rig.world.settings.timings.tell = Duration::from_millis(50);
    assert_eq!(rig.servers().await, Vec::<Value>::new());
    let worker = rig.world.start().await?;
    let task = rig.world.queue("do it").await?;
    assert_eq!(rig.world.settled(task).await?, "completed");
    let running = rig.world.queue_for("stalls", "think").await?;
    let busy = |servers: &[Value]| matches!(servers, [one] if one["turns"] == 1 && one["worktrees"] == 2);
    let [server] = <[Value; 1]>::try_from(rig.until_servers("a turn runs on it", busy).await?).expect("one");
    assert_eq!((&server["agent"], &server["project"]), (&"opencode".into(), &"acme".into()), "{server}");
    assert!(server["resident_bytes"].as_i64().is_some_and(|bytes| bytes > 10_000_000), "{server}");
    assert_eq!(server["is_leaving"], false);
    let workers = rig.get("/api/workers").await?;
    assert_eq!(server["worker_id"], workers["items"][0]["id"]);
    rig.world.sql(&format!("SELECT millhand.cancel_task({running})")).await?;
    rig.until_servers("its turn is over", |servers| matches!(servers, [one] if one["turns"] == 0)).await?;

    // One that died is none, and the next one is another.
    let pid = i32::try_from(server["pid"].as_i64().context("pid")?)?;
    kill_process(Pid::from_raw(pid).context("pid")?, Signal::KILL)?;
    rig.until_servers("the dead one is gone", <[Value]>::is_empty).await?;
    let task = rig.world.queue("do it again").await?;
    assert_eq!(rig.world.settled(task).await?, "completed");
    rig.until_servers("there is another", |servers| matches!(servers, [one] if one["pid"] != pid)).await?;
    stop(worker).await;
    assert_eq!(rig.servers().await, Vec::<Value>::new(), "a worker that stopped has none");
    Ok(())
}
