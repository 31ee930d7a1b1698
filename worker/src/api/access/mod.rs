//! Who may call what: stands before every route, and refuses what is not in order.
//!
//! In this order: are we called by a name of ours; whose token or cookie is it; was it sent by a page of ours; not too often; may they. What a
//! route takes is read from the one table of routes; what is not in it takes a token at least. Decisions are in [`crate::model::access`].

mod credentials;
mod guard;
mod headers;
mod limits;
pub(super) mod login;
pub(super) mod tokens;

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use axum::{Router, http::Method, middleware};
use tokio::sync::Semaphore;

use self::limits::Limits;
use super::table::Route;
use crate::{config::Settings, model::access::Scope, store::Store};

/// The largest body: a prompt may have 1 MiB, and JSON makes it longer.
pub(super) const BODY_BYTES: usize = 4 * 1024 * 1024;
/// Secrets that are looked up at once: fewer than there are connections, so that whoever tries many keeps nobody else from the database.
const LOOKUPS: usize = 4;
/// The name of the cookie that a browser shows.
const COOKIE: &str = "millhand_session";

/// What stands before the routes.
#[derive(Debug)]
pub(super) struct Gate {
    store: Store,
    /// By method and path; none: open to everybody.
    scopes: HashMap<(Method, String), Option<Scope>>,
    listen: IpAddr,
    hosts: Vec<String>,
    limits: Limits,
    lookups: Semaphore,
    /// Between looks whether a stream's reader may still read.
    recheck: Duration,
}

impl Gate {
    /// Before these routes, called by these names.
    pub(super) fn new(store: Store, settings: &Settings, listen: IpAddr, routes: Vec<Route>) -> Self {
        Self {
            store,
            scopes: routes.into_iter().map(|route| ((route.method, route.path), route.scope)).collect(),
            listen,
            hosts: settings.api.hosts.clone(),
            limits: Limits::new(settings.api.rate),
            lookups: Semaphore::new(LOOKUPS),
            recheck: settings.timings.access_recheck,
        }
    }

    /// Stands before all that a router has, its fallbacks too.
    pub(super) fn before(self, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(Arc::new(self), guard::guard))
    }
}
