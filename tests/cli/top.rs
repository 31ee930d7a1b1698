//! The live view of the fleet.

use anyhow::Result;

use super::Cli;

#[tokio::test]
async fn the_fleet_is_watched_live_and_looked_at_once() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    cli.live_worker().await?;
    let client = cli.db.client().await?;
    client
        .batch_execute(
            r#"UPDATE millhand.tasks SET state = 'running', lane = NULL, last_attempt = 1 WHERE id = 7;
               INSERT INTO millhand.attempts (task_id, number, prompt, worker_id, host_id, token, agent_requested, model_resolved, started_at)
                   SELECT 7, 1, 'x', w.id, 'h1', gen_random_uuid(), 'opencode', 'anthropic/claude', now() - interval '65 minutes 5 seconds'
                   FROM millhand.workers w;
               INSERT INTO millhand.leases (session_id, task_id, token, worker_id, expires_at)
                   SELECT t.session_id, 7, a.token, a.worker_id, now() + interval '1 hour'
                   FROM millhand.tasks t JOIN millhand.attempts a ON a.task_id = t.id WHERE t.id = 7;
               SELECT millhand.make_event_day((a.started_at AT TIME ZONE 'UTC')::date) FROM millhand.attempts a WHERE a.task_id = 7;
               INSERT INTO millhand.turn_events (attempt_id, day, seq, kind, part, data)
                   SELECT id, (started_at AT TIME ZONE 'UTC')::date, 1, 'tool', 'p1',
                          '{"call": {"tool": "bash", "status": "running", "title": "npm test"}}' FROM millhand.attempts WHERE task_id = 7;
               INSERT INTO millhand.usage (attempt_id, task_id, project, agent, model, agent_session, message_id, input_tokens, cost_usd)
                   SELECT id, 7, 'acme', 'opencode', 'anthropic/claude', 'ses_7', 'm7', 1500, 0.25 FROM millhand.attempts WHERE task_id = 7;"#,
        )
        .await?;
    client
        .batch_execute(
            r#"UPDATE millhand.workers SET servers = jsonb_build_array(jsonb_build_object('agent', 'opencode', 'project_id',
                   (SELECT id FROM millhand.projects WHERE name = 'acme'), 'pid', 4711, 'turns', 1, 'worktrees', 3, 'resident_bytes',
                   312000000, 'is_leaving', true, 'started_at', now() - interval '3 hours'))"#,
        )
        .await?;
    let status = cli.run(&["status"]).await?.text();
    for words in ["4711", "1 (no more)", "312.0 MB", "3h"] {
        assert!(status.contains(words), "{words}: {status}");
    }
    let told = cli.run(&["status", "--json"]).await?.objects().remove(0);
    assert_eq!((&told["servers"][0]["project"], &told["servers"][0]["worktrees"]), (&"acme".into(), &3.into()));
    let once = cli.run(&["top"]).await?;
    assert_eq!(once.code, 0, "{}", once.stderr);
    let text = once.text();
    for words in
        ["1 worker, 1 of 4 turns", "t7", "65m", "$0.25", "bash npm test", "in the inbox", "4711", "1 (no more)"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains('\u{1b}'), "nothing of a prompt reaches it raw: {text}");
    let object = cli.run(&["top", "--json"]).await?.objects().remove(0);
    assert_eq!((&object["turns"][0]["task_id"], &object["pending"]), (&7.into(), &1.into()));

    // Ctrl-C, typed at the terminal.
    let Some((code, screen)) =
        cli.at_a_terminal(cli.folder(), "top", &[("TERM", "xterm")], Some(("npm test", "\u{3}"))).await?
    else {
        crate::support::not_run!("top at a terminal: the program script (util-linux) is not there");
        return Ok(());
    };
    assert_eq!(code, 0, "{screen}");
    assert!(
        screen.contains("\u{1b}[?1049h") && screen.trim_end().ends_with("\u{1b}[?1049l"),
        "the screen comes back: {screen:?}"
    );
    Ok(())
}
