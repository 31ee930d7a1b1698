//! A database as an earlier version of Millhand left it, and workers of that version.

use crate::support::TestDb;

/// Brings an empty database to a version, by the migrations up to it.
pub(crate) async fn at_version(db: &TestDb, version: i32) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let mut steps: Vec<(i32, String)> = std::fs::read_dir(folder)
        .expect("migrations")
        .filter_map(|entry| {
            let path = entry.expect("entry").path();
            let name = path.file_name()?.to_str()?.to_owned();
            let number = name.strip_prefix('V')?.split("__").next()?.parse().ok()?;
            Some((number, std::fs::read_to_string(&path).expect("migration")))
        })
        .filter(|(number, _)| *number <= version)
        .collect();
    steps.sort();
    let client = db.client().await.expect("client");
    client.batch_execute("CREATE SCHEMA IF NOT EXISTS millhand").await.expect("schema");
    for (number, sql) in &steps {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("V{number}: {error:?}"));
    }
    // What was applied is recorded by name and checksum, which a migrated database knows.
    let migrated = TestDb::new().await.expect("database");
    let rows = migrated
        .client()
        .await
        .expect("client")
        .query(
            "SELECT version, name, applied_on, checksum FROM millhand.schema_history WHERE version <= $1",
            &[&version],
        )
        .await
        .expect("history");
    let table = "CREATE TABLE millhand.schema_history (version int4 PRIMARY KEY, name varchar(255), applied_on varchar(255), checksum varchar(255))";
    client.batch_execute(table).await.expect("history");
    for row in rows {
        let values: (i32, String, String, String) = (row.get(0), row.get(1), row.get(2), row.get(3));
        client
            .execute(
                "INSERT INTO millhand.schema_history VALUES ($1, $2, $3, $4)",
                &[&values.0, &values.1, &values.2, &values.3],
            )
            .await
            .expect("history");
    }
}
