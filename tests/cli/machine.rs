//! What scripts rely on: keys, addresses, settings.

use anyhow::Result;

use super::Cli;

#[tokio::test]
async fn the_same_key_queues_one_task_also_at_once() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    let arguments = ["run", "-d", "--project", "acme", "--idempotency-key", "once", "x", "--json"];
    let (one, two, three) = tokio::join!(cli.run(&arguments), cli.run(&arguments), cli.run(&arguments));
    let mut ids = Vec::new();
    for ran in [one?, two?, three?, cli.run(&arguments).await?] {
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ids.push(ran.objects()[0]["id"].clone());
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let client = cli.db.client().await?;
    let sql = "SELECT count(*) FROM millhand.sessions s WHERE NOT EXISTS (SELECT 1 FROM millhand.tasks t WHERE t.session_id = s.id)";
    assert_eq!(client.query_one(sql, &[]).await?.get::<_, i64>(0), 0, "no session without a task is left behind");
    Ok(())
}

#[tokio::test]
async fn the_database_is_reachable_by_its_url_and_chats_continue() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    assert_eq!(cli.run(&["db", "url"]).await?.text().trim(), cli.db.url());

    let new = cli.run(&["send", "s1", "--chat", "new", "-d", "--json", "x"]).await?.objects().remove(0);
    let chat = format!("c{}", new["chat_id"]);
    let again = cli.run(&["send", &chat, "-d", "--json", "y"]).await?.objects().remove(0);
    assert_eq!((&again["chat_id"], &again["session_id"]), (&new["chat_id"], &1.into()));
    let by_task = cli.run(&["send", "t1", "-d", "--json", "z"]).await?.objects().remove(0);
    assert_eq!((&by_task["chat_id"], &by_task["session_id"]), (&1.into(), &1.into()), "the session's first chat");
    Ok(())
}

#[tokio::test]
async fn retry_dismiss_and_cancel_move_the_line() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    let state = async |id: i64| -> Result<String> {
        let sql = "SELECT state FROM millhand.tasks WHERE id = $1";
        Ok(cli.db.client().await?.query_one(sql, &[&id]).await?.get(0))
    };
    assert_eq!(cli.run(&["retry", "t2", "--prompt", "Add fewer tests"]).await?.code, 0);
    assert_eq!(state(2).await?, "waiting");
    let prompt: String =
        cli.db.client().await?.query_one("SELECT prompt FROM millhand.tasks WHERE id = 2", &[]).await?.get(0);
    assert_eq!(prompt, "Add fewer tests");
    assert_eq!(cli.run(&["dismiss", "t5"]).await?.code, 0);
    assert_eq!(cli.run(&["dismiss", "t5"]).await?.code, 2, "there is nothing left to dismiss");
    assert_eq!(cli.run(&["cancel", "t7"]).await?.code, 0);
    assert_eq!(state(7).await?, "cancelled");
    assert_eq!(cli.run(&["inbox"]).await?.text(), "Nothing needs you.\n");
    Ok(())
}
