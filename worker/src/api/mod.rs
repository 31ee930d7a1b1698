//! The HTTP API: all that the command line can do, for programs and for the dashboard.
//!
//! A face, as the command line is: no logic lives here. A request is read by [`extract`], handed to [`crate::actions`], and answered with the
//! rows that `--json` prints, or with a [`problem`]. Every route is entered once, with the scope that it takes, in [`routes()`]: the
//! document ([`mod@document`]), the router and the tests are made from that one table.

mod access;
mod assets;
mod changes;
mod costs;
mod document;
mod extract;
mod fleet;
mod health;
mod inbox;
mod manage;
mod metrics;
mod page;
mod problem;
mod projects;
mod queue;
mod review;
mod serve;
mod sessions;
mod stream;
mod table;
mod tasks;
mod webhooks;

use std::{ops::Deref, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use utoipa_axum::routes;

pub use serve::{Served, serve};
pub use table::Route;

use self::table::Table;
use crate::{
    actions::Applier,
    config::Settings,
    model::access::Scope::{Admin, Enqueue, Read, Review},
    store::{Connect, Store, StoreError},
};

/// Connections that requests share. A worker in the same process has others.
const POOL_SIZE: usize = 8;

/// What answers requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api(Arc<Parts>);

/// What requests are answered from.
#[derive(Debug)]
pub struct Parts {
    /// The database, by connections of its own.
    store: Store,
    /// What applying and going back need.
    applier: Applier,
    settings: Settings,
    /// What is read for all who follow something.
    streams: stream::Streams,
    /// Cancelled when the server is to stop: streams end then.
    stop: CancellationToken,
}

impl Deref for Api {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Api {
    /// An API on the database that the applier has, by connections of its own.
    ///
    /// # Errors
    ///
    /// The connections cannot be set up.
    pub fn new(settings: &Settings, applier: Applier, stop: CancellationToken) -> Result<Self, StoreError> {
        let connect = Connect { pool_size: POOL_SIZE, ..applier.store.connect().clone() };
        let store = Store::new(connect)?;
        let worktrees = crate::worktrees::Worktrees { store: store.clone(), ..applier.worktrees };
        let applier = Applier { store: store.clone(), worktrees, ..applier };
        Ok(Self(Arc::new(Parts {
            store,
            applier,
            settings: settings.clone(),
            streams: stream::Streams::default(),
            stop,
        })))
    }

    /// A worker not heard of for this long counts as gone.
    fn window(&self) -> Duration {
        self.settings.timings.lease
    }
}

/// Every route, with the scope that it takes; none: it is open to everybody.
fn table() -> Table {
    Table::default()
        .with(None, routes!(health::healthz))
        .with(None, routes!(health::readyz))
        .with(None, routes!(access::login::login))
        .with(Read, routes!(access::login::me))
        .with(Read, routes!(access::login::logout))
        .with(Read, routes!(document::openapi))
        .with(Read, routes!(document::docs))
        .with(Read, routes!(document::docs_script))
        .with(Read, routes!(document::docs_style))
        .with(Read, routes!(metrics::metrics))
        .with(Read, routes!(tasks::list))
        .with(Read, routes!(tasks::show))
        .with(Read, routes!(tasks::events))
        .with(Read, routes!(stream::task))
        .with(Read, routes!(stream::fleet))
        .with(Read, routes!(sessions::list))
        .with(Read, routes!(sessions::show))
        .with(Read, routes!(sessions::chats))
        .with(Read, routes!(sessions::agent_sessions))
        .with(Read, routes!(sessions::checkpoints))
        .with(Read, routes!(sessions::comments))
        .with(Read, routes!(sessions::chat))
        .with(Read, routes!(changes::list))
        .with(Read, routes!(changes::show))
        .with(Read, routes!(changes::files))
        .with(Read, routes!(changes::file))
        .with(Read, routes!(changes::patch))
        .with(Read, routes!(changes::interdiff))
        .with(Read, routes!(changes::comments))
        .with(Read, routes!(changes::checks))
        .with(Read, routes!(changes::applies))
        .with(Read, routes!(changes::forecasts))
        .with(Read, routes!(inbox::list))
        .with(Read, routes!(inbox::asks))
        .with(Read, routes!(inbox::ask))
        .with(Read, routes!(costs::costs))
        .with(Read, routes!(costs::budgets))
        .with(Read, routes!(costs::prices))
        .with(Read, routes!(projects::list))
        .with(Read, routes!(projects::show))
        .with(Read, routes!(projects::checks))
        .with(Read, routes!(fleet::overview))
        .with(Read, routes!(fleet::activity))
        .with(Read, routes!(fleet::workers))
        .with(Read, routes!(fleet::agents))
        .with(Read, routes!(fleet::servers))
        .with(Read, routes!(fleet::worktrees))
        .with(Admin, routes!(fleet::audit))
        .with(Read, routes!(webhooks::list))
        .with(Read, routes!(webhooks::show))
        .with(Read, routes!(webhooks::deliveries))
        .with(Enqueue, routes!(queue::create))
        .with(Enqueue, routes!(queue::send))
        .with(Review, routes!(queue::send_review))
        .with(Review, routes!(queue::send_conflicts))
        .with(Review, routes!(queue::cancel))
        .with(Review, routes!(queue::dismiss))
        .with(Review, routes!(queue::retry))
        .with(Review, routes!(queue::retry_many))
        .with(Review, routes!(queue::dismiss_many))
        .with(Review, routes!(inbox::answer))
        .with(Review, routes!(review::comment))
        .with(Review, routes!(review::looked))
        .with(Review, routes!(review::apply))
        .with(Review, routes!(review::reject))
        .with(Review, routes!(review::run_checks))
        .with(Review, routes!(review::rollback))
        .with(Review, routes!(review::close))
        .with(Review, routes!(review::reopen))
        .with(Admin, routes!(costs::set_budgets))
        .with(Admin, routes!(costs::clear_budgets))
        .with(Admin, routes!(costs::set_price))
        .with(Admin, routes!(costs::clear_price))
        .with(Admin, routes!(manage::add_project))
        .with(Admin, routes!(manage::set_project))
        .with(Admin, routes!(manage::remove_project))
        .with(Admin, routes!(manage::add_check))
        .with(Admin, routes!(manage::remove_check))
        .with(Admin, routes!(manage::reap))
        .with(Admin, routes!(manage::restore))
        .with(Admin, routes!(access::tokens::list))
        .with(Admin, routes!(access::tokens::add))
        .with(Admin, routes!(access::tokens::revoke))
        .with(Admin, routes!(webhooks::add))
        .with(Admin, routes!(webhooks::switch))
        .with(Admin, routes!(webhooks::remove))
        .with(Admin, routes!(webhooks::test))
        .with(Admin, routes!(webhooks::retry))
}

/// Every route, with the scope that it takes.
pub fn routes() -> Vec<Route> {
    table().finish().routes
}

/// The document that describes the API, as it is served.
pub fn document() -> serde_json::Value {
    document::of(&table().finish())
}
