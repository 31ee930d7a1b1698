//! `millhand api`.

use owo_colors::OwoColorize as _;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    apply::{applier, who},
    database,
    failure::{Exit, Failure, Outcome},
    screen::bold,
    token,
    worker::{broken_signal, start_logging},
};
use crate::{
    api::{Api, serve},
    model::access::Scope,
    supervise::ServedAt,
};

/// `millhand api`: serves the HTTP API until it is told to stop.
pub(super) async fn api(context: &Context) -> Outcome {
    let Some(listen) = context.settings.api.listen else {
        return Err(Failure::usage("api.listen is off", "say where: millhand api --listen 127.0.0.1:7341"));
    };
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate()).map_err(broken_signal)?,
        signal(SignalKind::interrupt()).map_err(broken_signal)?,
    );
    let database = database::open(context).await?;
    start_logging(context);
    let applier = applier(context, &database).await?;
    let api = Api::new(&context.settings, applier, CancellationToken::new())?;
    let served = serve(api, listen).await.map_err(|error| {
        Failure::usage(format!("{listen}: {error}"), "choose another address: millhand api --listen ADDRESS")
    })?;
    let url = format!("http://{}", served.address);
    let _said = ServedAt::say(&context.settings.home.private(), &url);
    let link = token::login_link(context, &database, &url, &who(context), &[Scope::Admin]).await?;
    context.screen.object("api", &json!({ "url": url, "login": link }))?;
    context.screen.line(&format!("millhand api listens on {}", url.style(bold())))?;
    context.screen.line(&format!("  log a browser in: {link}"))?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    served.stop().await;
    Ok(Exit::Done)
}
