//! schema.sql is the sum of the migrations, and says what everything is.

use millhand::store::{Connect, Store, migrate::SchemaState};

use crate::support::TestDb;

/// Everything that makes up the schema, normalised: one line per thing.
const CATALOGUE: &str = "
    SELECT 'column ' || c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
        || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
        || ' ' || a.attidentity::text || coalesce(' collate ' || l.collname, '') || ' -- ' || coalesce(col_description(c.oid, a.attnum), '')
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    LEFT JOIN pg_collation l ON l.oid = a.attcollation AND l.collname <> 'default'
    WHERE c.relnamespace = 'millhand'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND c.relname <> 'schema_history'
    UNION ALL
    SELECT 'table ' || c.relname || ' ' || c.relkind::text || ' ' || coalesce(array_to_string(c.reloptions, ','), '')
        || ' -- ' || coalesce(obj_description(c.oid, 'pg_class'), '')
        || CASE WHEN c.relkind = 'v' THEN pg_get_viewdef(c.oid) ELSE '' END
    FROM pg_class c WHERE c.relnamespace = 'millhand'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND c.relname <> 'schema_history'
    UNION ALL
    SELECT 'constraint ' || c.relname || ' ' || k.conname || ' ' || pg_get_constraintdef(k.oid)
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
    WHERE c.relnamespace = 'millhand'::regnamespace AND c.relname <> 'schema_history'
    UNION ALL
    SELECT 'index ' || pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
    WHERE c.relnamespace = 'millhand'::regnamespace AND c.relname <> 'schema_history'
    UNION ALL
    SELECT 'function ' || pg_get_functiondef(p.oid) || ' -- ' || coalesce(obj_description(p.oid, 'pg_proc'), '')
    FROM pg_proc p WHERE p.pronamespace = 'millhand'::regnamespace
    UNION ALL
    SELECT 'trigger ' || pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE c.relnamespace = 'millhand'::regnamespace AND NOT t.tgisinternal
    UNION ALL
    SELECT 'schema -- ' || coalesce(obj_description('millhand'::regnamespace, 'pg_namespace'), '')
    ORDER BY 1";

async fn catalogue(db: &TestDb) -> Vec<String> {
    db.client()
        .await
        .expect("client")
        .query(CATALOGUE, &[])
        .await
        .expect("catalogue")
        .iter()
        .map(|row| row.get(0))
        .collect()
}

#[tokio::test]
async fn schema_sql_equals_the_sum_of_the_migrations() {
    let (fresh, migrated) = (TestDb::empty().await.expect("database"), TestDb::empty().await.expect("database"));
    fresh.client().await.expect("client").batch_execute(include_str!("../../schema.sql")).await.expect("schema.sql");
    migrated.store().expect("store").migrate().await.expect("migrate");
    let (fresh, migrated) = (catalogue(&fresh).await, catalogue(&migrated).await);
    let only = |a: &[String], b: &[String]| a.iter().filter(|x| !b.contains(x)).cloned().collect::<Vec<_>>();
    assert_eq!(only(&fresh, &migrated), Vec::<String>::new(), "only in schema.sql");
    assert_eq!(only(&migrated, &fresh), Vec::<String>::new(), "only after the migrations");
    assert!(fresh.len() > 150, "the catalogue query finds too little: {}", fresh.len());
}

#[tokio::test]
async fn every_table_column_view_and_function_has_a_comment() {
    let db = TestDb::new().await.expect("database");
    let rows = catalogue(&db).await;
    // A view's columns are those of its tables.
    let views: Vec<String> = db
        .client()
        .await
        .expect("client")
        .query(
            "SELECT relname::text FROM pg_class WHERE relnamespace = 'millhand'::regnamespace AND relkind = 'v'",
            &[],
        )
        .await
        .expect("views")
        .iter()
        .map(|row| format!("column {}.", row.get::<_, String>(0)))
        .collect();
    let bare: Vec<_> = rows
        .iter()
        .filter(|row| ["column ", "table ", "function ", "schema"].iter().any(|kind| row.starts_with(kind)))
        .filter(|row| !views.iter().any(|view| row.starts_with(view)))
        .filter(|row| row.trim_end().ends_with("--"))
        .collect();
    assert!(bare.is_empty(), "{bare:#?}");
}

#[tokio::test]
async fn migrating_twice_and_by_two_at_once_applies_each_step_once() {
    let db = TestDb::empty().await.expect("database");
    let store = db.store().expect("store");
    let words = store.schema_state().await.expect("state").require_current().expect_err("no schema").to_string();
    assert!(words.contains("no Millhand schema yet") && words.contains("millhand migrate"), "{words}");
    let (one, two) = tokio::join!(store.migrate(), store.migrate());
    let steps = store.migrations().await.expect("steps");
    assert_eq!(one.expect("one").len() + two.expect("two").len(), steps.len());
    assert!(steps.iter().all(|step| step.applied_on.is_some()));
    assert_eq!(store.schema_state().await.expect("state"), SchemaState::Current);
}

#[tokio::test]
async fn a_newer_schema_is_refused_with_what_to_do() {
    let db = TestDb::new().await.expect("database");
    db.client()
        .await
        .expect("client")
        .batch_execute(
            "INSERT INTO millhand.schema_history SELECT 999, 'future', applied_on, checksum \
             FROM millhand.schema_history LIMIT 1; \
             CREATE OR REPLACE FUNCTION millhand.oldest_program() RETURNS int LANGUAGE sql AS 'SELECT 999'",
        )
        .await
        .expect("a step from the future");
    let store = db.store().expect("store");
    let words = store.schema_state().await.expect("state").require_current().expect_err("newer").to_string();
    assert!(words.contains("999") && words.contains("upgrade millhand"), "{words}");
    assert!(store.migrate().await.is_err());
    assert_eq!(store.migrations().await.expect("steps").last().map(|s| s.version), Some(999));
}

#[tokio::test]
async fn every_statement_can_be_prepared() {
    let db = TestDb::new().await.expect("database");
    let client = db.client().await.expect("client");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/src/store/sql");
    let mut prepared = 0;
    let tail = std::fs::read_to_string(folder.join("rescue_tail.sql")).expect("tail");
    for entry in std::fs::read_dir(&folder).expect("sql folder") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        let mut sql = std::fs::read_to_string(&path).expect("sql");
        match name.as_str() {
            "rescue_tail.sql" => continue,
            name if name.starts_with("rescue_") => sql.push_str(&tail),
            _ => {}
        }
        client.prepare(&sql).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        prepared += 1;
    }
    assert!(prepared >= 10, "{prepared}");
}

#[tokio::test]
async fn an_unreachable_database_is_said_to_be_unreachable() {
    let config = "host=127.0.0.1 port=1 user=x dbname=x connect_timeout=2".parse().expect("config");
    let store = Store::new(Connect::plain(config, 2)).expect("store");
    let error = store.ping().await.expect_err("nobody there");
    assert!(error.is_unreachable(), "{error:?}");
    assert!(error.to_string().contains("refused"), "{error}");
}
