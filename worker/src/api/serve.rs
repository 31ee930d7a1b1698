//! The server: listens, and answers until it is told to stop.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{Method, StatusCode, Uri},
    response::Response,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    Api,
    access::{BODY_BYTES, Gate},
    problem::Problem,
    table,
    table::Finished,
};

/// How long requests under way may take once the server is to stop.
const END_WITHIN: Duration = Duration::from_secs(5);

/// A server that listens.
#[derive(Debug)]
pub struct Served {
    /// Where.
    pub address: SocketAddr,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Served {
    /// Stops it: no new requests, and those under way have a moment to end.
    pub async fn stop(self) {
        self.stop.cancel();
        let abort = self.server.abort_handle();
        if tokio::time::timeout(END_WITHIN, self.server).await.is_err() {
            abort.abort();
        }
    }
}

/// Begins to listen and to answer.
///
/// # Errors
///
/// The address cannot be listened on.
pub async fn serve(api: Api, address: SocketAddr) -> std::io::Result<Served> {
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "others can reach the API, without TLS: whoever can listen on the way reads tokens");
    }
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let stop = api.stop.clone();
    let told = stop.clone();
    let app = router(api, address.ip()).into_make_service_with_connect_info::<SocketAddr>();
    let server = tokio::spawn(async move {
        let until = async move { told.cancelled().await };
        if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(until).await {
            tracing::error!(%error, "the API's server ended");
        }
    });
    Ok(Served { address, stop, server })
}

fn router(api: Api, listen: IpAddr) -> Router {
    let Finished { router, routes, .. } = table().finish();
    let gate = Gate::new(api.store.clone(), &api.settings, listen, routes);
    let router = router
        .fallback(super::assets::file)
        .method_not_allowed_fallback(not_this_way)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(api);
    gate.before(router)
}

async fn not_this_way(method: Method, uri: Uri) -> Response {
    let problem =
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", format!("{} takes no {method}", uri.path()));
    axum::response::IntoResponse::into_response(problem)
}
