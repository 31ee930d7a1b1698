//! The real opencode, run once by its own command line, as the yardstick for what Millhand records.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use millhand::{
    scripted::{Prices, ScriptedModel, model_name},
    tools::Opencode,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, process::Command};

/// Longest run: five retries of a failing provider take up to 76 s on an idle machine.
pub const RUN_WITHIN: Duration = Duration::from_secs(240);

/// opencode, as the tests use it: found, or installed once per clone.
pub fn find_opencode() -> Result<Opencode> {
    super::programs::opencode()
}

/// opencode's configuration for a model: lean, as Millhand runs it, with `extra` merged over it.
pub fn lean_config(model: &ScriptedModel, extra: &Value) -> Value {
    let mut config = model.provider_config(Prices::default());
    merge(&mut config, &json!({"snapshot": false, "lsp": false, "formatter": false, "share": "disabled"}));
    merge(&mut config, extra);
    config
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// A place to run opencode in: a repository with one commit, and folders of its own for everything else.
pub struct Place {
    folder: TempDir,
}

impl Place {
    /// A place whose repository holds these files.
    pub async fn new(files: &[(&str, &str)]) -> Result<Self> {
        let place = Self { folder: TempDir::new()? };
        let repository = place.repository();
        for (path, content) in files {
            let path = repository.join(path);
            std::fs::create_dir_all(path.parent().context("parent")?)?;
            std::fs::write(path, content)?;
        }
        std::fs::create_dir_all(place.folder.path().join("home"))?;
        std::fs::write(place.folder.path().join("models.json"), "{}")?;
        for arguments in [&["init", "-q", "-b", "main"][..], &["add", "-A"], &["commit", "-q", "-m", "first"]] {
            let status = place.clean(Command::new("git")).args(arguments).status().await?;
            ensure!(status.success(), "git {arguments:?}: {status}");
        }
        Ok(place)
    }

    /// The repository, by its real path.
    pub fn repository(&self) -> PathBuf {
        let folder = self.folder.path().canonicalize().unwrap_or_else(|_| self.folder.path().to_owned());
        folder.join("repository")
    }

    /// A command in the repository that sees nothing of this machine but the `PATH`.
    fn clean(&self, mut command: Command) -> Command {
        let home = self.folder.path().join("home");
        command
            .current_dir(self.repository())
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("HOME", &home)
            .env("XDG_DATA_HOME", home.join("data"))
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("XDG_CACHE_HOME", home.join("cache"))
            .env("XDG_STATE_HOME", home.join("state"))
            .env("TMPDIR", &home)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "Tester")))
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "tester@example.invalid")))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs `opencode run --format json` with a script, and gives what it printed.
    pub async fn run(&self, model: &ScriptedModel, script: &str, prompt: &str, extra: &Value) -> Result<Run> {
        self.run_with(&["--title", "A test"], model, script, prompt, extra).await
    }

    /// The same, in the conversation of the run before.
    pub async fn continue_with(&self, model: &ScriptedModel, script: &str, prompt: &str, extra: &Value) -> Result<Run> {
        self.run_with(&["--continue"], model, script, prompt, extra).await
    }

    async fn run_with(
        &self,
        arguments: &[&str],
        model: &ScriptedModel,
        script: &str,
        prompt: &str,
        extra: &Value,
    ) -> Result<Run> {
        let mut command = self.clean(Command::new(&find_opencode()?.path));
        command
            .args(["run", "--format", "json", "--thinking", "--model", &model_name(script)])
            .args(arguments)
            .env("OPENCODE_CONFIG_CONTENT", lean_config(model, extra).to_string())
            .env("OPENCODE_MODELS_PATH", self.folder.path().join("models.json"))
            .envs(["MODELS_FETCH", "AUTOUPDATE", "LSP_DOWNLOAD"].map(|what| (format!("OPENCODE_DISABLE_{what}"), "1")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        // By stdin, as a prompt in the arguments arrives with quotes around it.
        let mut stdin = child.stdin.take().context("stdin")?;
        stdin.write_all(prompt.as_bytes()).await?;
        drop(stdin);
        let output =
            tokio::time::timeout(RUN_WITHIN, child.wait_with_output()).await.context("opencode run hangs")??;
        let stdout = String::from_utf8(output.stdout)?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Run::parse(output.status.code(), &stdout, &self.repository()).with_context(|| format!("{stdout}\n{stderr}"))
    }
}

/// What a run of opencode came to, in a form that two runs of the same script share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    pub exit: Option<i32>,
    pub steps: Vec<Step>,
    pub errors: Vec<String>,
}

/// One step: what one call of the model led to. The order within a step is by kind, as calls run at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    pub reasoning: Vec<String>,
    pub text: Vec<String>,
    pub tools: Vec<Tool>,
    pub finish: Option<Finish>,
}

/// A tool call in its final state.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    pub call_id: String,
    pub tool: String,
    pub status: String,
    pub input: Value,
    pub output: Option<String>,
    pub error: Option<String>,
    pub exit_code: Option<i64>,
}

/// How a step ended, and what it cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    pub reason: String,
    pub input: i64,
    pub output: i64,
    pub reasoning: i64,
    pub cache_read: i64,
    pub cache_write: i64,
    pub cost_usd: String,
}

impl Step {
    /// Puts what happened at once into one order.
    pub fn sort(&mut self) {
        self.tools.sort_by(|one, other| one.call_id.cmp(&other.call_id));
    }
}

/// A cost with nine places, as the database keeps it.
pub fn nine_places(cost_usd: impl std::fmt::Display) -> Result<String> {
    let cost: f64 = cost_usd.to_string().parse()?;
    Ok(format!("{cost:.9}"))
}

impl Run {
    fn parse(exit: Option<i32>, stdout: &str, repository: &Path) -> Result<Self> {
        let directory = repository.to_str().context("path")?;
        let mut run = Self { exit, ..Self::default() };
        let mut message = String::new();
        for line in stdout.lines() {
            // Wherever the repository lies, a run says the same.
            let line: Value = serde_json::from_str(&line.replace(directory, "<repository>")).context("not JSON")?;
            let part = &line["part"];
            let kind = line["type"].as_str().context("type")?;
            if kind == "error" {
                run.errors.push(line["error"]["name"].as_str().unwrap_or_default().to_owned());
                continue;
            }
            let of = part["messageID"].as_str().context("messageID")?;
            if of != message {
                of.clone_into(&mut message);
                run.steps.push(Step::default());
            }
            let step = run.steps.last_mut().context("step")?;
            let text = || part["text"].as_str().map(str::to_owned).context("text");
            match kind {
                "step_start" => {}
                "text" => step.text.push(text()?),
                "reasoning" => step.reasoning.push(text()?),
                "tool_use" => step.tools.push(Tool::parse(part)?),
                "step_finish" => step.finish = Some(Finish::parse(part)?),
                other => anyhow::bail!("opencode run printed a line of type {other}"),
            }
        }
        run.steps.iter_mut().for_each(Step::sort);
        Ok(run)
    }
}

impl Tool {
    fn parse(part: &Value) -> Result<Self> {
        let state = &part["state"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Ok(Self {
            call_id: text(&part["callID"]).context("callID")?,
            tool: text(&part["tool"]).context("tool")?,
            status: text(&state["status"]).context("status")?,
            input: state["input"].clone(),
            output: text(&state["output"]),
            error: text(&state["error"]),
            exit_code: state["metadata"]["exit"].as_i64(),
        })
    }
}

impl Finish {
    fn parse(part: &Value) -> Result<Self> {
        let tokens = |path: &str| part.pointer(&format!("/tokens/{path}")).and_then(Value::as_i64).context("tokens");
        Ok(Self {
            reason: part["reason"].as_str().context("reason")?.to_owned(),
            input: tokens("input")?,
            output: tokens("output")?,
            reasoning: tokens("reasoning")?,
            cache_read: tokens("cache/read")?,
            cache_write: tokens("cache/write")?,
            cost_usd: nine_places(&part["cost"])?,
        })
    }
}
