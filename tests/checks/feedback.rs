//! Failed checks go back to the agent: as a prompt, once each, a bounded number of times.

use anyhow::Result;
use millhand::actions;

use super::{TURN_WITHIN, World, add, checked, ensure, sql, stop, turn, wait_until, world};

async fn tasks(world: &World) -> Result<i64> {
    world.one("SELECT count(*) FROM millhand.tasks").await
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_checks_are_sent_back_at_most_so_often_in_a_row() -> Result<()> {
    let world = world().await?;
    add(&world, "test", "echo because; exit 1").await?;
    add(&world, "fine", "true").await?;
    sql(&world, "UPDATE millhand.projects SET check_resends = 2", &[]).await?;
    let host = world.start().await?;
    let first = turn(&world).await?;
    for round in 1..=2 {
        let sent = first + round;
        wait_until("it was sent back", TURN_WITHIN, async || tasks(&world).await.is_ok_and(|n| n >= sent)).await?;
        ensure!(world.settled(sent).await? == "completed", "{:?}", world.verdict(sent).await?);
        let row = &world
            .sql(&format!(
                "SELECT prompt, parent_task_id, idempotency_key, chat_id, model FROM millhand.tasks WHERE id = {sent}"
            ))
            .await?[0];
        let prompt: String = row.get(0);
        assert!(prompt.contains(&format!("sent back {round} of at most 2 times")), "{prompt}");
        assert!(
            prompt.contains("test: `echo because; exit 1` (exit code 1)\n```\nbecause\n```")
                && !prompt.contains("fine"),
            "{prompt}"
        );
        assert_eq!(row.get::<_, Option<i64>>(1), Some(sent - 1));
        let was = checked(&world, sent - 1).await?;
        assert_eq!((was[0].sent_as, was[1].sent_as), (Some(sent), None));
    }
    checked(&world, first + 2).await?;
    let store = world.db.store()?;
    let host_id = millhand::config::host_id(&world.settings.home)?;
    assert_eq!(store.due_feedback(&host_id, 9).await?, [], "twice is enough");
    // A person's own prompt begins anew.
    sql(&world, "INSERT INTO millhand.tasks (session_id, prompt) VALUES (1, 'by hand')", &[]).await?;
    wait_until("it was sent back", TURN_WITHIN, async || tasks(&world).await.is_ok_and(|n| n >= first + 4)).await?;
    ensure!(world.settled(first + 4).await? == "completed");
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_set_is_sent_back_once_however_many_try_and_not_past_other_tasks() -> Result<()> {
    let world = world().await?;
    add(&world, "test", "exit 1").await?;
    let host = world.start().await?;
    let first = turn(&world).await?;
    checked(&world, first).await?;
    stop(host).await;
    let store = world.db.store()?;
    let host_id = millhand::config::host_id(&world.settings.home)?;
    assert_eq!(store.due_feedback(&host_id, 9).await?, [], "by default not at all");
    sql(&world, "UPDATE millhand.projects SET check_resends = 1", &[]).await?;
    let due = store.due_feedback(&host_id, 9).await?;
    assert_eq!(due.len(), 1);
    // Whatever a person has queued meanwhile goes first, and its own result is what is checked then.
    sql(&world, "INSERT INTO millhand.tasks (session_id, prompt) VALUES (1, 'something else')", &[]).await?;
    assert_eq!(store.due_feedback(&host_id, 9).await?, []);
    sql(&world, "SELECT millhand.cancel_task(max(id)) FROM millhand.tasks", &[]).await?;
    let (a, b, c) = tokio::join!(
        actions::send_back(&store, &due[0]),
        actions::send_back(&store, &due[0]),
        actions::send_back(&store, &due[0])
    );
    let sent: Vec<_> = [a?, b?, c?].into_iter().flatten().collect();
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!(tasks(&world).await?, 3);
    assert_eq!(store.due_feedback(&host_id, 9).await?, []);
    // One that was applied meanwhile has nothing to be mended.
    sql(&world, "DELETE FROM millhand.check_feedback", &[]).await?;
    sql(&world, "SELECT millhand.cancel_task(max(id)) FROM millhand.tasks", &[]).await?;
    sql(&world, "UPDATE millhand.change_sets SET state = 'applied'", &[]).await?;
    assert_eq!(store.due_feedback(&host_id, 9).await?, []);
    assert_eq!(actions::send_back(&store, &due[0]).await?, None);
    Ok(())
}
