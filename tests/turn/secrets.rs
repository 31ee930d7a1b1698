//! A canary is found in no log, no row and no page, in whatever form an agent prints it.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use millhand::{actions, model::access::Scope};
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::{
    access::tokens::dump,
    support::{
        serve_api,
        worker::{self, log},
        world::World,
    },
};

/// With what is escaped in addresses and in base64.
const CANARY: &str = "ca/na+ry=5f3a9b?&c1d7e2";
/// Prints what it knows in each form, and leaves its server's password where the test finds it.
const PRINTS: &str = r#"env; for before in "" x xy; do printf '%s%s%s' "$before" "$CANARY_TOKEN" "$before" | base64 -w0; echo; done;
printf %s "$OPENCODE_SERVER_PASSWORD" | base64 -w0; echo; printf %s "$OPENCODE_SERVER_PASSWORD" >"$TMPDIR/password";
node -e 'console.log(encodeURIComponent(process.env.CANARY_TOKEN))'; echo "$CANARY_TOKEN" >&2; exit 3"#;

/// What a secret looks like: as it is, in base64 by each alignment, percent-encoded, within JSON.
fn forms(secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned(), secret.replace('"', "\\\"")];
    for before in ["", "x", "xy"] {
        for engine in [&STANDARD, &URL_SAFE] {
            // The middle: its ends depend on what is around it.
            let whole = engine.encode(format!("{before}{secret}"));
            forms.push(whole[4..whole.len() - 4].to_owned());
        }
    }
    let encoded =
        secret.replace('/', "%2F").replace('+', "%2B").replace('=', "%3D").replace('?', "%3F").replace('&', "%26");
    forms.extend([encoded.to_lowercase(), encoded]);
    forms
}

/// Nothing of it is to be found in a text.
fn is_clean(place: &str, text: &str, secrets: &[&str]) -> Result<()> {
    for form in secrets.iter().flat_map(|secret| forms(secret)) {
        ensure!(!text.contains(&form), "{form} in {place}: {}", excerpt(text, &form));
    }
    Ok(())
}

fn excerpt<'a>(text: &'a str, form: &str) -> &'a str {
    let at = text.find(form).unwrap_or(0);
    text.get(at.saturating_sub(100)..(at + 200).min(text.len())).unwrap_or_default()
}

/// What all files below a folder hold.
fn files(folder: &Path, into: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path(), into),
            Ok(kind) if kind.is_file() => {
                let text = String::from_utf8_lossy(&fs::read(entry.path()).unwrap_or_default()).into_owned();
                into.push((entry.path().display().to_string(), text));
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_an_agent_prints_is_in_no_log_no_row_and_no_page() -> Result<()> {
    // Streamed in pieces of a few characters, with a pause before each, so that pieces are recorded one by one.
    let said =
        format!("I found {CANARY}, which is {}, or {}.", STANDARD.encode(CANARY), forms(CANARY).pop().context("form")?);
    let script = json!({"chunk_delay_ms": 120, "steps": [
        {"type": "reasoning", "content": said},
        {"type": "text", "content": said},
        {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": PRINTS, "description": CANARY}},
        {"type": "tool_call", "id": "c2", "name": "bash", "arguments": {"command": format!("touch '{CANARY}'"), "description": "Ask"}},
        {"type": "text", "content": said}, {"type": "done"},
    ]});
    let error = json!([{"type": "http", "status": 400, "message": format!("no key: {CANARY}")}, {"type": "done"}]);
    let mut world = World::new(&[("prints", &script.to_string()), ("fails", &error.to_string())]).await?;
    let mut config: serde_json::Value =
        serde_json::from_str(world.settings.opencode.config.as_deref().unwrap_or_default())?;
    config["permission"] = json!({ "bash": { "*": "allow", "touch*": "ask" } });
    world.settings.opencode.config = Some(config.to_string());
    world.sql("UPDATE millhand.projects SET ask_policy = 'inbox', env_pass = '{CANARY_TOKEN}'").await?;
    let served = serve_api(&world.settings, world.db.store()?).await?;
    let (_, token) = actions::add_token(&world.db.store()?, "reader", &[Scope::Admin], None).await?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let get = async |path: &str| -> Result<String> {
        let url = format!("http://{}{path}", served.address);
        Ok(http.get(url).bearer_auth(token.expose_secret()).send().await?.error_for_status()?.text().await?)
    };
    let variables =
        [("CANARY_TOKEN", CANARY), ("MILLHAND_LOG_LEVEL", "trace"), ("MILLHAND_TIMINGS_PERSON_ANSWER", "3s")];
    let mut process = worker::start(&world, &variables)?;
    let task = world.queue("print it").await?;
    // Whoever watches sees what is recorded of it on the way; deltas are dropped later.
    let stream = format!("/api/tasks/{task}/stream");
    let live = tokio::time::timeout(Duration::from_secs(240), get(&stream));
    let live = live.await.context("the stream has no end")??;
    let failed = world.queue_for("fails", "fail").await?;
    let (state, failure) = (world.settled(task).await?, world.settled(failed).await?);
    process.kill().await?;

    let mut passwords = Vec::new();
    files(&world.settings.home.root().join("agents"), &mut passwords);
    let password =
        passwords.iter().find(|(path, _)| path.ends_with("/password")).context("it printed its password")?.1.clone();
    ensure!(password.len() > 20, "{password}");
    let secrets = [CANARY, password.as_str()];

    is_clean("what streamed", &live, &secrets)?;
    let mut pieces = BTreeMap::<String, String>::new();
    for data in live.lines().filter_map(|line| line.strip_prefix("data:")) {
        let event: serde_json::Value = serde_json::from_str(data)?;
        if let (Some(part), Some(delta)) = (event["part"].as_str(), event["data"]["delta"].as_str()) {
            pieces.entry(part.to_owned()).or_default().push_str(delta);
        }
    }
    ensure!(!pieces.is_empty(), "it streamed in pieces: {live}");
    for text in pieces.values() {
        is_clean("pieces put together", text, &secrets)?;
        ensure!(text.contains("[redacted]"), "{text}");
    }
    let rows = dump(&world.db).await?;
    ensure!(rows.contains("[redacted]") && rows.contains("I found [redacted], which is"), "{state} {failure}");
    is_clean("the database", &rows, &secrets)?;
    is_clean("the worker's log", &log(&world), &secrets)?;
    for folder in ["logs", "private/logs", "private"] {
        let mut logs = Vec::new();
        files(&world.settings.home.root().join(folder), &mut logs);
        for (path, text) in logs.iter().filter(|(path, _)| path.ends_with(".log")) {
            is_clean(path, text, &secrets)?;
        }
    }
    for page in [
        "/api/tasks?limit=500",
        &format!("/api/tasks/{task}"),
        &format!("/api/tasks/{failed}"),
        "/api/inbox",
        "/api/asks",
        "/api/audit?limit=500",
        &format!("/api/tasks/{task}/events?limit=500"),
        &format!("/api/tasks/{failed}/events?limit=500"),
        "/api/sessions",
        "/api/sessions/1",
        "/api/sessions/1/chats",
        "/api/sessions/1/agent-sessions",
        "/api/agents",
        "/api/servers",
        "/api/workers",
        "/api/overview",
        "/metrics",
    ] {
        is_clean(page, &get(page).await?, &secrets)?;
    }
    served.stop().await;
    Ok(())
}
