//! The HTTP API: every route, what it answers, what it refuses.

mod client;
mod dashboard;
mod decide;
mod document;
mod lists;
mod problems;
mod routes;
mod schema;
mod servers;
mod streams;

use anyhow::{Context, Result, ensure};
use millhand::{actions, api::Served, model::access::Scope, store::Store};
use reqwest::{Method, StatusCode, header};
use secrecy::ExposeSecret as _;
use serde_json::Value;

use crate::support::{serve_api, world::World};

/// A served API on a world.
struct Rig {
    world: World,
    served: Served,
    http: reqwest::Client,
}

impl Rig {
    async fn new(scripts: &[(&str, &str)]) -> Result<Self> {
        let world = World::new(scripts).await?;
        let store = world.db.store()?;
        Self::with(world, store).await
    }

    /// On this world, whose database is reached so.
    async fn with(world: World, store: Store) -> Result<Self> {
        let served = serve_api(&world.settings, store).await?;
        let (_, token) = actions::add_token(&world.db.store()?, "tests", &[Scope::Admin], None).await?;
        let token = format!("Bearer {}", token.expose_secret()).parse()?;
        let shown = [(header::AUTHORIZATION, token)].into_iter().collect();
        Ok(Self { world, served, http: reqwest::Client::builder().no_proxy().default_headers(shown).build()? })
    }

    /// The same world, served anew.
    async fn again(self) -> Result<Self> {
        self.served.stop().await;
        let served = serve_api(&self.world.settings, self.world.db.store()?).await?;
        Ok(Self { served, ..self })
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.served.address)
    }

    /// Sends a request; its status and its JSON.
    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<(StatusCode, Value)> {
        let mut request = self.http.request(method.clone(), self.url(path));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        let json = serde_json::from_str(&text).with_context(|| format!("{method} {path}: {status} {text}"))?;
        Ok((status, json))
    }

    /// What a GET answers, which must be well.
    async fn get(&self, path: &str) -> Result<Value> {
        let (status, json) = self.send(Method::GET, path, None).await?;
        ensure!(status == StatusCode::OK, "GET {path}: {status} {json}");
        Ok(json)
    }
}
