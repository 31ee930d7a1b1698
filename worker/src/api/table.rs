//! The one table of routes: method, path and scope, from which router, document and tests are made.

use axum::{Router, http::Method};
use utoipa::openapi::{RefOr, path::PathItem, path::Paths, schema::Schema};
use utoipa_axum::router::UtoipaMethodRouter;

use super::Api;
use crate::model::access::Scope;

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its method.
    pub method: Method,
    /// Its path, with `{}` around what varies.
    pub path: String,
    /// What one must be allowed to use it; none: it is open to everybody.
    pub scope: Option<Scope>,
}

/// Routes as they are entered.
#[derive(Default)]
pub(super) struct Table {
    routes: Vec<Route>,
    router: Router<Api>,
    paths: Paths,
    schemas: Vec<(String, RefOr<Schema>)>,
}

/// What a table makes.
pub(super) struct Finished {
    pub(super) routes: Vec<Route>,
    pub(super) router: Router<Api>,
    pub(super) paths: Paths,
    pub(super) schemas: Vec<(String, RefOr<Schema>)>,
}

impl Table {
    /// Enters a handler.
    pub(super) fn with(mut self, scope: impl Into<Option<Scope>>, entry: UtoipaMethodRouter<Api>) -> Self {
        let scope = scope.into();
        let (schemas, paths, handler) = entry;
        let mut handler = Some(handler);
        for (path, item) in paths.paths {
            self.routes.extend(methods(&item).map(|method| Route { method, path: path.clone(), scope }));
            // There is one path to a handler.
            if let Some(handler) = handler.take() {
                self.router = self.router.route(&path, handler);
            }
            match self.paths.paths.get_mut(&path) {
                Some(there) => there.merge_operations(item),
                None => drop(self.paths.paths.insert(path, item)),
            }
        }
        self.schemas.extend(schemas);
        self
    }

    pub(super) fn finish(self) -> Finished {
        let Self { routes, router, paths, schemas } = self;
        Finished { routes, router, paths, schemas }
    }
}

fn methods(item: &PathItem) -> impl Iterator<Item = Method> {
    let found = [
        (Method::GET, item.get.is_some()),
        (Method::PUT, item.put.is_some()),
        (Method::POST, item.post.is_some()),
        (Method::PATCH, item.patch.is_some()),
        (Method::DELETE, item.delete.is_some()),
    ];
    found.into_iter().filter_map(|(method, is_there)| is_there.then_some(method))
}
