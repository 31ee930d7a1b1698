//! The inbox: answers, retries and dismissals, one by one and in bulk, and what comes while somebody watches.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result};
use insta::assert_snapshot;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::Cli;

const WITHIN: Duration = Duration::from_secs(60);

impl Cli {
    /// t8 runs, and asks for a permission (a1) and two questions (a2).
    async fn asks(&self) -> Result<()> {
        self.some_of_everything().await?;
        let sql = r#"
            INSERT INTO millhand.tasks (project, prompt, idempotency_key) VALUES ('acme', 'Set up the database', 'k8');
            UPDATE millhand.tasks SET state = 'running', lane = NULL, last_attempt = 1 WHERE id = 8;
            INSERT INTO millhand.attempts (task_id, number, prompt, worker_id, host_id, token, agent_requested)
                VALUES (8, 1, 'x', gen_random_uuid(), 'h1', gen_random_uuid(), 'opencode');
            INSERT INTO millhand.asks (task_id, attempt_id, external_id, kind, what, summary, asked_at, deadline_at)
                SELECT 8, max(id), 'per_1', 'permission', '{"permission": "bash", "patterns": ["rm -rf build"]}',
                       E'may it use "bash" (rm -rf build\u001b[2J)?', now() - interval '70 minutes 5 seconds', now() + interval '59 minutes 30 seconds' FROM millhand.attempts;
            INSERT INTO millhand.asks (task_id, attempt_id, external_id, kind, what, summary, asked_at, deadline_at)
                SELECT 8, max(id), 'que_1', 'question', '{"questions": [
                    {"question": "Which database?", "multiple": false, "options": [
                        {"label": "Postgres", "description": "The one that is there"}, {"label": "SQLite", "description": "A file"}]},
                    {"question": "Which tables?", "multiple": true, "options": [
                        {"label": "users", "description": ""}, {"label": "orders", "description": ""}, {"label": "items", "description": ""}]}]}',
                       'Which database? / Which tables?', now() - interval '61 minutes 5 seconds', now() + interval '59 minutes 30 seconds' FROM millhand.attempts;"#;
        Ok(self.db.client().await?.batch_execute(sql).await?)
    }
}

#[tokio::test]
async fn what_agents_ask_is_shown_whole_and_answered_once() -> Result<()> {
    let cli = Cli::new().await?;
    cli.asks().await?;
    let mut shown = Vec::new();
    for arguments in [&["inbox", "-n", "2"][..], &["answer", "a1"], &["answer", "2"]] {
        let ran = cli.run(arguments).await?;
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        shown.push(format!("$ millhand {}\n{}", arguments.join(" "), ran.text()));
    }
    assert_snapshot!("asks", shown.join("\n"));

    for wrong in [
        &["answer", "a1", "perhaps"][..],
        &["answer", "a1", "once", "always"],
        &["answer", "a2", "1"],
        &["answer", "a1", "once", "--message", "x"],
    ] {
        assert_eq!(cli.run(wrong).await?.code, 2, "{wrong:?}");
    }
    assert_eq!(cli.run(&["answer", "a99"]).await?.code, 6);
    assert_eq!(cli.run(&["answer", "a1", "no", "--message", "make clean"]).await?.code, 0);
    let again = cli.run(&["answer", "a1", "once"]).await?;
    assert_eq!(again.code, 2);
    assert!(again.stderr.contains("answered already (reject, by "), "{}", again.stderr);

    let answered = cli.run(&["answer", "a2", "2", "1,3", "--json"]).await?.objects().remove(0);
    assert_eq!(answered["replies"], serde_json::json!([["SQLite"], ["users", "items"]]));
    let row = cli.db.client().await?.query_one("SELECT answer, message FROM millhand.asks WHERE id = 1", &[]).await?;
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("reject", "make clean"));
    Ok(())
}

#[tokio::test]
async fn the_inbox_is_worked_off_in_bulk_by_project_and_reason() -> Result<()> {
    let cli = Cli::new().await?;
    cli.asks().await?;
    let states = async || -> Result<String> {
        let sql = "SELECT string_agg(state, ' ' ORDER BY id) FROM millhand.tasks";
        Ok(cli.db.client().await?.query_one(sql, &[]).await?.get(0))
    };
    let before = states().await?;
    assert_eq!(cli.run(&["retry"]).await?.code, 2);
    assert_eq!(cli.run(&["retry", "t2", "--all"]).await?.code, 2);
    assert_eq!(cli.run(&["retry", "--all", "--project", "nosuch"]).await?.code, 6);
    assert_eq!(cli.run(&["retry", "t2", "--edit"]).await?.code, 2, "nobody is there to edit");
    let none = cli.run(&["retry", "--all", "--class", "nosuch"]).await?;
    assert_eq!((none.code, none.text().as_str()), (0, "Nothing in the inbox is meant by that.\n"));
    assert_eq!(states().await?, before);

    assert_eq!(cli.run(&["dismiss", "--all", "--class", "infrastructure_lost", "--project", "acme"]).await?.code, 0);
    assert_eq!(states().await?, before.replacen("blocked", "failed", 1));
    // t1 has completed: the others are retried all the same, and the exit code tells.
    let ran = cli.run(&["retry", "t1", "t2", "--model", "openai/other", "--agent", "opencode/plan", "--json"]).await?;
    assert_eq!(ran.code, 2);
    assert_eq!(ran.objects().len(), 1);
    assert!(ran.stderr.contains("there is nothing to retry: t1 is completed"), "{}", ran.stderr);
    let row =
        cli.db.client().await?.query_one("SELECT state, model, agent FROM millhand.tasks WHERE id = 2", &[]).await?;
    assert_eq!(
        (row.get::<_, &str>(0), row.get::<_, &str>(1), row.get::<_, &str>(2)),
        ("waiting", "openai/other", "opencode/plan")
    );
    assert_eq!(
        cli.run(&["retry", "--all"]).await?.text(),
        "Nothing in the inbox is meant by that.\n",
        "asks are not retried"
    );
    Ok(())
}

#[tokio::test]
async fn who_watches_the_inbox_is_told_of_what_comes() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    let mut child = cli.command(&["inbox", "--watch", "--json"]).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let mut next = async || -> Result<i64> {
        let line = tokio::time::timeout(WITHIN, lines.next_line()).await??.context("it ended")?;
        serde_json::from_str::<serde_json::Value>(&line)?["task_id"].as_i64().context("an id")
    };
    assert_eq!((next().await?, next().await?), (2, 5));
    let client = cli.db.client().await?;
    let fails = "UPDATE millhand.tasks SET state = 'failed', lane = NULL, error_class = 'agent_failed', finished_at = now() WHERE id = $1";
    client.execute(fails, &[&7_i64]).await?;
    assert_eq!(next().await?, 7);
    // The same task once more is news.
    client.execute("SELECT millhand.retry_task(7)", &[]).await?;
    client.execute(fails, &[&7_i64]).await?;
    assert_eq!(next().await?, 7);
    child.kill().await?;
    Ok(())
}
