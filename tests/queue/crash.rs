//! What a crash of the database undoes: commits that did not wait for the disk, and nothing that a turn brought.

use anyhow::{Context, Result};
use millhand::{
    model::retry::Verdict,
    store::{
        Connect, Store,
        queue::{Claimed, Finished},
        turns::{AgentSessionRow, BeforePrompt},
    },
};
use uuid::Uuid;

use super::{
    HOST, claim_as, finish_as,
    recording::{changes, owner, step},
    register,
};
use crate::support::{db::OwnCluster, wait_until, world::TURN_WITHIN};

const PLACE: &str = "/worktrees/1/1";
const BASE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// A database of its own, whose log reaches the disk with those commits only that wait for it.
struct Fragile {
    cluster: OwnCluster,
    store: Store,
    worker: Uuid,
}

impl Fragile {
    async fn new() -> Result<Self> {
        let cluster = OwnCluster::start(None)?;
        let client = cluster.client().await?;
        client.batch_execute("ALTER SYSTEM SET wal_writer_delay = '10s'").await?;
        client.batch_execute("SELECT pg_reload_conf()").await?;
        let store = Store::new(Connect::plain(cluster.config().clone(), 2))?;
        store.migrate().await?;
        client.batch_execute("SELECT millhand.add_project('acme', '/src/acme')").await?;
        client.batch_execute("INSERT INTO millhand.tasks (project, prompt) VALUES ('acme', 'do it')").await?;
        let worker = Uuid::new_v4();
        register(&store, worker, HOST).await;
        Ok(Self { cluster, store, worker })
    }

    async fn claim(&self) -> Result<Claimed> {
        claim_as(&self.store, self.worker, HOST, 1).await.pop().context("something to claim")
    }

    /// What a turn settles before its prompt.
    async fn settle(&self, claimed: &Claimed) -> Result<()> {
        let begun = self.store.begin_worktree(claimed.token, HOST, PLACE, "millhand/s1", BASE).await?;
        begun.context("the lease")?;
        let settled = self.store.settle_session(claimed.token, Some("main"), BASE, HOST, PLACE, "millhand/s1").await?;
        anyhow::ensure!(settled, "the lease");
        Ok(())
    }

    async fn before_prompt(&self, claimed: &Claimed) -> Result<BeforePrompt> {
        let session = AgentSessionRow { external_id: "ses_1".to_owned(), config_hash: "h".to_owned() };
        let stored = self.store.before_prompt(claimed.token, "opencode", "opencode", HOST, &session, "a", "m", "msg_1");
        Ok(stored.await?)
    }

    async fn crash(&self) -> Result<()> {
        self.cluster.crash().await?;
        wait_until("the store has connections again", TURN_WITHIN, async || self.store.ping().await.is_ok()).await
    }

    async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> Result<T> {
        Ok(self.cluster.client().await?.query_one(sql, &[]).await?.get(0))
    }
}

#[tokio::test]
async fn what_a_turn_brought_is_there_whenever_its_finish_gets_through() -> Result<()> {
    let db = Fragile::new().await?;
    let claimed = db.claim().await?;
    db.settle(&claimed).await?;
    assert_eq!(db.before_prompt(&claimed).await?, BeforePrompt::Stored);
    db.store.record_usage(owner(&claimed), &[step("m1", 7, 2_000_000)]).await?;
    db.crash().await?;
    assert_eq!(db.one::<i64>("SELECT count(*) FROM millhand.usage").await?, 1, "what it cost");
    db.store.draft_changes(owner(&claimed), &changes(&[b"a", b"b"])).await?;
    db.crash().await?;
    let finished = finish_as(&db.store, &claimed, Verdict::Completed).await;
    assert_eq!(finished, Finished::Recorded("completed".to_owned()));
    let files = "SELECT count(*) FROM millhand.pending_changes WHERE state = 'pending'";
    assert_eq!(db.one::<i64>(files).await?, 2, "what it changed");
    assert_eq!(db.one::<i64>("SELECT tokens FROM millhand.tasks").await?, 17);
    Ok(())
}

#[tokio::test]
async fn no_prompt_is_sent_for_a_session_whose_beginning_is_undone() -> Result<()> {
    let db = Fragile::new().await?;
    let claimed = db.claim().await?;
    db.settle(&claimed).await?;
    db.crash().await?;
    assert_eq!(db.one::<i64>("SELECT count(*) FROM millhand.leases").await?, 1, "it is claimed");
    assert_eq!(db.one::<i64>("SELECT count(*) FROM millhand.worktrees").await?, 1, "no folder is unknown");
    let known = "SELECT count(*) FROM millhand.sessions WHERE base_commit IS NOT NULL";
    assert_eq!(db.one::<i64>(known).await?, 0, "what was settled is undone, else this proves nothing");
    assert_eq!(db.before_prompt(&claimed).await?, BeforePrompt::Undone);
    assert!(db.one::<bool>("SELECT message_id IS NULL FROM millhand.tasks").await?);
    db.settle(&claimed).await?;
    assert_eq!(db.before_prompt(&claimed).await?, BeforePrompt::Stored);
    Ok(())
}
