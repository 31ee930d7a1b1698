//! What people read, as they read it.

use anyhow::Result;

use super::{
    Cli, normal_json,
    rows::{HOSTILE_PROMPT, PATCH},
};

#[tokio::test]
async fn help_teaches_the_tool() -> Result<()> {
    let cli = Cli::new().await?;
    let mut all = String::new();
    for command in [
        "",
        "setup",
        "up",
        "down",
        "demo",
        "models",
        "uninstall",
        "run",
        "send",
        "ls",
        "show",
        "attach",
        "diff",
        "inbox",
        "retry",
        "project add",
        "stats",
        "budget",
        "budget set",
        "budget price",
        "migrate",
        "db psql",
    ] {
        let mut arguments: Vec<_> = command.split_whitespace().collect();
        arguments.push("--help");
        let ran = cli.run(&arguments).await?;
        assert_eq!(ran.code, 0, "{command}: {}", ran.stderr);
        all.push_str(&format!("$ millhand {}\n{}\n", arguments.join(" "), ran.text()));
    }
    insta::assert_snapshot!("help", all);
    Ok(())
}

#[tokio::test]
async fn lists_and_views_read_well() -> Result<()> {
    let cli = Cli::new().await?;
    let mut all = String::new();
    let empty: &[&[&str]] = &[
        &["ls"],
        &["ls", "--sessions"],
        &["inbox"],
        &["stats"],
        &["budget"],
        &["budget", "price"],
        &["project", "ls"],
    ];
    let full: &[&[&str]] = &[
        &["ls"],
        &["ls", "--state", "failed", "--state", "waiting"],
        &["ls", "--sessions"],
        &["ls", "-n", "1"],
        &["show", "t1"],
        &["show", "2"],
        &["show", "t5"],
        &["show", "s1"],
        &["inbox"],
        &["stats"],
        &["stats", "costs", "--by", "model"],
        &["stats", "--by", "task", "--project", "acme"],
        &["stats", "--by", "session", "--since", "7d"],
        &["stats", "--since", "2999-01-01"],
        &["project", "ls"],
        &["diff", "t1"],
        &["diff", "s1", "--stat"],
        &["budget", "set", "--day", "20", "--task", "0.50", "--task", "2Mtok"],
        &["budget", "set", "--project", "acme", "--day", "0.01", "--total", "5Mtok"],
        &["ls", "--state", "pending"],
        &["inbox", "-n", "1"],
        &["budget", "clear", "--project", "acme", "--day"],
        &["budget", "price", "local/*", "0", "0", "--cache-read", "0.1"],
        &["budget", "price", "--clear", "local/*"],
    ];
    for (what, commands) in [("empty", empty), ("full", full)] {
        if what == "full" {
            cli.some_of_everything().await?;
        }
        for arguments in commands {
            let ran = cli.run(arguments).await?;
            assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
            all.push_str(&format!("$ millhand {} ({what})\n{}\n", arguments.join(" "), cli.normal(&ran.text())));
        }
    }
    insta::assert_snapshot!("lists", steady(&all));
    Ok(())
}

/// The backoff of t4 counts down from an hour.
fn steady(text: &str) -> String {
    let mut steady = String::new();
    for line in text.lines() {
        let line = match line.find("again in ") {
            Some(at) => format!("{}again in [time]", &line[..at]),
            None => line.to_owned(),
        };
        steady.push_str(&line);
        steady.push('\n');
    }
    steady
}

#[tokio::test]
async fn json_has_the_columns_and_a_version() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    let mut all = String::new();
    let commands: &[&[&str]] = &[
        &["ls", "--json", "--state", "failed", "--state", "completed"],
        &["ls", "--json", "--sessions", "--limit", "1"],
        &["show", "t1", "--json"],
        &["show", "s4", "--json"],
        &["inbox", "--json"],
        &["stats", "costs", "--by", "agent", "--json"],
        &["budget", "set", "--project", "acme", "--day", "5", "--json"],
        &["project", "ls", "--json"],
        &["diff", "t1", "--json"],
        &["cancel", "t7", "--json"],
        &["migrate", "--json", "--status"],
    ];
    for arguments in commands {
        let ran = cli.run(arguments).await?;
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{arguments:?}");
        all.push_str(&format!("$ millhand {}\n", arguments.join(" ")));
        for object in ran.objects() {
            assert_eq!(object["v"], 1, "{object}");
            all.push_str(&serde_json::to_string_pretty(&normal_json(object))?);
            all.push('\n');
        }
    }
    insta::assert_snapshot!("json", all);
    Ok(())
}

#[tokio::test]
async fn json_of_tasks_has_every_public_column() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    let client = cli.db.client().await?;
    // What only the queue itself uses.
    let internal = ["lane", "message_id", "resend_allowed"];
    for (table, arguments, more) in [
        ("tasks", &["ls", "--json", "-n", "1"][..], &internal[..]),
        ("sessions", &["ls", "--sessions", "--json", "-n", "1"], &[]),
        ("projects", &["project", "ls", "--json"], &[]),
        ("inbox", &["inbox", "--json", "-n", "1"], &[]),
    ] {
        let object = cli.run(arguments).await?.objects().remove(0);
        let sql = "SELECT column_name::text FROM information_schema.columns WHERE table_schema = 'millhand' AND table_name = $1";
        for row in client.query(sql, &[&table]).await? {
            let column: String = row.get(0);
            assert!(
                more.contains(&column.as_str()) || object.get(&column).is_some(),
                "{table}.{column} is missing: {object}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn patch_is_printed_byte_by_byte() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    for id in ["t1", "s1"] {
        let ran = cli.run(&["diff", "--patch", id]).await?;
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
        assert_eq!(ran.stdout, PATCH.concat(), "{id}");
    }
    Ok(())
}

#[tokio::test]
async fn patch_of_a_task_applies_with_git() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    let repository = cli.repository("acme")?;
    let patch = cli.run(&["diff", "--patch", "t1"]).await?.stdout;
    std::fs::write(cli.folder().join("patch"), patch)?;
    let applied =
        tokio::process::Command::new("git").args(["apply", "../patch"]).current_dir(&repository).output().await?;
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    assert_eq!(std::fs::read(repository.join("README.md"))?, b"hello\nworld\n");
    Ok(())
}

#[tokio::test]
async fn nothing_from_a_prompt_or_patch_reaches_a_terminal_raw() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    assert!(HOSTILE_PROMPT.contains('\u{1b}'));
    let commands: &[&[&str]] = &[
        &["ls"],
        &["ls", "--json"],
        &["ls", "--sessions"],
        &["show", "t7"],
        &["show", "s5"],
        &["show", "t7", "--json"],
        &["diff", "t1"],
        &["diff", "t1", "--patch", "--json"],
    ];
    for arguments in commands {
        let mut command = cli.command(arguments);
        // As on a terminal with colours: our own styles are there, and nothing else.
        command.env("CLICOLOR_FORCE", "1");
        let text = super::finish(command).await?.text();
        for (at, _) in text.match_indices('\u{1b}') {
            let style = text[at + 1..].strip_prefix('[').and_then(|rest| rest.split_once('m'));
            let is_style = style.is_some_and(|(codes, _)| codes.bytes().all(|b| b.is_ascii_digit() || b == b';'));
            assert!(is_style, "{arguments:?}: {:?}", &text[at..text.len().min(at + 20)]);
        }
        let unsafe_left =
            text.chars().find(|c| (c.is_control() && !matches!(c, '\n' | '\t' | '\u{1b}')) || *c == '\u{202e}');
        assert_eq!(unsafe_left, None, "{arguments:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_error() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    let client = cli.db.client().await?;
    client
        .batch_execute("INSERT INTO millhand.tasks (project, prompt) SELECT 'acme', repeat('long ', 1000) FROM generate_series(1, 300)")
        .await?;
    for arguments in [&["ls", "-n", "1000"][..], &["ls", "-n", "1000", "--json"]] {
        let mut child = cli.command(arguments).spawn()?;
        // Nobody reads: the first write that does not fit a pipe fails.
        drop(child.stdout.take());
        let output = tokio::time::timeout(super::WITHIN, child.wait_with_output()).await??;
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
    Ok(())
}
