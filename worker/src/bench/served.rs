//! A `millhand api` of this program on a database that was made for the benchmark, and whoever asks it.

use std::{fs, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use reqwest::{Response, header};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
};

use super::{
    Bench,
    place::{Place, stop},
};
use crate::{actions, model::access::Scope, store::Store};

/// How long it may take to listen.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// More than any part of the benchmark asks for in a second: what holds users back is not what is measured.
const RATE: &str = "100000";

/// In which the kernel counts processor time for those outside it (`USER_HZ`), whatever its own clock does.
const TICKS_PER_SECOND: f64 = 100.0;

/// A server of the API.
pub(super) struct Served {
    child: Child,
    url: String,
    http: reqwest::Client,
}

impl Served {
    /// Starts it, with the place as its home.
    pub(super) async fn start(bench: &Bench<'_>, store: &Store, place: &Place) -> Result<Self> {
        let (_, token) = actions::add_token(store, "bench", &[Scope::Admin], None).await?;
        let shown = format!("Bearer {}", token.expose_secret()).parse()?;
        let headers = [(header::AUTHORIZATION, shown)].into_iter().collect();
        let http = reqwest::Client::builder().no_proxy().default_headers(headers).build()?;
        let mut command = place.millhand(bench, store)?;
        command
            .args(["api", "--listen", "127.0.0.1:0", "--json"])
            .env("MILLHAND_API_RATE", RATE)
            .stdout(Stdio::piped())
            .stderr(Stdio::from(fs::File::create(place.root().join("api.log"))?));
        let mut child = command.spawn().context("start millhand api")?;
        let mut said = String::new();
        let mut stdout = BufReader::new(child.stdout.take().context("stdout")?);
        let line = tokio::time::timeout(READY_WITHIN, stdout.read_line(&mut said));
        line.await.context("millhand api says nothing")??;
        let said: Value = serde_json::from_str(&said).with_context(|| {
            let log = fs::read_to_string(place.root().join("api.log")).unwrap_or_default();
            format!("millhand api did not start: {log}")
        })?;
        let url = said["url"].as_str().context("millhand api does not say where it listens")?.to_owned();
        Ok(Self { child, url, http })
    }

    /// Asks for a path, which must be answered well.
    pub(super) async fn open(&self, path: &str) -> Result<Response> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await?;
        let status = answer.status();
        ensure!(status.is_success(), "GET {path}: {status} {}", answer.text().await?);
        Ok(answer)
    }

    /// The whole answer.
    pub(super) async fn get(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.open(path).await?.bytes().await?)?)
    }

    /// The processor time that it has used so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let pid = self.child.id().context("millhand api ended")?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("read what millhand api uses")?;
        let ticks = ticks(&stat).context("the kernel does not tell what millhand api uses")?;
        Ok(Duration::from_secs_f64(ticks / TICKS_PER_SECOND))
    }

    /// Ends it.
    pub(super) async fn stop(mut self) -> Result<()> {
        stop(&mut self.child).await
    }
}

/// User and system time in `/proc/<pid>/stat`. The name, which may hold anything, ends with the last parenthesis.
fn ticks(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some(next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_are_those_behind_the_name() {
        let stat = "77 (a) b (c) S 1 77 77 0 -1 4194560 5 6 7 8 120 30 9 9 20 0 4 0 100";
        assert_eq!(ticks(stat), Some(150.0));
        assert_eq!(ticks("77 (a) S 1"), None);
    }
}
