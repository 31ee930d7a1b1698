//! More projects than servers fit on the machine.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::support::{
    wait_until,
    world::{TURN_WITHIN, World, make_repository, stop},
};

const WORKS: &str = r#"[
  {"type": "tool_call", "id": "c", "name": "bash", "arguments": {"command": "sleep 1; echo {{prompt}} > made.txt", "description": "Work"}},
  {"type": "text", "content": "{{prompt}}"}, {"type": "done"}
]"#;

#[tokio::test(flavor = "multi_thread")]
async fn three_projects_share_two_servers_and_none_starves() -> Result<()> {
    let mut world = World::new(&[("works", WORKS)]).await?;
    world.settings.worker.concurrency = Some(2);
    world.settings.opencode.max_servers = Some(2);
    world.settings.timings.server_patience = Duration::from_secs(3);
    for project in ["bolt", "crane"] {
        let path = world.path().canonicalize()?.join(project);
        make_repository(&path, &[("README.md", project)])?;
        world.sql(&format!("SELECT millhand.add_project('{project}', '{}')", path.display())).await?;
    }
    // Two projects with enough to keep both servers busy for long, and one that came last.
    world
        .sql(
            "INSERT INTO millhand.tasks (project, prompt) \
             SELECT p, 'n' || n FROM generate_series(1, 6) AS n, unnest(ARRAY['acme', 'bolt']) AS p ORDER BY n, p",
        )
        .await?;
    world
        .sql("INSERT INTO millhand.tasks (project, prompt) SELECT 'crane', 'n' || n FROM generate_series(1, 2) AS n")
        .await?;
    let host = world.start().await?;
    let mut most = 0;
    wait_until("all tasks are over", TURN_WITHIN * 3, async || {
        let pids = futures::future::join_all((1..=3).map(|project| host.backend().server_pid(project))).await;
        most = most.max(pids.into_iter().flatten().count());
        world
            .one::<i64>("SELECT count(*) FROM millhand.tasks WHERE state IN ('pending', 'waiting', 'running')")
            .await
            .is_ok_and(|open| open == 0)
    })
    .await?;
    ensure!(most == 2, "{most} servers at once");
    let bad = world.sql("SELECT t.id FROM millhand.tasks t WHERE state <> 'completed' OR last_attempt <> 1").await?;
    assert!(bad.is_empty(), "{} tasks were not done at the first attempt", bad.len());
    let overtaken: i64 = world
        .one(
            "SELECT count(*) FROM millhand.tasks t WHERE project <> 'crane' \
             AND started_at > (SELECT min(started_at) FROM millhand.tasks WHERE project = 'crane')",
        )
        .await?;
    ensure!(overtaken > 0, "the last project had to wait until the others had nothing more to do");
    stop(host).await;
    Ok(())
}
