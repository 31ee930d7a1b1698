//! What goes wrong, said in the right place with what to do, and nothing lost.

use anyhow::Result;

use super::{Cli, Ran};
use crate::support::TestDb;

async fn count(cli: &Cli, table: &str) -> Result<i64> {
    Ok(cli.db.client().await?.query_one(&format!("SELECT count(*) FROM millhand.{table}"), &[]).await?.get(0))
}

fn said(cli: &Cli, ran: &Ran) -> String {
    format!("exit {}\n{}", ran.code, cli.normal(&ran.stderr))
}

#[tokio::test]
async fn errors_say_what_to_do_and_exit_with_their_code() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    let mut all = String::new();
    let commands: &[&[&str]] = &[
        &["run", "--project", "nowhere", "x"],
        &["run", "--project", "acm", "x"],
        &["run", "x"],
        &["run"],
        &["run", "--project", "acme", "-d", "   "],
        &["run", "--project", "acme", "--file", "missing.md"],
        &["send", "s99", "x"],
        &["send", "c99", "x"],
        &["send", "s1", "--chat", "c2", "x"],
        &["send", "s1", "--chat", "c99", "x"],
        &["show", "t99"],
        &["show", "s99"],
        &["show", "c99"],
        &["show", "x1"],
        &["attach", "t99"],
        &["diff", "t99"],
        &["diff", "t7"],
        &["diff", "c1"],
        &["cancel", "t99"],
        &["cancel", "t1"],
        &["cancel", "s1"],
        &["retry", "t99"],
        &["retry", "t1"],
        &["dismiss", "t1"],
        &["project", "add", "missing"],
        &["project", "add", "."],
        &["project", "add", "ext::sh -c true"],
        &["project", "add", "file:///tmp/x"],
        &["project", "rm", "nowhere"],
        &["project", "rm", "acme"],
        &["ls", "--project", "nowhere"],
        &["ls", "--session", "s99"],
        &["ls", "--session", "t1"],
        &["--database-url", "postgres://nobody@127.0.0.1:1/x", "ls"],
        &["--config", "missing.toml", "ls"],
        &["nonsense"],
    ];
    for arguments in commands {
        let ran = cli.run(arguments).await?;
        assert_ne!(ran.code, 0, "{arguments:?}");
        assert_eq!(ran.text(), "", "{arguments:?} has errors on stderr");
        all.push_str(&format!("$ millhand {}\n{}\n", arguments.join(" "), said(&cli, &ran)));
    }
    insta::assert_snapshot!("errors", all);
    assert_eq!((count(&cli, "tasks").await?, count(&cli, "projects").await?), (7, 1), "nothing came of it");
    Ok(())
}

#[tokio::test]
async fn errors_under_json_are_objects_on_stderr() -> Result<()> {
    let cli = Cli::new().await?;
    for (arguments, exit, code) in [
        (&["show", "t1", "--json"][..], 6, "not_found"),
        (&["run", "--project", "x", "y", "--json"], 6, "not_found"),
        (&["ls", "--json", "--limit", "0"], 2, "usage"),
        (&["ls", "--json", "--config", "missing.toml"], 2, "config"),
        (&["ls", "--json", "--database-url", "postgres://x@127.0.0.1:1/x"], 7, "database_unreachable"),
    ] {
        let ran = cli.run(arguments).await?;
        assert_eq!((ran.code, ran.text().as_str()), (exit, ""), "{arguments:?}: {}", ran.stderr);
        let error: serde_json::Value = serde_json::from_str(&ran.stderr)?;
        assert_eq!(
            (&error["v"], &error["type"], &error["code"]),
            (&1.into(), &"error".into(), &code.into()),
            "{error}"
        );
        assert!(error["message"].is_string() && error.get("hint").is_some(), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn prompts_that_cannot_be_stored_are_refused_before_anything_is_queued() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    let big = "x".repeat(2 * 1024 * 1024);
    let file = cli.folder().join("prompt.md");
    let mut all = String::new();
    for (what, bytes) in [
        ("2 MB", big.as_bytes()),
        ("NUL", b"one\0two"),
        ("not UTF-8", b"caf\xe9"),
        ("empty", b""),
        ("blank", b" \n\t "),
    ] {
        let by_stdin = cli.run_with_input(&["run", "-d", "--project", "acme", "-"], bytes).await?;
        std::fs::write(&file, bytes)?;
        let by_file = cli.run(&["run", "-d", "--project", "acme", "--file", "prompt.md"]).await?;
        let retried = cli.run_with_input(&["retry", "t2", "--prompt", "-"], bytes).await?;
        all.push_str(&format!(
            "{what} by stdin: {}{what} by file: {}{what} for a retry: {}\n",
            said(&cli, &by_stdin),
            said(&cli, &by_file),
            said(&cli, &retried)
        ));
        assert_eq!((by_stdin.code, by_file.code, retried.code), (2, 2, 2), "{all}");
    }
    insta::assert_snapshot!("prompts", all);
    assert_eq!(count(&cli, "tasks").await?, 7);
    // The largest that fits is taken.
    let fits = "x".repeat(1024 * 1024);
    let ran = cli.run_with_input(&["run", "-d", "--project", "acme", "-"], fits.as_bytes()).await?;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    Ok(())
}

#[tokio::test]
async fn a_typo_in_the_settings_stops_every_command() -> Result<()> {
    let cli = Cli::new().await?;
    let mut all = String::new();
    let private = cli.home().join("private");
    std::fs::create_dir_all(&private)?;
    for text in ["[worker]\nconcurency = 3\n", "[timings]\nlease = 20\n", "[worker\n", "[log]\nformat = \"xml\"\n"] {
        std::fs::write(private.join("millhand.toml"), text)?;
        let ran = cli.run(&["ls"]).await?;
        assert_eq!(ran.code, 2);
        all.push_str(&said(&cli, &ran));
    }
    insta::assert_snapshot!("settings", all);
    Ok(())
}

#[tokio::test]
async fn a_database_without_a_schema_says_migrate_and_migrate_is_safe_twice() -> Result<()> {
    let cli = Cli::on(TestDb::empty().await?)?;
    let ran = cli.run(&["ls"]).await?;
    assert_eq!((ran.code, ran.stderr.contains("millhand migrate")), (1, true), "{}", ran.stderr);
    assert!(cli.run(&["migrate", "--dry-run"]).await?.text().contains("to be applied"));
    assert!(cli.run(&["migrate", "--status"]).await?.text().contains("Next: millhand migrate"));
    let (one, other) = tokio::join!(cli.run(&["migrate"]), cli.run(&["migrate"]));
    assert_eq!((one?.code, other?.code), (0, 0), "two at once");
    assert!(cli.run(&["migrate"]).await?.text().contains("up to date"));
    assert_eq!(cli.run(&["ls"]).await?.code, 0);

    let client = cli.db.client().await?;
    client.batch_execute("INSERT INTO millhand.schema_history VALUES (999, 'later', now()::text, '0')").await?;
    assert_eq!(cli.run(&["ls"]).await?.code, 0, "the database says that this program can work with it");
    let newer = "CREATE OR REPLACE FUNCTION millhand.oldest_program() RETURNS int LANGUAGE sql AS 'SELECT 999'";
    client.batch_execute(newer).await?;
    let ran = cli.run(&["ls"]).await?;
    assert_eq!((ran.code, ran.stderr.contains("upgrade millhand")), (1, true), "{}", ran.stderr);
    Ok(())
}

#[tokio::test]
async fn amounts_and_days_that_cannot_be_meant_are_refused_in_words() -> Result<()> {
    let cli = Cli::new().await?;
    for (arguments, words) in [
        (&["budget", "set"][..], "--task"),
        (&["budget", "set", "--day", "-1"], "-1"),
        (&["budget", "set", "--day", "much"], "expected USD such as 5 or 0.50"),
        (&["budget", "set", "--total", "5"], "a total is for one project"),
        (&["budget", "set", "--project", "nobody", "--day", "5"], "unknown project \"nobody\""),
        (&["budget", "clear", "--day"], "there is no such limit"),
        (&["budget", "price", "a*b", "1", "1"], "names no model"),
        (&["budget", "price", "a/b", "1"], "OUTPUT"),
        (&["budget", "price", "--clear", "a/b"], "there is no price for \"a/b\""),
        (&["stats", "--since", "yesterday"], "a number of days such as 7d"),
        (&["stats", "--project", "nobody"], "unknown project \"nobody\""),
    ] {
        let ran = cli.run(arguments).await?;
        assert!(ran.code != 0 && ran.stderr.contains(words), "{arguments:?}: {} {}", ran.code, ran.stderr);
    }
    Ok(())
}
