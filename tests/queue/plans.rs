//! What people look at is found by indexes, however much there is.

use std::{collections::BTreeMap, time::Duration};

use millhand::bench::views::{self, Size};
use tokio_postgres::Client;

use crate::support::{TestDb, wait_until};

/// Tables that grow with all that ever ran.
const LARGE: [&str; 5] = ["tasks", "sessions", "chats", "attempts", "usage"];

/// How many rows were read from each by going through the table, once all others have gone and told what they did.
async fn read_whole(db: &TestDb, client: &Client) -> BTreeMap<String, i64> {
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    wait_until("they are gone", Duration::from_secs(20), async || {
        client.query_one(others, &[&db.name()]).await.is_ok_and(|row| row.get::<_, i64>(0) == 0)
    })
    .await
    .expect("gone");
    let sql = "SELECT relname::text, seq_tup_read FROM pg_stat_user_tables WHERE schemaname = 'millhand' AND relname = ANY ($1)";
    let rows = client.query(sql, &[&LARGE.as_slice()]).await.expect("statistics");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_look_at_is_found_by_indexes_however_much_there_is() {
    let db = TestDb::new().await.expect("database");
    let client = db.client().await.expect("client");
    let size = Size { finished: 20_000, pending: 2_000, rounds: 1 };
    let loading = db.store().expect("store");
    views::load(&loading, size).await.expect("load");
    loading.close();
    let before = read_whole(&db, &client).await;
    assert_eq!(before.len(), LARGE.len());

    let store = db.store().expect("store");
    let mut looked_at = 0;
    views::commands(&store, size.rounds, &mut |_| looked_at += 1).await.expect("look");
    store.close();
    assert!(looked_at > 20, "{looked_at}");
    let after = read_whole(&db, &client).await;
    for (table, rows) in &after {
        let gone_through = rows - before[table];
        assert!(gone_through < 2_000, "{gone_through} rows of {table} were read without an index");
    }
}
