//! Following a task that a stand-in for the worker moves along, row by row.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, ChildStdout},
};

use super::{Cli, WITHIN};
use crate::support::wait_until;

/// A followed task, and its output as it comes.
struct Watched {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Watched {
    fn start(cli: &Cli, arguments: &[&str]) -> Result<Self> {
        let mut child = cli.command(arguments).spawn()?;
        let out = BufReader::new(child.stdout.take().context("stdout")?);
        Ok(Self { child, out })
    }

    /// Reads until this was printed.
    async fn until(&mut self, wanted: &str) -> Result<String> {
        let mut seen = String::new();
        let read = async {
            let mut byte = [0];
            while !seen.ends_with(wanted) {
                self.out.read_exact(&mut byte).await.with_context(|| format!("ended before {wanted:?}"))?;
                seen.push(char::from(byte[0]));
            }
            Ok::<_, anyhow::Error>(())
        };
        let done = tokio::time::timeout(WITHIN, read).await;
        done.with_context(|| format!("no {wanted:?} in {seen:?}"))??;
        Ok(seen)
    }

    /// The rest, and the exit code.
    async fn rest(mut self) -> Result<(i32, String)> {
        let mut rest = String::new();
        tokio::time::timeout(WITHIN, self.out.read_to_string(&mut rest)).await??;
        let status = tokio::time::timeout(WITHIN, self.child.wait()).await??;
        Ok((status.code().unwrap_or(-1), rest))
    }
}

async fn sql(cli: &Cli, text: &str) -> Result<()> {
    Ok(cli.db.client().await?.batch_execute(text).await?)
}

const START: &str = "
    UPDATE millhand.tasks SET state = 'running', lane = NULL, last_attempt = last_attempt + 1, started_at = now() WHERE id = 7;
    INSERT INTO millhand.attempts (task_id, number, prompt, worker_id, host_id, token, agent_requested)
        SELECT 7, last_attempt, 'x', gen_random_uuid(), 'h1', gen_random_uuid(), 'opencode' FROM millhand.tasks WHERE id = 7;
    SELECT millhand.make_event_day((now() AT TIME ZONE 'UTC')::date);";

fn event(seq: i32, kind: &str, part: &str, data: &str) -> String {
    format!(
        "INSERT INTO millhand.turn_events (attempt_id, day, seq, kind, part, data)
         SELECT id, (started_at AT TIME ZONE 'UTC')::date, {seq}, '{kind}', '{part}', '{data}' FROM millhand.attempts
         WHERE task_id = 7 ORDER BY id DESC LIMIT 1;"
    )
}

fn end(outcome: &str, error: &str, state: &str) -> String {
    format!(
        "UPDATE millhand.attempts SET ended_at = now(), outcome = '{outcome}', error_message = nullif('{error}', '')
             WHERE id = (SELECT max(id) FROM millhand.attempts WHERE task_id = 7);
         UPDATE millhand.tasks SET state = '{state}', error_message = nullif('{error}', ''),
             started_at = now() - interval '5 seconds', finished_at = now() WHERE id = 7;"
    )
}

#[tokio::test]
async fn text_is_shown_as_it_comes_and_never_twice() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    let mut watched = Watched::start(&cli, &["attach", "t7"])?;
    watched.until("no worker is running: millhand up\n").await?;
    sql(&cli, &format!("{START}{}", event(0, "text_delta", "p1", r#"{"delta": "Hello \u001b[2Jwor"}"#))).await?;
    watched.until("Hello \\u{1b}[2Jwor").await?;
    // One delta is seen, the next is gone before it is: the whole part fills the gap.
    let whole = format!(
        "DELETE FROM millhand.turn_events; {}{}{}{}",
        event(2, "text", "p1", r#"{"text": "Hello \u001b[2Jworld."}"#),
        event(3, "reasoning", "p2", r#"{"text": "secret thoughts"}"#),
        event(
            4,
            "tool",
            "p3",
            r#"{"call": {"call_id": "1", "tool": "write", "status": "running", "title": "a.txt", "input": {}}}"#
        ),
        event(
            5,
            "tool",
            "p3",
            r#"{"call": {"call_id": "1", "tool": "write", "status": "completed", "title": "a.txt", "input": {}}}"#
        ),
    );
    sql(&cli, &whole).await?;
    let seen = watched.until("a.txt\n").await?;
    assert!(seen.starts_with("ld.\n"), "{seen:?}");
    assert!(!seen.contains("secret"), "reasoning is hidden: {seen:?}");
    let more = format!(
        "{}{}{}{}{}",
        event(6, "warning", "", r#"{"message": "an ask was rejected"}"#),
        event(7, "retry", "", r#"{"attempt": 2, "message": "too many requests"}"#),
        event(8, "surprise", "", "{}"),
        event(9, "text", "p4", r#"{"text": "Done."}"#),
        end("completed", "", "completed"),
    );
    sql(&cli, &more).await?;
    let (code, rest) = watched.rest().await?;
    insta::assert_snapshot!("attach_end", rest);
    assert_eq!(code, 0);

    // Afterwards the same can be read again, now with the reasoning.
    let again = cli.run(&["attach", "t7", "--reasoning"]).await?;
    assert_eq!((again.code, again.text().matches("Hello").count()), (0, 1), "{}", again.text());
    assert!(again.text().contains("secret thoughts"));
    Ok(())
}

#[tokio::test]
async fn retries_are_followed_and_the_exit_code_is_the_outcome() -> Result<()> {
    for (state, code) in [("completed", 0), ("failed", 3), ("blocked", 4), ("cancelled", 5)] {
        let cli = Cli::new().await?;
        cli.some_of_everything().await?;
        cli.live_worker().await?;
        let mut watched = Watched::start(&cli, &["attach", "s5"])?;
        watched.until("waits for a free worker\n").await?;
        sql(&cli, &format!("{START}{}", event(0, "text", "p1", r#"{"text": "First try"}"#))).await?;
        watched.until("First try\n").await?;
        let backoff =
            "UPDATE millhand.tasks SET run_at = now() + interval '1 hour', error_class = 'agent_failed' WHERE id = 7";
        sql(&cli, &format!("{}{backoff}", end("server_lost", "the server died", "pending"))).await?;
        let seen = watched.until("backoff").await?;
        assert!(seen.contains("attempt 1 ended: server_lost: the server died"), "{seen}");
        let second = format!("{START}{}{}", event(0, "text", "p1", r#"{"text": "Second try"}"#), end("x", "", state));
        sql(&cli, &second).await?;
        let (exit, rest) = watched.rest().await?;
        assert!(rest.contains("Second try\n") && rest.contains(&format!("t7 {state} in 5s")), "{rest}");
        assert_eq!(exit, code, "{state}");
    }
    Ok(())
}

#[tokio::test]
async fn ctrl_c_detaches_and_the_task_goes_on() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    let mut watched = Watched::start(&cli, &["run", "--project", "acme", "x"])?;
    // As soon as it is queued, whatever is shown next.
    watched.until("t8 queued in ").await?;
    let mut stderr = watched.child.stderr.take().context("stderr")?;
    let pid = watched.child.id().context("pid")?;
    tokio::process::Command::new("kill").args(["-INT", &pid.to_string()]).status().await?;
    let (code, _) = watched.rest().await?;
    let mut said = String::new();
    stderr.read_to_string(&mut said).await?;
    assert_eq!(code, 130);
    assert!(said.contains("Attach again: millhand attach t8"), "{said}");
    let state: String =
        cli.db.client().await?.query_one("SELECT state FROM millhand.tasks WHERE id = 8", &[]).await?.get(0);
    assert_eq!(state, "pending");
    Ok(())
}

/// Before the database has answered, nobody knows whether the task is queued.
#[tokio::test]
async fn ctrl_c_while_the_task_is_being_queued_says_so() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    let mut holder = cli.db.client().await?;
    let held = holder.transaction().await?;
    held.batch_execute("LOCK TABLE millhand.tasks IN EXCLUSIVE MODE").await?;
    let mut watched = Watched::start(&cli, &["run", "--project", "acme", "x"])?;
    let looker = cli.db.client().await?;
    let waits = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'millhand.tasks'::regclass";
    wait_until("the insert waits", Duration::from_secs(20), async || {
        looker.query(waits, &[]).await.is_ok_and(|rows| !rows.is_empty())
    })
    .await?;
    let mut stderr = watched.child.stderr.take().context("stderr")?;
    let pid = watched.child.id().context("pid")?;
    tokio::process::Command::new("kill").args(["-INT", &pid.to_string()]).status().await?;
    let (code, _) = watched.rest().await?;
    let mut said = String::new();
    stderr.read_to_string(&mut said).await?;
    assert_eq!(code, 130);
    assert!(said.contains("Interrupted while the task was being queued"), "{said}");
    Ok(())
}

#[tokio::test]
async fn json_streams_one_object_a_line_and_ends_with_the_task() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    sql(&cli, &format!("{START}{}{}", event(0, "text", "p1", r#"{"text": "Hi"}"#), end("completed", "", "completed")))
        .await?;
    let objects = cli.run(&["attach", "t7", "--json"]).await?.objects();
    let types: Vec<_> = objects.iter().map(|object| object["type"].as_str().unwrap_or_default()).collect();
    assert_eq!(types, ["attempt", "event", "attempt", "task"]);
    assert_eq!(
        (&objects[1]["kind"], &objects[1]["data"]["text"], &objects[3]["state"]),
        (&"text".into(), &"Hi".into(), &"completed".into())
    );
    Ok(())
}

#[tokio::test]
async fn a_long_transcript_is_read_whole() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    let many = "INSERT INTO millhand.turn_events (attempt_id, day, seq, kind, part, data)
         SELECT a.id, (a.started_at AT TIME ZONE 'UTC')::date, n, 'text', 'p' || n, jsonb_build_object('text', 'line ' || n)
         FROM (SELECT id, started_at FROM millhand.attempts WHERE task_id = 7 ORDER BY id DESC LIMIT 1) a, generate_series(1, 1700) n;";
    sql(&cli, &format!("{START}{many}{}", end("completed", "", "completed"))).await?;
    let mut watched = Watched::start(&cli, &["attach", "t7"])?;
    let mut line = String::new();
    for n in 1..=1700 {
        line.clear();
        tokio::time::timeout(Duration::from_secs(30), watched.out.read_line(&mut line)).await??;
        assert_eq!(line, format!("line {n}\n"));
    }
    assert_eq!(watched.rest().await?.0, 0);
    Ok(())
}
