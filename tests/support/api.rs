//! The HTTP API on a port of its own, for tests that ask it.

use std::net::SocketAddr;

use anyhow::Result;
use millhand::{
    actions::Applier,
    api::{Api, Served, serve},
    config::{self, Settings},
    git::Git,
    store::Store,
    worktrees::Worktrees,
};
use tokio_util::sync::CancellationToken;

/// Serves the API of a home, on loopback.
pub async fn serve_api(settings: &Settings, store: Store) -> Result<Served> {
    config::prepare_home(&settings.home)?;
    let host_id = config::host_id(&settings.home)?;
    let environment = settings.environment.0.clone().into_iter().collect();
    let git = Git::new(None, environment, settings.home.clone()).await?;
    let worktrees = Worktrees {
        store: store.clone(),
        git: git.clone(),
        home: settings.home.clone(),
        host_id: host_id.clone(),
        settings: settings.worktrees,
        timings: settings.timings,
    };
    let applier =
        Applier { store, git, worktrees, host_id, settings: settings.apply.clone(), timings: settings.timings };
    let api = Api::new(settings, applier, CancellationToken::new())?;
    Ok(serve(api, SocketAddr::from(([127, 0, 0, 1], 0))).await?)
}
