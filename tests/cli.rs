//! The command line: the real program, run as people run it, against a database of its own.

mod bench;
mod floor;
mod inbox;
mod input;
mod live;
mod look;
mod machine;
mod projects;
mod rows;
mod service;
mod shell;
mod top;

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

use crate::support::{TestDb, millhand};

/// No command of these tests takes longer than this.
const WITHIN: Duration = Duration::from_secs(240);

/// A database, a home, and a program to run on them.
pub(crate) struct Cli {
    pub(crate) db: TestDb,
    folder: tempfile::TempDir,
}

/// What a run of the program left.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The objects of its stdout, one a line.
    pub(crate) fn objects(&self) -> Vec<serde_json::Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
    }
}

impl Cli {
    pub(crate) async fn new() -> Result<Self> {
        Self::on(TestDb::new().await?)
    }

    pub(crate) fn on(db: TestDb) -> Result<Self> {
        Ok(Self { db, folder: tempfile::Builder::new().prefix("mhcli-").tempdir()? })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.folder().join("home")
    }

    /// The program with these arguments, in an environment with nothing else in it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(millhand());
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder())
            .env("MILLHAND_HOME", self.home())
            .env("DATABASE_URL", self.db.url())
            .env("MILLHAND_API_LISTEN", "off")
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<Ran> {
        finish(self.command(arguments)).await
    }

    pub(crate) async fn run_in(&self, folder: &Path, arguments: &[&str]) -> Result<Ran> {
        let mut command = self.command(arguments);
        command.current_dir(folder);
        finish(command).await
    }

    pub(crate) async fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Result<Ran> {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("stdin")?;
        let input = input.to_owned();
        // It may stop reading before the end, which is its right.
        let writer = tokio::spawn(async move { stdin.write_all(&input).await });
        let output = tokio::time::timeout(WITHIN, child.wait_with_output()).await??;
        let _ = writer.await?;
        Ok(Ran::of(output))
    }

    /// The program at a terminal: its exit code and what was on the screen. `talk` is a question, and what the person types then.
    /// None where there is no program `script` to make a terminal.
    pub(crate) async fn at_a_terminal(
        &self,
        folder: &Path,
        arguments: &str,
        variables: &[(&str, &str)],
        talk: Option<(&str, &str)>,
    ) -> Result<Option<(i32, String)>> {
        // The shell gives way: it would make a Ctrl-C that we answer its own end.
        let line = format!("exec {} {arguments}", millhand().display());
        let mut command = Command::new("script");
        command
            .args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TERM", "dumb")
            .env("SHELL", "/bin/sh")
            .env("HOME", self.folder())
            .env("MILLHAND_HOME", self.home())
            .env("DATABASE_URL", self.db.url())
            .env("MILLHAND_API_LISTEN", "off")
            .envs(variables.iter().copied())
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let Ok(mut child) = command.spawn() else { return Ok(None) };
        let mut stdin = child.stdin.take().context("stdin")?;
        let mut stdout = child.stdout.take().context("stdout")?;
        let mut seen = Vec::new();
        let ran = async {
            if let Some((question, typed)) = talk {
                while !String::from_utf8_lossy(&seen).contains(question) {
                    anyhow::ensure!(stdout.read_buf(&mut seen).await? > 0, "{}", String::from_utf8_lossy(&seen));
                }
                stdin.write_all(typed.as_bytes()).await?;
            }
            stdout.read_to_end(&mut seen).await?;
            anyhow::Ok(child.wait().await?)
        };
        let status = tokio::time::timeout(WITHIN, ran).await??;
        Ok(Some((status.code().context("its exit code")?, String::from_utf8_lossy(&seen).into_owned())))
    }

    /// A git repository with one commit.
    pub(crate) fn repository(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder().join(name);
        let repository = git2::Repository::init_opts(
            &path,
            git2::RepositoryInitOptions::new().initial_head("main").external_template(false),
        )?;
        std::fs::write(path.join("README.md"), "hello\n")?;
        let mut index = repository.index()?;
        index.add_path(Path::new("README.md"))?;
        index.write()?;
        let tree = repository.find_tree(index.write_tree()?)?;
        // A fixed time makes a fixed commit.
        let who = git2::Signature::new("Ada", "ada@example.com", &git2::Time::new(1_700_000_000, 0))?;
        repository.commit(Some("HEAD"), &who, &who, "Say hello", &tree, &[])?;
        Ok(path.canonicalize()?)
    }

    /// Output with what differs from run to run replaced.
    pub(crate) fn normal(&self, text: &str) -> String {
        let folder = self.folder().canonicalize().unwrap_or_else(|_| self.folder().to_owned());
        text.replace(&self.db.url(), "[url]")
            .replace(&folder.display().to_string(), "[folder]")
            .replace(&self.folder().display().to_string(), "[folder]")
    }
}

pub(crate) async fn finish(mut command: Command) -> Result<Ran> {
    let output = tokio::time::timeout(WITHIN, command.output()).await.context("the command hangs")??;
    Ok(Ran::of(output))
}

/// A JSON object with what differs from run to run replaced: times, keys, ids of hosts.
pub(crate) fn normal_json(mut value: serde_json::Value) -> serde_json::Value {
    normalise(&mut value);
    value
}

fn normalise(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Array(items) => items.iter_mut().for_each(normalise),
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let differs = name.ends_with("_at")
                    || matches!(name.as_str(), "idempotency_key" | "host_id" | "applied_on" | "since" | "source");
                if differs && !value.is_null() {
                    *value = serde_json::Value::from(format!("[{name}]"));
                }
                normalise(value);
            }
        }
        _ => {}
    }
}
