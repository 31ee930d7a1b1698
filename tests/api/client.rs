//! A client that a generator makes from the served document does all that the API can, on `millhand api` and real turns.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use millhand::{actions, model::access::Scope};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use super::routes::WRITES;
use crate::support::{
    programs::node_major,
    worker::command,
    world::{World, stop},
};

/// Longest that all of it may take.
const WITHIN: Duration = Duration::from_secs(600);
/// The oldest Node that the generator runs on.
const NODE: u32 = 20;
const ASKS: &str = r#"[
    {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "touch asked.txt", "description": "Touch"}},
    {"type": "text", "content": "I went on."}, {"type": "done"}
]"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_made_from_the_document_does_all_that_there_is() -> Result<()> {
    let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("../web");
    if !web.join("node_modules/@hey-api/openapi-ts").exists() || node_major().await.is_none_or(|major| major < NODE) {
        crate::support::not_run!(
            "a client made from the document: Node {NODE} and the libraries of ops/web are not there"
        );
        return Ok(());
    }
    let mut world = World::new(&[("writes", WRITES), ("asks", ASKS)]).await?;
    let mut config: Value = serde_json::from_str(world.settings.opencode.config.as_deref().unwrap_or_default())?;
    config["permission"] = serde_json::json!({ "bash": { "*": "allow", "touch*": "ask" } });
    world.settings.opencode.config = Some(config.to_string());
    world.sql("UPDATE millhand.projects SET ask_policy = 'inbox'").await?;
    let host = world.start().await?;
    let (_, token) = actions::add_token(&world.db.store()?, "client", &[Scope::Admin], None).await?;
    let mut served = command(&world, "api", &[])?
        .args(["--listen", "127.0.0.1:0", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .context("millhand api")?;
    let mut said = String::new();
    BufReader::new(served.stdout.take().context("stdout")?).read_line(&mut said).await?;
    let said: Value = serde_json::from_str(&said).with_context(|| crate::support::worker::log(&world))?;
    let walk = Command::new("node")
        .arg(web.join("tests/client/run.mjs"))
        .env("MILLHAND_CLIENT_URL", said["url"].as_str().context("url")?)
        .env("MILLHAND_CLIENT_TOKEN", token.expose_secret())
        .env("MILLHAND_CLIENT_REPOSITORY", world.repository())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(WITHIN, walk).await.context("the client did not come to an end")??;
    let told = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{told}");
    served.kill().await?;
    stop(host).await;
    Ok(())
}
