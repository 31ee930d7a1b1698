//! What an opencode server is started with, and what the agent sees of it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use millhand::{
    agent::Backend,
    model::{
        ask::AskPolicy,
        event::{AgentEvent, ToolStatus},
        outcome::Ending,
    },
};
use serde_json::{Value, json};

use super::rig::{Ran, Rig, prompt};

const FINE: &str = r#"[{"type": "text", "content": "Fine."}, {"type": "done"}, {"type": "text", "content": "Again."}, {"type": "done"}]"#;

fn bash(command: &str) -> String {
    json!([
        {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": command, "description": "Run"}},
        {"type": "text", "content": "Done."},
        {"type": "done"},
    ])
    .to_string()
}

fn output(ran: &Ran) -> Option<&str> {
    ran.events.iter().rev().find_map(|event| match event {
        AgentEvent::Tool { call, .. } if call.status == ToolStatus::Completed => call.output.as_deref(),
        _ => None,
    })
}

#[tokio::test]
async fn the_agent_sees_only_variables_that_are_allowed() -> Result<()> {
    let canary = "c4n4ry";
    let mut rig = Rig::with(&[("env", &bash("env"))], json!({"username": "{env:NAMED_IN_CONFIG}"}), |setup| {
        for name in [
            "DATABASE_URL",
            "PGPASSWORD",
            "MILLHAND_DATABASE_URL",
            "SSH_AUTH_SOCK",
            "DBUS_SESSION_BUS_ADDRESS",
            "XDG_RUNTIME_DIR",
            "DOCKER_HOST",
            "OPENCODE_AUTH_CONTENT",
            "SOME_SECRET",
            "PASSED_ON",
            "NAMED_IN_CONFIG",
        ] {
            setup.environment.insert(name.into(), format!("{canary}-{name}").into());
        }
    })
    .await?;
    rig.project.env_pass = vec!["PASSED_ON".to_owned(), "DATABASE_URL".to_owned()];
    let ran = rig.run("env").await?;
    assert_eq!(ran.report.ending, Ending::Completed, "{ran:?}");
    let output = output(&ran).context("what env printed")?;
    let seen: BTreeSet<&str> = output.lines().filter(|line| line.contains(canary)).collect();
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        ["NAMED_IN_CONFIG=c4n4ry-NAMED_IN_CONFIG", "PASSED_ON=c4n4ry-PASSED_ON"]
    );
    let folder = rig.project.folder.to_str().context("a path")?;
    let value = |name: &str| output.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
    for name in ["TMPDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"] {
        assert!(value(name).is_some_and(|value| value.starts_with(folder)), "{name}: {output}");
    }
    assert_eq!(
        value("HOME").map(Path::new),
        rig.setup.environment.get("HOME".as_ref() as &std::ffi::OsStr).map(Path::new)
    );
    assert!(!output.contains("apiKey"), "the operator's configuration may hold keys: {output}");
    rig.end().await
}

/// A repository with code that opencode could run, each kind writing a file of its own when it does.
struct Planted {
    files: Vec<(&'static str, String)>,
    ran: Vec<PathBuf>,
}

impl Planted {
    fn new(here: &Path, name: &str, with_plugins: bool) -> Self {
        let [mcp, tool, plugin, named] =
            ["mcp", "tool", "plugin", "named"].map(|kind| here.join(format!("{name}-{kind}")));
        let code = |path: &Path| {
            let path = json!(path);
            format!(
                "import {{ writeFileSync }} from 'node:fs'; writeFileSync({path}, 'ran'); export const P = async () => ({{}});"
            )
        };
        let mut config = json!({
            "$schema": "https://opencode.ai/config.json",
            "mcp": {"evil": {"type": "local", "command": ["touch", mcp], "enabled": true}},
        });
        let mut files = vec![(".opencode/tool/evil.ts", code(&tool))];
        let mut ran = vec![mcp, tool];
        if with_plugins {
            config["plugin"] = json!(["./named.js"]);
            files.extend([(".opencode/plugin/x.js", code(&plugin)), ("named.js", code(&named))]);
            ran.extend([plugin, named]);
        }
        files.push(("opencode.json", config.to_string()));
        Self { files, ran }
    }

    fn files(&self) -> Vec<(&str, &str)> {
        self.files.iter().map(|(path, content)| (*path, content.as_str())).collect()
    }

    fn ran(&self) -> Vec<&Path> {
        self.ran.iter().map(PathBuf::as_path).filter(|path| path.exists()).collect()
    }
}

#[tokio::test]
async fn a_repository_s_own_code_runs_only_when_it_is_trusted() -> Result<()> {
    let mut rig = Rig::new(&[("fine", FINE)]).await?;
    let here = rig.folder.path().canonicalize()?;
    // Plugins opencode would run even so: such a repository is refused.
    let planted = Planted::new(&here, "plugins", true);
    let directory = rig.worktree("plugins", &planted.files()).await?;
    let (events, _keep) = tokio::sync::mpsc::channel(100);
    let error = rig.backend.ensure_session(rig.request(&directory, "fine"), &events).await.expect_err("refused");
    assert_eq!(error.ending, Ending::RepositoryRefused);
    assert!(error.message.contains("trust"), "{error}");

    // The rest is off, for all turns.
    let planted = Planted::new(&here, "distrusted", false);
    let directory = rig.worktree("distrusted", &planted.files()).await?;
    let session = rig.session(&directory, "fine").await?;
    for text in ["Go", "Again"] {
        let ran = rig.prompt(&session, prompt(text)).await?;
        assert_eq!(ran.report.ending, Ending::Completed, "{ran:?}");
    }
    assert_eq!(planted.ran(), Vec::<&Path>::new());
    assert!(!directory.join(".opencode/node_modules").exists(), "the worktree stays clean");
    // A plugin that came later is refused later.
    std::fs::create_dir_all(directory.join(".opencode/plugin"))?;
    std::fs::write(directory.join(".opencode/plugin/late.js"), "")?;
    assert_eq!(rig.prompt(&session, prompt("More")).await?.report.ending, Ending::RepositoryRefused);

    // The check is checked: with trust it runs. Without `.opencode`, for which opencode would ask the package registry.
    rig.project.trusted = true;
    let mut planted = Planted::new(&here, "trusted", true);
    planted.files.retain(|(path, _)| !path.starts_with(".opencode"));
    planted.ran.retain(|path| !path.ends_with("trusted-tool") && !path.ends_with("trusted-plugin"));
    let directory = rig.worktree("trusted", &planted.files()).await?;
    let session = rig.session(&directory, "fine").await?;
    rig.prompt(&session, prompt("Go")).await?;
    assert_eq!(planted.ran().len(), planted.ran.len(), "{:?}", planted.ran());
    rig.end().await
}

/// All that the model was told by the system in its last request with tools.
fn system(rig: &Rig) -> String {
    let requests = rig.model.requests();
    let last = requests.iter().rev().find(|request| request.tools_offered).map(|request| request.messages());
    let system = last.unwrap_or_default().into_iter().filter(|message| message["role"] == "system");
    system.map(|message| message["content"].to_string()).collect()
}

#[tokio::test]
async fn a_repository_s_instructions_reach_the_model_each_worktrees_own() -> Result<()> {
    let mut rig = Rig::new(&[("fine", FINE)]).await?;
    for (name, file, canary) in [("one", "AGENTS.md", "speak in rhymes"), ("two", "CLAUDE.md", "never use tabs")] {
        let directory = rig.worktree(name, &[(file, canary)]).await?;
        let session = rig.session(&directory, "fine").await?;
        rig.prompt(&session, prompt("Go")).await?;
        assert_eq!(system(&rig).matches(canary).count(), 1, "{name}: {}", system(&rig));
        // What the session writes into it counts from the next prompt on.
        std::fs::write(directory.join(file), "changed since")?;
        rig.prompt(&session, prompt("Again")).await?;
        assert!(system(&rig).contains("changed since") && !system(&rig).contains(canary));
    }
    // Trusted, opencode reads them by itself: once.
    rig.project.trusted = true;
    let directory = rig.worktree("three", &[("AGENTS.md", "count to three")]).await?;
    let session = rig.session(&directory, "fine").await?;
    rig.prompt(&session, prompt("Go")).await?;
    assert_eq!(system(&rig).matches("count to three").count(), 1);
    rig.end().await
}

#[tokio::test]
async fn the_users_own_opencode_works_as_it_is() -> Result<()> {
    let rig = Rig::with(&[("fine", FINE)], json!({}), |setup| {
        // All of the operator's configuration becomes the user's, who has logged in to a provider and set another's key.
        let home = Path::new(&setup.environment["HOME".as_ref() as &std::ffi::OsStr]).to_owned();
        let mut config = setup.extra_config.take().unwrap_or_default();
        config["model"] = json!("scripted/fine");
        config.as_object_mut().expect("an object").remove("enabled_providers");
        std::fs::create_dir_all(home.join(".config/opencode/agent")).expect("folders");
        let text = format!("// a comment\n{config}");
        std::fs::write(home.join(".config/opencode/opencode.jsonc"), text).expect("the config");
        let mode = "---\nmode: primary\ndescription: mine\n---\nYou are mine.\n";
        std::fs::write(home.join(".config/opencode/agent/mine.md"), mode).expect("a mode");
        std::fs::create_dir_all(home.join(".local/share/opencode")).expect("folders");
        let login = json!({"mistral": {"type": "api", "key": "not-a-key"}});
        std::fs::write(home.join(".local/share/opencode/auth.json"), login.to_string()).expect("the login");
        setup.environment.insert("DEEPSEEK_API_KEY".into(), "not-a-key".into());
        setup.environment.insert("UNRELATED_API_KEY".into(), "not-passed".into());
    })
    .await?;
    let home = rig.folder.path().join("home");
    let config_before = std::fs::read(home.join(".config/opencode/opencode.jsonc"))?;
    let probe = rig.backend.probe().await;
    assert_eq!(probe.problem, None);
    for provider in ["scripted/fine", "mistral/", "deepseek/"] {
        assert!(probe.models.iter().any(|model| model.starts_with(provider)), "{provider}: {:?}", probe.models);
    }
    assert!(!probe.models.iter().any(|model| model.starts_with("anthropic/")));

    let directory = rig.worktree("w", &[]).await?;
    let mut request = rig.request(&directory, "fine");
    request.model = None;
    request.mode = Some("mine".to_owned());
    let (session, _) = rig.open(request).await?;
    assert_eq!((session.model.as_str(), session.mode.as_str()), ("scripted/fine", "mine"));
    let ran = rig.prompt(&session, prompt("Go")).await?;
    assert_eq!(ran.report.ending, Ending::Completed, "{ran:?}");
    assert!(system(&rig).contains("You are mine."));

    let data = rig.project.folder.join("opencode/data/opencode/auth.json");
    assert_eq!(std::fs::read_link(data)?, home.join(".local/share/opencode/auth.json"));
    assert_eq!(std::fs::read(home.join(".config/opencode/opencode.jsonc"))?, config_before, "it is not touched");
    let models: Value = serde_json::from_slice(&std::fs::read(rig.project.folder.join("opencode/models.json"))?)?;
    let models = models.as_object().context("a catalogue")?;
    assert!(
        models.contains_key("mistral") && models.contains_key("deepseek") && models.len() < 10,
        "{:?}",
        models.keys()
    );
    rig.end().await
}

#[tokio::test]
async fn a_change_of_configuration_takes_a_new_server_and_a_new_conversation() -> Result<()> {
    let mut rig = Rig::new(&[("fine", FINE)]).await?;
    let directory = rig.worktree("w", &[]).await?;
    let session = rig.session(&directory, "fine").await?;
    let pid = rig.backend.server_pid(1).await;
    rig.project.asks = AskPolicy::Allow;
    let mut request = rig.request(&directory, "fine");
    request.resume = Some((session.id.clone(), session.config_hash.clone()));
    let (new, events) = rig.open(request).await?;
    assert!(!new.resumed && new.config_hash != session.config_hash);
    assert!(events.iter().any(|event| matches!(event, AgentEvent::Warning { .. })), "{events:?}");
    assert_ne!(rig.backend.server_pid(1).await, pid);
    rig.end().await
}
