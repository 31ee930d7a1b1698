//! `opencode run`, started for each turn anew: what a turn costs without a worker.
//!
//! Cold means the process: its folders have been used by a run that is not counted, so that nothing is set up for the first time.
//! **Default** is opencode as it comes, with nothing but the model's address and no update of itself. **Lean** is as Millhand runs
//! it: no snapshots, language servers, formatters, model catalogue, and a title of ours, as making one up costs a model call.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{
    Samples,
    place::Place,
    turns::{FILE, SCRIPT, TURN_WITHIN, check_work, unique_prompt},
};
use crate::scripted::{Prices, ScriptedModel, model_name};

/// What cold runs took.
#[derive(Debug, Default)]
pub(super) struct Runs {
    pub(super) default: Samples,
    pub(super) lean: Samples,
}

/// A repository of its own, and opencode.
pub(super) struct Cold<'a> {
    place: &'a Place,
    opencode: &'a Path,
    repository: PathBuf,
    config: Value,
}

impl<'a> Cold<'a> {
    /// Clones the repository.
    pub(super) async fn new(
        place: &'a Place,
        git: &Path,
        opencode: &'a Path,
        model: &ScriptedModel,
        source: &Path,
    ) -> Result<Self> {
        place.git(git, place.root(), &["clone", "-q", &source.to_string_lossy(), "cold"]).await?;
        fs::write(place.root().join("models.json"), "{}")?;
        let config = model.provider_config(Prices::default());
        Ok(Self { place, opencode, repository: place.root().join("cold"), config })
    }

    /// One run of each kind, so that folders and caches are there.
    pub(super) async fn warm_up(&self) -> Result<()> {
        self.run(&mut Runs::default()).await
    }

    /// One run of each kind.
    pub(super) async fn run(&self, runs: &mut Runs) -> Result<()> {
        self.once(&mut runs.default, false).await?;
        self.once(&mut runs.lean, true).await
    }

    async fn once(&self, samples: &mut Samples, lean: bool) -> Result<()> {
        let file = self.repository.join(FILE);
        if file.exists() {
            fs::remove_file(&file)?;
        }
        let prompt = unique_prompt();
        let mut config = self.config.clone();
        config["autoupdate"] = json!(false);
        let mut command = self.place.command(self.opencode, &self.repository);
        command
            .args(["run", "--format", "json", "--model", &model_name(SCRIPT)])
            .env("OPENCODE_DISABLE_AUTOUPDATE", "1");
        if lean {
            for name in ["snapshot", "lsp", "formatter"] {
                config[name] = json!(false);
            }
            config["share"] = json!("disabled");
            command
                .args(["--title", "bench"])
                .env("OPENCODE_MODELS_PATH", self.place.root().join("models.json"))
                .env("OPENCODE_DISABLE_MODELS_FETCH", "1")
                .env("OPENCODE_DISABLE_LSP_DOWNLOAD", "1");
        }
        let kind = if lean { "lean" } else { "default" };
        for folder in ["DATA", "CONFIG", "CACHE", "STATE"] {
            command.env(format!("XDG_{folder}_HOME"), self.place.root().join("cold-user").join(kind).join(folder));
        }
        command.env("OPENCODE_CONFIG_CONTENT", config.to_string()).stdin(Stdio::piped());
        let began = Instant::now();
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().context("stdin")?;
        // By stdin, as a prompt in the arguments arrives with quotes around it.
        stdin.write_all(prompt.as_bytes()).await?;
        drop(stdin);
        let output = tokio::time::timeout(TURN_WITHIN, child.wait_with_output())
            .await
            .with_context(|| format!("opencode run was not over within {TURN_WITHIN:?}"))??;
        let took = began.elapsed();
        let says = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "opencode run: {}: {}", output.status, says.trim());
        check_work(&file, &prompt)?;
        samples.push(took);
        Ok(())
    }
}
