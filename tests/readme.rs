//! The README is run as it stands.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result};
use millhand::scripted::Prices;
use tokio::io::AsyncWriteExt;

use crate::support::{TestDb, millhand, model::start_model, tools_folder, world::make_repository};

fn blocks(language: &str) -> Vec<String> {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).expect("README.md");
    let (mut found, mut open) = (Vec::new(), None::<String>);
    for line in page.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some(_)) => found.extend(open.take()),
            (None, Some(tag)) => open = (tag == language).then(String::new),
            (Some(block), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

#[tokio::test]
async fn the_sql_of_the_readme_runs_as_it_stands() {
    let db = TestDb::new().await.expect("database");
    let client = db.client().await.expect("client");
    client.batch_execute("SELECT millhand.add_project('acme', '/src/acme')").await.expect("project");
    let blocks = blocks("sql");
    assert!(!blocks.is_empty());
    for statement in blocks.iter().flat_map(|block| block.split_inclusive(";")).filter(|s| s.contains("millhand.")) {
        client.simple_query(statement).await.unwrap_or_else(|error| panic!("{statement}\n{error:?}"));
    }
    let states: String = client
        .query_one("SELECT string_agg(state, ' ' ORDER BY id) FROM millhand.tasks", &[])
        .await
        .expect("tasks")
        .get(0);
    assert_eq!(states, "pending cancelled");
}

/// The commands are typed into a terminal, as a user who has nothing of Millhand yet; only the model is a scripted one, and the program is the
/// one under test instead of an installed one.
#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_readme_run_as_they_stand() -> Result<()> {
    let script = r#"[
      {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "echo json >> ls.sh", "description": "Add"}},
      {"type": "text", "content": "Added."}, {"type": "done"},
      {"type": "tool_call", "id": "c2", "name": "bash", "arguments": {"command": "echo test > test.sh", "description": "Test"}},
      {"type": "text", "content": "Tested."}, {"type": "done"}
    ]"#;
    let model = start_model(&[("acme", script)]).await?;
    let folder = tempfile::Builder::new().prefix("mh-readme-").tempdir()?;
    let home = folder.path().join("user");
    make_repository(&home.join("src/acme"), &[("ls.sh", "ls\n")])?;
    let millhand_home = folder.path().join("millhand");
    std::fs::create_dir_all(millhand_home.join("private"))?;
    let mut config = model.provider_config(Prices::default());
    config["enabled_providers"] = serde_json::json!(["scripted"]);
    std::fs::write(
        millhand_home.join("private/millhand.toml"),
        format!("[agent.opencode]\nconfig = '{config}'\ndefault_model = \"scripted/acme\"\n"),
    )?;
    // What setup would install is shared with the other tests.
    std::os::unix::fs::symlink(tools_folder(), millhand_home.join("tools"))?;

    let blocks: Vec<_> = blocks("sh").into_iter().filter(|block| block.contains("millhand ")).collect();
    anyhow::ensure!(blocks.len() >= 2, "README.md has too few commands");
    let commands = format!(
        "set -euxo pipefail\ncargo() {{ test \"$*\" = 'install --locked --path worker'; }}\ntrap 'millhand down' EXIT\n{}",
        blocks.concat()
    );
    let file = folder.path().join("commands.sh");
    std::fs::write(&file, commands)?;
    let program = millhand().parent().context("folder")?.to_owned();
    let path = format!("{}:{}", program.display(), std::env::var("PATH")?);
    // A terminal, with somebody who says yes when asked to register the repository.
    let mut terminal = tokio::process::Command::new("script")
        .args(["--quiet", "--return", "--command", &format!("bash {}", file.display()), "/dev/null"])
        .current_dir(folder.path())
        .env_clear()
        // With a pager that waits for nobody.
        .envs([("PATH", path.as_str()), ("TERM", "dumb"), ("LANG", "C.UTF-8"), ("PAGER", "cat")])
        .env("HOME", &home)
        .env("MILLHAND_HOME", &millhand_home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut keyboard = terminal.stdin.take().context("stdin")?;
    keyboard.write_all(b"y\n").await?;
    let output = tokio::time::timeout(Duration::from_secs(240), terminal.wait_with_output()).await??;
    drop(keyboard);
    let screen = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(output.status.success(), "{}\n{screen}", output.status);
    for expected in ["t1 completed", "Added.", "Tested.", "+json", "scripted/acme", "Nothing needs you"] {
        anyhow::ensure!(screen.contains(expected), "no {expected:?} in\n{screen}");
    }
    let applied = std::fs::read_to_string(home.join("src/acme/ls.sh"))?;
    assert_eq!(applied, "ls\njson\n", "millhand apply");
    Ok(())
}
