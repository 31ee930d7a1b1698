//! Registering repositories, and finding the one that a command is about.

use anyhow::{Context as _, Result};

use super::Cli;

#[tokio::test]
async fn run_finds_the_project_of_the_repository_that_it_is_in() -> Result<()> {
    let cli = Cli::new().await?;
    let repository = cli.repository("acme")?;
    let below = repository.join("src/deep");
    std::fs::create_dir_all(&below)?;
    std::fs::write(below.join("new.rs"), "fn main() {}\n")?;

    let asked = cli.run_in(&below, &["run", "-d", "x"]).await?;
    assert_eq!(asked.code, 2, "it cannot ask");
    assert!(asked.stderr.contains("--yes"), "{}", asked.stderr);
    assert_eq!(cli.run(&["project", "ls", "--json"]).await?.objects().len(), 0, "nothing was added");

    let ran = cli.run_in(&below, &["run", "-d", "--yes", "x"]).await?;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    insta::assert_snapshot!("run_detached", cli.normal(&format!("{}---\n{}", ran.text(), ran.stderr)));
    // Known by now: from elsewhere in it, and by its name from anywhere.
    assert_eq!(cli.run_in(&repository, &["run", "-d", "y"]).await?.code, 0);
    assert_eq!(cli.run(&["run", "-d", "--project", "acme", "z"]).await?.code, 0);
    assert_eq!(cli.run(&["project", "ls", "--json"]).await?.objects().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_worker_that_is_heard_of_is_not_missed() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    let without = cli.run(&["run", "-d", "--project", "acme", "x"]).await?;
    assert!(without.stderr.contains("no worker is running"), "{}", without.stderr);
    cli.live_worker().await?;
    let with = cli.run(&["run", "-d", "--project", "acme", "x"]).await?;
    assert!(!with.stderr.contains("no worker is running"), "{}", with.stderr);
    let client = cli.db.client().await?;
    client.batch_execute("UPDATE millhand.workers SET heartbeat_at = now() - interval '21 seconds'").await?;
    let gone = cli.run(&["run", "-d", "--project", "acme", "x"]).await?;
    assert!(gone.stderr.contains("no worker is running"), "{}", gone.stderr);
    Ok(())
}

#[tokio::test]
async fn adding_again_changes_what_is_given_and_keeps_the_rest() -> Result<()> {
    let cli = Cli::new().await?;
    let repository = cli.repository("my repo")?;
    let path = repository.to_str().expect("UTF-8");
    let first =
        cli.run(&["project", "add", path, "--model", "a/b", "--env-pass", "TOKEN", "--trust", "--json"]).await?;
    assert_eq!(first.code, 0, "{}", first.stderr);
    let project = &first.objects()[0];
    assert_eq!(
        (&project["name"], &project["default_model"], &project["trusted"]),
        (&"my-repo".into(), &"a/b".into(), &true.into())
    );

    let again = cli
        .run_in(
            &repository,
            &["project", "add", "--on-failure", "continue", "--resend", "ask", "--trust", "false", "--json"],
        )
        .await?;
    let project = &again.objects()[0];
    assert_eq!((&first.objects()[0]["resend"], &project["resend"]), (&"continue".into(), &"ask".into()));
    assert_eq!((&project["on_failure"], &project["trusted"]), (&"continue".into(), &false.into()));
    assert_eq!(
        (&project["default_model"], &project["env_pass"]),
        (&"a/b".into(), &serde_json::json!(["TOKEN"])),
        "kept"
    );

    let other = cli.repository("other")?;
    let taken = cli.run_in(&other, &["project", "add", "--name", "my-repo"]).await?;
    assert_eq!((taken.code, taken.stderr.contains("already registered")), (2, true), "{}", taken.stderr);
    let odd = cli.run_in(&other, &["project", "add", "--name", "a b"]).await?;
    assert_eq!((odd.code, odd.stderr.contains("--name NAME")), (2, true), "{}", odd.stderr);
    let branch = cli.run_in(&other, &["project", "add", "--branch", "nowhere"]).await?;
    assert_eq!((branch.code, branch.stderr.contains("nowhere")), (2, true), "{}", branch.stderr);
    let variable = cli.run_in(&other, &["project", "add", "--env-pass", "TOKEN=geheim"]).await?;
    assert_eq!((variable.code, variable.stderr.contains("names only")), (2, true), "{}", variable.stderr);
    assert_eq!(cli.run(&["project", "ls", "--json"]).await?.objects().len(), 1);
    Ok(())
}

#[tokio::test]
async fn removing_a_project_keeps_what_it_cost_and_refuses_what_would_be_lost() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    assert_eq!(cli.run(&["project", "rm", "acme"]).await?.code, 2, "tasks wait in it");
    let client = cli.db.client().await?;
    client
        .batch_execute(
            "UPDATE millhand.tasks SET state = 'running' WHERE id = 7;
             INSERT INTO millhand.leases VALUES (5, 7, gen_random_uuid(), gen_random_uuid(), now() + interval '1 hour')",
        )
        .await?;
    let running = cli.run(&["project", "rm", "acme", "--force"]).await?;
    assert_eq!((running.code, running.stderr.contains("running")), (2, true), "{}", running.stderr);
    client
        .batch_execute("DELETE FROM millhand.leases; UPDATE millhand.tasks SET state = 'cancelled' WHERE id = 7")
        .await?;

    let before = cli.run(&["stats", "costs", "--json"]).await?.text();
    let removed = cli.run(&["project", "rm", "acme", "--force"]).await?;
    assert_eq!(removed.code, 0, "{}", removed.stderr);
    assert_eq!(cli.run(&["project", "rm", "acme"]).await?.code, 6);
    let after = cli.run(&["stats", "costs", "--json"]).await?.text();
    assert_eq!(before, after, "what was paid stays, down to how many tasks it was for");
    let logged: i64 =
        client.query_one("SELECT count(*) FROM millhand.audit_log WHERE action = 'remove_project'", &[]).await?.get(0);
    assert_eq!(logged, 1);
    Ok(())
}

#[tokio::test]
async fn a_password_in_a_url_is_shown_nowhere() -> Result<()> {
    let cli = Cli::new().await?;
    let client = cli.db.client().await?;
    client
        .execute("SELECT millhand.add_project('remote', 'https://ada:hunter2@git.example.invalid/acme.git')", &[])
        .await?;
    for arguments in [&["project", "ls"][..], &["project", "ls", "--json"], &["project", "rm", "remote", "--json"]] {
        let ran = cli.run(arguments).await?;
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(ran.text().contains("git.example.invalid") && !ran.text().contains("hunter2"), "{}", ran.text());
        assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn run_asks_before_it_registers_a_repository_and_takes_no_for_an_answer() -> Result<()> {
    let cli = Cli::new().await?;
    let repository = cli.repository("acme")?;
    let Some((code, screen)) = cli.at_a_terminal(&repository, "run -d x", &[], Some(("[y/N]", "n\n"))).await? else {
        crate::support::not_run!("a question at a terminal: the program script (util-linux) is not there");
        return Ok(());
    };
    assert_eq!(code, 2, "{screen}");
    assert_eq!(cli.run(&["project", "ls", "--json"]).await?.objects().len(), 0, "{screen}");
    let (code, screen) =
        cli.at_a_terminal(&repository, "run -d x", &[], Some(("[y/N]", "y\n"))).await?.context("script")?;
    assert_eq!(code, 0, "{screen}");
    assert_eq!(cli.run(&["project", "ls", "--json"]).await?.objects().len(), 1, "{screen}");
    assert_eq!(cli.run(&["ls", "--json"]).await?.objects().len(), 1, "{screen}");
    Ok(())
}
