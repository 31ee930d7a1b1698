//! What an agent asks people: its turn waits with its lease alive, the answer reaches it once, and nobody waits for ever.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::support::{
    wait_until, worker,
    world::{TURN_WITHIN, World, stop},
};

/// Asks before it may touch a file, and says afterwards that it went on.
const TOUCHES: &str = r#"[
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "touch asked.txt", "description": "Touch"}},
  {"type": "text", "content": "I went on."},
  {"type": "done"}
]"#;
const QUESTIONS: &str = r#"[
  {"type": "tool_call", "id": "c1", "name": "question", "arguments": {"questions": [
    {"question": "Which database?", "header": "Database", "options": [
      {"label": "Postgres", "description": "The one that is there"}, {"label": "SQLite", "description": "A file"}]},
    {"question": "What name?", "header": "Name", "options": [{"label": "acme", "description": "As the project"}]}]}},
  {"type": "text", "content": "I know now."},
  {"type": "done"}
]"#;

async fn asking() -> Result<World> {
    let mut world = World::new(&[("touches", TOUCHES), ("questions", QUESTIONS)]).await?;
    let text = world.settings.opencode.config.take().unwrap_or_default();
    let mut config: Value = serde_json::from_str(&text)?;
    config["permission"] = serde_json::json!({"bash": {"*": "allow", "touch*": "ask"}});
    world.settings.opencode.config = Some(config.to_string());
    world.sql("UPDATE millhand.projects SET ask_policy = 'inbox'").await?;
    Ok(world)
}

/// Waits until a task asks something. Returns the ask.
async fn asked(world: &World, task: i64) -> Result<i64> {
    let sql = format!("SELECT ask_id FROM millhand.inbox WHERE task_id = {task} AND ask_id IS NOT NULL");
    wait_until("it asks", TURN_WITHIN, async || world.sql(&sql).await.is_ok_and(|rows| !rows.is_empty())).await?;
    world.one(&sql).await
}

async fn answer(world: &World, arguments: &str) -> Result<bool> {
    world.one(&format!("SELECT millhand.answer_ask({arguments})")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_waits_for_a_person_and_goes_on_with_the_answer() -> Result<()> {
    let world = asking().await?;
    let host = world.start().await?;
    let (yes, no, instead) = (world.queue("yes").await?, world.queue("no").await?, world.queue("instead").await?);
    let (a, b, c) = (asked(&world, yes).await?, asked(&world, no).await?, asked(&world, instead).await?);
    let row = &world
        .sql(&format!(
            "SELECT state, error_class, error_message, deadline_at > now() FROM millhand.inbox WHERE ask_id = {a}"
        ))
        .await?[0];
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("running", "permission"));
    assert_eq!(row.get::<_, &str>(2), "may it use \"bash\" (touch asked.txt)?");
    assert!(row.get::<_, bool>(3));
    assert_eq!(world.state(yes).await?, "running");

    for (wrong, words) in [
        (format!("{a}, 'reply'"), "does not answer"),
        (format!("{a}, NULL"), "does not answer"),
        ("99, 'once'".to_owned(), "there is no ask a99"),
    ] {
        let refused = answer(&world, &wrong).await.expect_err("refused");
        ensure!(format!("{:?}", refused.root_cause()).contains(words), "{wrong}: {refused:?}");
    }
    assert!(answer(&world, &format!("{a}, 'once'")).await?);
    assert!(!answer(&world, &format!("{a}, 'reject'")).await?, "only the first answer counts");
    assert!(answer(&world, &format!("{b}, 'reject'")).await?);
    assert!(answer(&world, &format!("{c}, 'reject', 'write it with the tool'")).await?);

    assert_eq!(world.settled(yes).await?, "completed");
    ensure!(String::from_utf8_lossy(&world.patch(yes).await?).contains("asked.txt"));
    assert_eq!(world.settled(no).await?, "failed");
    assert_eq!(world.verdict(no).await?.1, "ask_rejected");
    assert_eq!(world.settled(instead).await?, "completed", "with words it goes on");
    ensure!(world.patch(instead).await?.is_empty(), "and did not do it");
    let told: i64 = world
        .one(&format!(
            "SELECT count(*) FROM millhand.turn_events e JOIN millhand.attempts a ON a.id = e.attempt_id \
             WHERE a.task_id = {instead} AND e.kind = 'warning' AND e.data->>'message' LIKE '%write it with the tool%'"
        ))
        .await?;
    assert_eq!(told, 1);
    let states = world.sql("SELECT state, answer FROM millhand.asks ORDER BY id").await?;
    assert!(states.iter().all(|row| row.get::<_, &str>(0) == "answered"));
    let who: i64 = world.one("SELECT count(*) FROM millhand.audit_log WHERE action = 'answer'").await?;
    assert_eq!(who, 3);
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_answered_one_by_one_in_words_or_not_at_all() -> Result<()> {
    let world = asking().await?;
    let host = world.start().await?;
    let (told, untold) = (world.queue_for("questions", "told").await?, world.queue_for("questions", "untold").await?);
    let (a, b) = (asked(&world, told).await?, asked(&world, untold).await?);
    let what: Value = world.one(&format!("SELECT what FROM millhand.asks WHERE id = {a}")).await?;
    assert_eq!(what["questions"][0]["options"][1]["label"], "SQLite");
    for wrong in [
        "'once'",
        "'reply'",
        "'reply', NULL, '[[\"Postgres\"]]'",
        "'reply', NULL, '[[\"Postgres\"], []]'",
        "'reply', NULL, '[[1], [2]]'",
    ] {
        ensure!(answer(&world, &format!("{a}, {wrong}")).await.is_err(), "{wrong}");
    }
    assert!(answer(&world, &format!("{a}, 'reply', NULL, '[[\"Postgres\"], [\"something of my own\"]]'")).await?);
    assert!(answer(&world, &format!("{b}, 'reject'")).await?);
    assert_eq!(world.settled(told).await?, "completed");
    let heard: i64 = world
        .one(
            "SELECT count(*) FROM millhand.turn_events WHERE kind = 'tool' AND data::text LIKE '%something of my own%'",
        )
        .await?;
    ensure!(heard > 0, "the agent was told the answer");
    assert_eq!(world.settled(untold).await?, "failed");
    assert_eq!(world.verdict(untold).await?.1, "question_rejected");
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_ever_and_a_cancelled_turn_asks_nothing_any_more() -> Result<()> {
    let mut world = asking().await?;
    world.settings.timings.person_answer = Duration::from_secs(3);
    let host = world.start().await?;
    let late = world.queue("late").await?;
    let ask = asked(&world, late).await?;
    assert_eq!(world.settled(late).await?, "failed");
    let (_, outcome, _) = world.verdict(late).await?;
    assert_eq!(outcome, "ask_rejected");
    assert_eq!(world.one::<String>(&format!("SELECT state FROM millhand.asks WHERE id = {ask}")).await?, "expired");
    assert!(!answer(&world, &format!("{ask}, 'once'")).await?, "too late");
    stop(host).await;

    world.settings.timings.person_answer = Duration::from_secs(600);
    let host = world.start().await?;
    let cancelled = world.queue("cancelled").await?;
    let ask = asked(&world, cancelled).await?;
    assert!(world.one::<bool>(&format!("SELECT millhand.cancel_task({cancelled})")).await?);
    assert_eq!(world.settled(cancelled).await?, "cancelled");
    let is_over = async || {
        world
            .one::<String>(&format!("SELECT state FROM millhand.asks WHERE id = {ask}"))
            .await
            .is_ok_and(|state| state == "withdrawn")
    };
    wait_until("the ask is withdrawn", TURN_WITHIN, is_over).await?;
    assert!(!answer(&world, &format!("{ask}, 'once'")).await?);
    assert_eq!(world.one::<i64>("SELECT count(*) FROM millhand.inbox WHERE ask_id IS NOT NULL").await?, 0);
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_while_the_worker_is_dead_is_not_lost() -> Result<()> {
    let world = asking().await?;
    let variables = [("MILLHAND_TIMINGS_LEASE", "20s")];
    let mut first = worker::start(&world, &variables)?;
    let task = world.queue("asks").await?;
    let ask = asked(&world, task).await?;
    first.kill().await?;
    assert!(answer(&world, &format!("{ask}, 'once'")).await?, "nobody knows yet that the worker is dead");
    let mut second = worker::start(&world, &variables)?;
    assert_eq!(world.settled(task).await?, "completed", "{}", worker::log(&world));
    ensure!(String::from_utf8_lossy(&world.patch(task).await?).contains("asked.txt"));
    assert_eq!(world.one::<i64>("SELECT count(*) FROM millhand.asks").await?, 1, "asked once");
    let pid = second.id().unwrap_or_default();
    ensure!(std::process::Command::new("kill").args(["-TERM", &pid.to_string()]).status()?.success());
    tokio::time::timeout(TURN_WITHIN, second.wait()).await??;
    Ok(())
}
