//! Tests of: postgres, and of the databases that other tests use.

mod pooler;
mod private;
mod url;

use std::time::Duration;

use anyhow::Result;

use crate::support::{TestDb, wait_until};

#[tokio::test]
async fn each_test_has_a_migrated_database_of_its_own() -> Result<()> {
    let (one, other) = (TestDb::new().await?, TestDb::new().await?);
    let count = async |db: &TestDb| -> Result<i64> {
        Ok(db.client().await?.query_one("SELECT count(*) FROM millhand.tasks", &[]).await?.get(0))
    };
    one.client().await?.batch_execute("INSERT INTO millhand.projects (name, source) VALUES ('a', '/a')").await?;
    assert_eq!((count(&one).await?, count(&other).await?), (0, 0));
    let url: tokio_postgres::Config = one.url().parse()?;
    let (client, connection) = url.connect(tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let name: String = client.query_one("SELECT current_database()", &[]).await?.get(0);
    assert_eq!(name, one.name());
    Ok(())
}

#[tokio::test]
async fn the_proxy_forwards_cuts_swallows_and_loses_a_reply() -> Result<()> {
    let db = TestDb::new().await?;
    let proxy = db.proxy().await?;
    let direct = db.client().await?;
    direct.batch_execute("CREATE TABLE t (n int)").await?;
    let client = crate::support::db::connect(&db.config_through(&proxy)).await?;
    client.batch_execute("INSERT INTO t VALUES (1)").await?;

    proxy.drop_reply_to("INSERT INTO t VALUES (2)");
    assert!(client.batch_execute("INSERT INTO t VALUES (2)").await.is_err());
    proxy.reply_dropped().await?;
    wait_until("the lost reply's work", Duration::from_secs(10), async || {
        direct.query_one("SELECT count(*) FROM t", &[]).await.is_ok_and(|row| row.get::<_, i64>(0) == 2)
    })
    .await?;

    let client = crate::support::db::connect(&db.config_through(&proxy)).await?;
    proxy.black_hole();
    let answer = tokio::time::timeout(Duration::from_millis(200), client.simple_query("SELECT 1")).await;
    assert!(answer.is_err(), "nothing comes through");
    proxy.forward();
    wait_until("cut", Duration::from_secs(10), async || client.is_closed()).await?;
    crate::support::db::connect(&db.config_through(&proxy)).await?.simple_query("SELECT 1").await?;
    Ok(())
}
