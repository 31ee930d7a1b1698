//! The dashboard in a real browser, against a real worker, its API and opencode with a scripted model: `web/tests/browser` is what the person
//! does, here is what that leaves.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use millhand::{actions, model::access::Scope};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{
    programs::node_major,
    serve_api,
    world::{World, git, make_repository, stop},
};

/// Longest that all of it may take.
const WITHIN: Duration = Duration::from_secs(900);
/// The oldest Node that playwright runs on.
const NODE: u32 = 20;

/// Streams slowly, changes three files, and does as a reviewer says.
const GREET: &str = r##"{"chunk_delay_ms": 25, "steps": [
  {"type": "reasoning", "content": "The README says what greet does; the flag belongs there too."},
  {"type": "text", "content": "I add the flag to `greet` and say so in the README.\n\n- **one** object for each name\n- nothing else on stdout\n\nThe words come one after another, so that whoever watches sees them come. What is printed today stays as it is, because programs read it; the flag is for those that want to know which name a greeting is for, and would otherwise have to guess it from the text. I look at how the arguments are read first, then at the tests, and leave everything else alone."},
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "printf '# acme\\n\\ngreets people, also as JSON\\n' > README.md", "description": "Say it in README.md"}},
  {"type": "text", "content": "Now the program itself."},
  {"type": "tool_call", "id": "c2", "name": "write", "arguments": {"filePath": "src/greet.sh", "content": "#!/bin/sh\necho \"{\\\"name\\\": \\\"$1\\\"}\"\n"}},
  {"type": "tool_call", "id": "c3", "name": "bash", "arguments": {"command": "printf 'test:\\n\\tsh src/greet.sh Ada\\n' > Makefile", "description": "A way to test it"}},
  {"type": "text", "content": "The flag is there."},
  {"type": "done"},
  {"type": "tool_call", "id": "c4", "name": "bash", "arguments": {"command": "sed -i 's/^echo/printf/' src/greet.sh", "description": "As the reviewer said"}},
  {"type": "text", "content": "It is printf now."},
  {"type": "done"}
]}"##;
const TOUCHES: &str = r#"[
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "touch asked.txt", "description": "Touch"}},
  {"type": "text", "content": "I went on."}, {"type": "done"}
]"#;
const QUESTIONS: &str = r#"[
  {"type": "tool_call", "id": "c1", "name": "question", "arguments": {"questions": [
    {"question": "Which database?", "header": "Database", "options": [
      {"label": "Postgres", "description": "The one that is there"}, {"label": "SQLite", "description": "A file"}]},
    {"question": "What name?", "header": "Name", "options": [{"label": "acme", "description": "As the project"}]}]}},
  {"type": "text", "content": "I know now."}, {"type": "done"}
]"#;
const FAILS: &str = r#"[{"type": "http", "status": 400, "message": "the provider says no"}, {"type": "done"}]"#;
/// Two that write the same line; the second one makes one of both when it is told of the conflict.
const LEFT: &str = r##"[
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "echo '# left' > README.md", "description": "Left"}},
  {"type": "text", "content": "It is left."}, {"type": "done"}
]"##;
const RIGHT: &str = r##"[
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "echo '# right' > README.md", "description": "Right"}},
  {"type": "text", "content": "It is right."}, {"type": "done"},
  {"type": "tool_call", "id": "c2", "name": "bash", "arguments": {"command": "echo '# left and right' > README.md", "description": "Both"}},
  {"type": "text", "content": "It is both."}, {"type": "done"}
]"##;
const NOTES: &str = r#"[
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "echo the first note > notes.txt", "description": "First"}},
  {"type": "text", "content": "First."}, {"type": "done"},
  {"type": "tool_call", "id": "c2", "name": "bash", "arguments": {"command": "echo the second note > notes.txt", "description": "Second"}},
  {"type": "text", "content": "Second."}, {"type": "done"}
]"#;
const MANY: &str = r#"[
  {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": "for d in $(seq 0 99); do mkdir -p many/$d; for n in $(seq $((d * 50)) $((d * 50 + 49))); do echo file number $n > many/$d/file-$n.txt; done; done", "description": "Write them"}},
  {"type": "text", "content": "They are there."}, {"type": "done"}
]"#;
const SHORT: &str = r#"[{"type": "text", "content": "Short."}, {"type": "done"}]"#;

/// What an agent may say to hurt who looks.
fn corpus() -> Result<Value> {
    Ok(serde_json::from_str(include_str!("../web/tests/browser/hostile.json"))?)
}

/// A model that says, thinks, calls and writes all of it.
fn hostile(corpus: &Value) -> Result<String> {
    let texts: Vec<_> = corpus["texts"].as_array().context("texts")?.iter().filter_map(Value::as_str).collect();
    let all = texts.join("\n");
    let mut steps = vec![json!({"type": "reasoning", "content": all}), json!({"type": "text", "content": all})];
    for (at, name) in corpus["names"].as_array().context("names")?.iter().enumerate() {
        let arguments = json!({"filePath": name, "content": all});
        steps.push(json!({"type": "tool_call", "id": format!("c{at}"), "name": "write", "arguments": arguments}));
    }
    let arguments =
        json!({"command": format!("printf '%s' '{}'", all.replace('\'', "'\\''")), "description": texts[1]});
    steps.push(json!({"type": "tool_call", "id": "shell", "name": "bash", "arguments": arguments}));
    steps.extend([
        json!({"type": "text", "content": format!("```\n{all}\n```\n\n- {}", texts.join("\n- "))}),
        json!({"type": "done"}),
    ]);
    Ok(Value::Array(steps).to_string())
}

/// A world in which agents may ask, with a second project that is hostile by its branch, too.
async fn world(corpus: &Value) -> Result<World> {
    let said = hostile(corpus)?;
    let message = corpus["texts"][1].as_str().context("text")?;
    let error = json!([{"type": "http", "status": 400, "message": message}, {"type": "done"}]).to_string();
    // Long enough to be cut off in three times, each with the wait until the page comes back.
    let slow = GREET.replace(r#""chunk_delay_ms": 25"#, r#""chunk_delay_ms": 150"#);
    let scripts = [
        ("short", SHORT),
        ("greet", GREET),
        ("slow", slow.as_str()),
        ("touches", TOUCHES),
        ("questions", QUESTIONS),
        ("fails", FAILS),
        ("left", LEFT),
        ("right", RIGHT),
        ("notes", NOTES),
        ("many", MANY),
        ("hostile", said.as_str()),
        ("hostile-error", error.as_str()),
    ];
    let mut world = World::new(&scripts).await?;
    let text = world.settings.opencode.config.take().unwrap_or_default();
    let mut config: Value = serde_json::from_str(&text)?;
    config["permission"] = json!({"bash": {"*": "allow", "touch*": "ask"}});
    world.settings.opencode.config = Some(config.to_string());
    world.settings.timings.reap = Duration::from_secs(1);
    world.settings.timings.forecast = Duration::from_secs(1);
    make_repository(&lines(&world), &[("README.md", "# lines\n")])?;
    let other = world.path().canonicalize()?.join("hostile");
    let branch = corpus["branch"].as_str().context("branch")?;
    make_repository(&other, &[("README.md", "# hostile\n")])?;
    git(&other, &["checkout", "-q", "-b", branch])?;
    world.sql(&format!("SELECT millhand.add_project('hostile', '{}', '{branch}')", other.display())).await?;
    world.sql("UPDATE millhand.projects SET ask_policy = 'inbox', default_model = 'scripted/greet'").await?;
    Ok(world)
}

/// A repository that is to be registered in the browser.
fn lines(world: &World) -> PathBuf {
    world.repository().with_file_name("lines")
}

/// Why it cannot run here.
async fn missing() -> Option<String> {
    let chromium =
        std::env::var_os("MILLHAND_CHROMIUM").map_or_else(|| PathBuf::from("/usr/bin/chromium"), PathBuf::from);
    let web = web();
    let node = node_major().await;
    [
        (!chromium.exists()).then(|| format!("{} is not there", chromium.display())),
        node.is_none_or(|major| major < NODE).then(|| format!("Node {NODE} or newer is not there")),
        (!web.join("dist/index.html").exists()).then(|| "the dashboard is not built: ops/web".to_owned()),
        (!web.join("node_modules/playwright-core").exists()).then(|| "its libraries are not there: ops/web".to_owned()),
    ]
    .into_iter()
    .flatten()
    .next()
}

fn web() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../web")
}

#[tokio::test(flavor = "multi_thread")]
async fn people_work_with_the_dashboard_and_nothing_hostile_runs_in_it() -> Result<()> {
    if let Some(why) = missing().await {
        crate::support::not_run!("the dashboard in a browser: {why}");
        return Ok(());
    }
    let corpus = corpus()?;
    let world = world(&corpus).await?;
    let host = world.start().await?;
    let served = serve_api(&world.settings, world.db.store()?).await?;
    let code = actions::add_login_code(&world.db.store()?, "ada", &[Scope::Admin], WITHIN).await?;
    let mut command = Command::new("node");
    command
        .arg(web().join("tests/browser/run.mjs"))
        .env("MILLHAND_BROWSER_URL", format!("http://{}", served.address))
        .env("MILLHAND_BROWSER_LOGIN", format!("http://{}/login?code={}", served.address, code.expose_secret()))
        .env("MILLHAND_BROWSER_REPOSITORY", lines(&world))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if std::env::var_os("MILLHAND_SCREENSHOTS").is_some() {
        command.env("MILLHAND_BROWSER_SHOTS", web().join("screenshots"));
    }
    let output =
        tokio::time::timeout(WITHIN, command.output()).await.context("the browser did not come to an end")??;
    let told = String::from_utf8_lossy(&output.stdout);
    println!("{told}");
    ensure!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    left(&world).await?;
    served.stop().await;
    stop(host).await;
    Ok(())
}

/// What the browser did is what there is.
async fn left(world: &World) -> Result<()> {
    let repository = world.repository();
    assert_eq!(git(&repository, &["log", "-1", "--format=%s"])?, "Say that it speaks JSON");
    assert_eq!(
        git(&repository, &["show", "--stat", "--format=", "--name-only", "HEAD"])?,
        "README.md",
        "what was approved, and no more"
    );
    ensure!(!repository.join("Makefile").exists() && !repository.join("src/greet.sh").exists());
    let states = world.sql("SELECT DISTINCT p.path, p.state FROM millhand.pending_changes p JOIN millhand.change_sets c ON c.id = p.change_set_id WHERE c.project = 'acme' AND p.state IN ('applied', 'rejected') ORDER BY 1").await?;
    let states: Vec<(String, String)> = states.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(
        states,
        [("Makefile".to_owned(), "rejected".to_owned()), ("README.md".to_owned(), "applied".to_owned())]
    );
    let lines = lines(world);
    let subjects = git(&lines, &["log", "--format=%s"])?;
    ensure!(subjects.lines().count() == 3, "two were applied, one after the other: {subjects}");
    assert_eq!(std::fs::read_to_string(lines.join("README.md"))?, "# left and right\n");
    ensure!(!lines.join("notes.txt").exists() && !lines.join("many").exists());
    let webhooks: i64 = world.one("SELECT count(*) FROM millhand.webhooks").await?;
    assert_eq!(webhooks, 0);
    let sent: i64 = world
        .one("SELECT count(*) FROM millhand.review_comments WHERE task_id IS NOT NULL AND body = 'Why not printf?'")
        .await?;
    assert_eq!(sent, 1);
    let answered = world.sql("SELECT answer, replies FROM millhand.asks ORDER BY id").await?;
    let answered: Vec<(String, Option<Value>)> = answered.iter().map(|row| (row.get(0), row.get(1))).collect();
    let replies = json!([["SQLite"], ["something of my own"]]);
    assert_eq!(answered, [("once".to_owned(), None), ("reply".to_owned(), Some(replies))]);
    let retried: i64 = world
        .one("SELECT count(*) FROM millhand.tasks WHERE prompt = 'This one works' AND model = 'scripted/short' AND state = 'completed'")
        .await?;
    assert_eq!(retried, 1);
    let dismissed: i64 = world
        .one("SELECT count(*) FROM millhand.tasks WHERE prompt LIKE 'Dismiss th%' AND dismissed_at IS NOT NULL")
        .await?;
    assert_eq!(dismissed, 2);
    let limit: rust_decimal::Decimal =
        world.one("SELECT limit_usd FROM millhand.budgets WHERE project IS NULL AND per = 'day'").await?;
    assert_eq!(limit, rust_decimal::Decimal::from(20));
    Ok(())
}
