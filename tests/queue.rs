//! The queue, on a real Postgres: who becomes a head, who may claim, who may write.

mod asks;
mod bad_input;
mod claim;
mod crash;
mod fence;
mod lines;
mod loops;
mod machine;
mod plans;
pub(crate) mod recording;
mod repair;
mod retention;
mod schema;
mod upgrade;
mod version;

use std::time::Duration;

use millhand::{
    model::{outcome::ErrorClass, retry::Verdict},
    store::{
        Store,
        queue::{Claimed, Finish, Finished, WorkerRow},
    },
};
use uuid::Uuid;

use crate::support::TestDb;

pub(crate) const HOST: &str = "host-a";
pub(crate) const LEASE: Duration = Duration::from_secs(20);

/// A database with a project, and a worker's view of it.
pub(crate) struct Queue {
    pub(crate) db: TestDb,
    pub(crate) store: Store,
    pub(crate) worker: Uuid,
}

impl Queue {
    pub(crate) async fn new() -> Self {
        let db = TestDb::new().await.expect("database");
        let store = db.store().expect("store");
        let worker = Uuid::new_v4();
        register(&store, worker, HOST).await;
        db.client()
            .await
            .expect("client")
            .batch_execute("SELECT millhand.add_project('acme', '/src/acme')")
            .await
            .expect("add project");
        Self { db, store, worker }
    }

    pub(crate) async fn client(&self) -> tokio_postgres::Client {
        self.db.client().await.expect("client")
    }

    pub(crate) async fn sql(&self, sql: &str) -> Vec<tokio_postgres::Row> {
        self.client().await.query(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    pub(crate) async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        self.sql(sql).await[0].get(0)
    }

    /// Opens a session with a first task; returns (session, task).
    pub(crate) async fn open(&self) -> (i64, i64) {
        let row = &self
            .sql("INSERT INTO millhand.tasks (project, prompt) VALUES ('acme', 'do it') RETURNING session_id, id")
            .await[0];
        (row.get(0), row.get(1))
    }

    pub(crate) async fn append(&self, session: i64) -> i64 {
        self.one(&format!(
            "INSERT INTO millhand.tasks (session_id, prompt) VALUES ({session}, 'and then') RETURNING id"
        ))
        .await
    }

    pub(crate) async fn state(&self, task: i64) -> String {
        self.one(&format!("SELECT state FROM millhand.tasks WHERE id = {task}")).await
    }

    pub(crate) async fn claim(&self, at_most: usize) -> Vec<Claimed> {
        claim_as(&self.store, self.worker, HOST, at_most).await
    }

    pub(crate) async fn claim_one(&self) -> Claimed {
        self.claim(1).await.pop().expect("something to claim")
    }

    pub(crate) async fn finish(&self, claimed: &Claimed, verdict: Verdict) -> Finished {
        finish_as(&self.store, claimed, verdict).await
    }
}

pub(crate) async fn register(store: &Store, worker: Uuid, host_id: &str) {
    store
        .register_worker(&WorkerRow { id: worker, host_id, hostname: "test", version: "0", capacity: 4 })
        .await
        .expect("register");
}

pub(crate) async fn claim_as(store: &Store, worker: Uuid, host: &str, at_most: usize) -> Vec<Claimed> {
    let (_, lanes, _) = store.advance_and_list_lanes().await.expect("advance");
    let lanes: Vec<_> =
        lanes.into_iter().filter(|l| l.starts_with("*/") || l.starts_with(&format!("{host}/"))).collect();
    store.claim(&lanes, at_most, worker, host, LEASE).await.expect("claim")
}

pub(crate) async fn finish_as(store: &Store, claimed: &Claimed, verdict: Verdict) -> Finished {
    let (outcome, class, message) = match verdict {
        Verdict::Completed => ("completed", None, None),
        _ => ("stalled", Some(ErrorClass::AgentFailed), Some("it stalled")),
    };
    store
        .finish(&Finish {
            token: claimed.token,
            outcome,
            error_class: class,
            error_message: message,
            verdict,
            summary: Some("said"),
            host_id: HOST,
        })
        .await
        .expect("finish")
}

pub(crate) const AGAIN: Verdict =
    Verdict::Again { wait: Duration::ZERO, charged: true, infra_loss: false, keep_message: false };
