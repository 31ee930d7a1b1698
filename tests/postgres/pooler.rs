//! Behind a pooler in transaction mode, as `database.listen = false` promises.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use millhand::{
    postgres::Address,
    store::{Connect, Store},
};

use crate::support::{
    TestDb,
    pooler::Pooler,
    wait_until, worker,
    world::{TURN_WITHIN, World},
};

const WRITE: &str = r#"[
    {"type": "tool_call", "id": "one", "name": "write", "arguments": {"filePath": "note-{{prompt}}", "content": "x\n"}},
    {"type": "text", "content": "Done."},
    {"type": "done"}
]"#;

/// What connections of the server are set to by whoever had them before.
const SETTINGS: &str = "SELECT pg_backend_pid(), current_setting('synchronous_commit'), current_setting('statement_timeout'), \
                        current_setting('lock_timeout'), current_setting('jit')";

fn through(pooler: &Pooler) -> Result<Connect> {
    Ok(Connect::to(Address::parse(&pooler.url())?, 8).through_pooler(true))
}

#[tokio::test]
async fn two_migrate_at_once_and_leave_nothing_behind() -> Result<()> {
    let db = TestDb::empty().await?;
    let Some(pooler) = Pooler::before(&db).await? else { return Ok(()) };
    let (one, other) = (Store::new(through(&pooler)?)?, Store::new(through(&pooler)?)?);
    let (one, other) = tokio::try_join!(one.migrate(), other.migrate())?;
    assert!(one.is_empty() != other.is_empty(), "one of them did it all: {} and {} steps", one.len(), other.len());
    let client = db.client().await?;
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(client.query_one(locks, &[]).await?.get::<_, i64>(0), 0);
    Ok(())
}

#[tokio::test]
async fn turns_run_and_nothing_is_set_on_connections_that_others_get() -> Result<()> {
    let world = World::new(&[("write", WRITE)]).await?;
    let Some(pooler) = Pooler::before(&world.db).await? else { return Ok(()) };
    let variables = [("MILLHAND_DATABASE_URL", pooler.url()), ("MILLHAND_DATABASE_LISTEN", "false".to_owned())];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let defaults = world.sql(SETTINGS).await?.first().map(set).context("settings")?;
    let mut running = worker::start(&world, &variables)?;
    let mut tasks = Vec::new();
    for n in 0..6 {
        tasks.push(world.queue(&format!("{n}")).await?);
    }
    for task in &tasks {
        assert_eq!(world.settled(*task).await?, "completed", "{}", worker::log(&world));
        assert_eq!(world.verdict(*task).await?.1, "completed");
    }
    let seen = wait_until("the heartbeat is heard", TURN_WITHIN, async || {
        world.one::<bool>("SELECT bool_and(heartbeat_at > started_at) FROM millhand.workers").await.unwrap_or_default()
    });
    seen.await?;

    // More at once than it has connections: each of them is looked at.
    let (client, connection) = tokio_postgres::connect(&pooler.url(), tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let mut looked_at = BTreeSet::new();
    let mut others = Vec::new();
    for _ in 0..2 {
        let (other, connection) = tokio_postgres::connect(&pooler.url(), tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        other.batch_execute("BEGIN").await?;
        let row = other.query_one(SETTINGS, &[]).await?;
        assert_eq!(set(&row), defaults);
        looked_at.insert(row.get::<_, i32>(0));
        others.push(other);
    }
    let row = client.query_one(SETTINGS, &[]).await?;
    assert_eq!(set(&row), defaults);
    looked_at.insert(row.get(0));
    assert_eq!(looked_at.len(), 3, "all connections of the pooler");
    running.kill().await?;
    Ok(())
}

fn set(row: &tokio_postgres::Row) -> [String; 4] {
    [1, 2, 3, 4].map(|column| row.get(column))
}
