//! What a turn survives: its server, its worker. (The whole table of faults comes with the chaos harness.)

use anyhow::{Context, Result, ensure};

use crate::support::{
    wait_until,
    world::{TURN_WITHIN, World, stop},
};

const SLOW: &str = r#"[
  {"type": "text", "content": "I start."},
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "touch begun; sleep 3; touch ended", "description": "Work"}},
  {"type": "text", "content": "finished"}, {"type": "done"}
]"#;

async fn tool_runs(world: &World) -> Result<()> {
    wait_until("the tool runs", TURN_WITHIN, async || {
        world
            .one::<i64>(
                "SELECT count(*) FROM millhand.turn_events WHERE kind = 'tool' AND data->'call'->>'status' = 'running'",
            )
            .await
            .is_ok_and(|n| n > 0)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_whose_server_is_killed_is_continued_and_not_paid_for_from_the_start() -> Result<()> {
    let world = World::new(&[("slow", SLOW)]).await?;
    let host = world.start().await?;
    let task = world.queue("x").await?;
    tool_runs(&world).await?;
    let pid = host.backend().server_pid(1).await.context("a server")?;
    kill(pid)?;
    assert_eq!(world.settled(task).await?, "completed", "{:?}", world.verdict(task).await?);
    let lost: Option<String> = world
        .one("SELECT string_agg(outcome || ': ' || coalesce(error_message, ''), '; ' ORDER BY number) FROM millhand.attempts")
        .await?;
    let row = &world.sql("SELECT attempts, infra_losses, last_attempt FROM millhand.tasks").await?[0];
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1), row.get::<_, i32>(2)), (1, 1, 2), "{lost:?}");
    let messages = world.sql("SELECT DISTINCT agent_session FROM millhand.attempts").await?;
    assert_eq!(messages.len(), 1, "the second attempt goes on in the same conversation");
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_project_asks_a_lost_turn_waits_for_a_person_and_then_goes_on_where_it_was() -> Result<()> {
    let world = World::new(&[("slow", SLOW)]).await?;
    world.sql("UPDATE millhand.projects SET resend = 'ask'").await?;
    let host = world.start().await?;
    let task = world.queue("x").await?;
    tool_runs(&world).await?;
    kill(host.backend().server_pid(1).await.context("a server")?)?;
    assert_eq!(world.settled(task).await?, "blocked", "{:?}", world.verdict(task).await?);
    let reason: String = world.one("SELECT error_message FROM millhand.inbox").await?;
    assert!(reason.contains("this project asks before it is sent again"), "{reason}");
    let outcomes: String = world.one("SELECT string_agg(outcome, ' ' ORDER BY number) FROM millhand.attempts").await?;
    assert_eq!(outcomes, "server_lost asks_to_resend");
    let sent = "SELECT message_id FROM millhand.tasks";
    let message: String = world.one(sent).await?;
    assert!(world.one::<bool>(&format!("SELECT millhand.retry_task({task})")).await?);
    assert_eq!(world.one::<String>(sent).await?, message);
    assert_eq!(world.settled(task).await?, "completed", "{:?}", world.verdict(task).await?);
    let conversations = world.sql("SELECT DISTINCT agent_session FROM millhand.attempts").await?;
    assert_eq!(conversations.len(), 1, "it goes on in the same conversation");
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_hands_its_turn_back_and_the_next_one_finishes_it() -> Result<()> {
    let world = World::new(&[("slow", SLOW)]).await?;
    let host = world.start().await?;
    let task = world.queue("x").await?;
    tool_runs(&world).await?;
    stop(host).await;
    assert_eq!(world.state(task).await?, "pending");
    let row = &world.sql("SELECT attempts, infra_losses FROM millhand.tasks").await?[0];
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1)), (0, 0), "nothing is charged");
    let host = world.start().await?;
    assert_eq!(world.settled(task).await?, "completed", "{:?}", world.verdict(task).await?);
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_worker_on_one_home_is_refused() -> Result<()> {
    let world = World::new(&[("slow", SLOW)]).await?;
    let host = world.start().await?;
    let error = world.start().await.err().context("refused")?.to_string();
    ensure!(error.contains("another worker") && error.contains("millhand down"), "{error}");
    stop(host).await;
    // And free again afterwards.
    stop(world.start().await?).await;
    Ok(())
}

fn kill(pid: u32) -> Result<()> {
    let status = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status()?;
    ensure!(status.success(), "kill {pid}: {status}");
    Ok(())
}
