//! The HTTP API on a database of its own, without a worker.

use std::net::SocketAddr;

use anyhow::Result;
use millhand::{
    api::Served,
    config::{Environment, Home, Settings},
    store::Store,
};
use tokio_postgres::types::FromSql;

use crate::support::{TestDb, serve_api};

/// A server of the API.
pub(super) struct Server {
    pub(super) db: TestDb,
    pub(super) store: Store,
    pub(super) address: SocketAddr,
    served: Served,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts it, on loopback; it may be called mill.example.org.
    pub(super) async fn start() -> Result<Self> {
        Self::start_with(|_| {}).await
    }

    /// The same, with settings changed.
    pub(super) async fn start_with(change: impl FnOnce(&mut Settings)) -> Result<Self> {
        let db = TestDb::new().await?;
        let folder = tempfile::Builder::new().prefix("mhaccess-").tempdir()?;
        let mut settings = Settings::new(Home::new(folder.path().join("home")));
        settings.environment =
            [("PATH", std::env::var_os("PATH").unwrap_or_default())].into_iter().collect::<Environment>();
        settings.api.hosts = vec!["mill.example.org".to_owned()];
        change(&mut settings);
        let store = db.store()?;
        let served = serve_api(&settings, store.clone()).await?;
        Ok(Self { db, store, address: served.address, served, _folder: folder })
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Runs SQL.
    pub(super) async fn sql(&self, sql: &str) -> Result<()> {
        Ok(self.db.client().await?.batch_execute(sql).await?)
    }

    /// The first value of the first row.
    pub(super) async fn one<T: for<'a> FromSql<'a>>(&self, sql: &str) -> Result<T> {
        Ok(self.db.client().await?.query_one(sql, &[]).await?.try_get(0)?)
    }

    pub(super) async fn stop(self) {
        self.served.stop().await;
    }
}
