//! Migrations: embedded SQL files, applied in order under an advisory lock.

use std::time::Duration;

use refinery::{Migration, Report, Runner};
use refinery_core::traits::r#async::{AsyncMigrate, AsyncQuery, AsyncTransaction};
use tokio::time::Instant;
use tokio_postgres::{Client, error::SqlState};

use super::{Connect, Result, Store, StoreError};

mod embedded {
    refinery::embed_migrations!("../migrations");
}

/// Where refinery records what it applied.
const HISTORY: &str = "millhand.schema_history";
/// Key of the advisory lock that serialises migrations: "millhand" in ASCII, shortened to fit.
const LOCK: i64 = 0x6d69_6c6c_6861_6e64;
/// How long a step waits for a lock at its first try: as long, others may have to wait behind it.
const LOCK_WITHIN: Duration = Duration::from_millis(50);
/// How long at most, after others were in the way. Less than Postgres's own deadlock_timeout (1 s), so that it is never a worker whose
/// statement is broken off.
const LOCK_WITHIN_AT_MOST: Duration = Duration::from_millis(500);
/// Between looks whether somebody else still migrates.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long it is tried.
const KEEP_TRYING: Duration = Duration::from_secs(600);
/// Takes every table that there is for this transaction alone: first in moments in which nobody is at work on any of them, which holds
/// up nobody, then by waiting for each. One after another as a step comes to them would not do while workers are busy: who waits for the
/// first of them holds the second.
const LOCK_TABLES: &str = "
    DO $$
    DECLARE
        tables text;
    BEGIN
        SELECT string_agg(oid::regclass::text, ', ' ORDER BY oid) INTO tables FROM pg_class
        WHERE relnamespace = 'millhand'::regnamespace AND relkind IN ('r', 'p');
        FOR i IN 1..200 LOOP
            BEGIN
                EXECUTE 'LOCK TABLE ' || tables || ' IN ACCESS EXCLUSIVE MODE NOWAIT';
                RETURN;
            EXCEPTION WHEN lock_not_available THEN
                PERFORM pg_sleep(0.001 + 0.004 * random());
            END;
        END LOOP;
        EXECUTE 'LOCK TABLE ' || tables || ' IN ACCESS EXCLUSIVE MODE';
    END $$";

/// A migration, and whether the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its number.
    pub version: i32,
    /// Its name.
    pub name: String,
    /// When it was applied; none: not yet.
    pub applied_on: Option<String>,
}

/// What the database has against what this program knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// The same.
    Current,
    /// The database lacks migrations.
    Older {
        /// Newest version in the database; 0 if there is no schema.
        database: i32,
        /// Newest version that this program knows.
        program: i32,
    },
    /// The database has migrations that this program does not know, and that it can work with all the same.
    Compatible {
        /// Newest version in the database.
        database: i32,
        /// Newest version that this program knows.
        program: i32,
    },
    /// The database has migrations that this program does not know.
    Newer {
        /// Newest version in the database.
        database: i32,
        /// Newest version that this program knows.
        program: i32,
    },
}

impl SchemaState {
    /// An error in words, unless this program can work with it.
    pub fn require_current(&self) -> Result<()> {
        match self {
            Self::Current | Self::Compatible { .. } => Ok(()),
            Self::Older { database: 0, .. } => {
                Err(StoreError::Schema("this database has no Millhand schema yet: run `millhand migrate`".to_owned()))
            }
            Self::Older { database, program } => Err(StoreError::Schema(format!(
                "the database's schema is at version {database}, this millhand needs {program}: run `millhand migrate`"
            ))),
            Self::Newer { database, program } => Err(StoreError::Schema(format!(
                "the database's schema is at version {database}, newer than this millhand knows ({program}): upgrade millhand"
            ))),
        }
    }
}

fn runner() -> Runner {
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name(HISTORY);
    runner
}

fn newest(migrations: &[Migration]) -> i32 {
    migrations.iter().map(Migration::version).max().unwrap_or(0)
}

fn refused(error: &refinery::Error) -> StoreError {
    use std::error::Error as _;
    let cause = error.source().and_then(|e| e.downcast_ref::<tokio_postgres::Error>());
    match cause.and_then(tokio_postgres::Error::as_db_error) {
        Some(db) => StoreError::Schema(format!("migration failed: {}", db.message())),
        None => StoreError::Schema(format!("migration failed: {error}")),
    }
}

async fn history(client: &Client) -> Result<Vec<Step>> {
    let known = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&HISTORY]).await?.get::<_, bool>(0);
    if !known {
        return Ok(Vec::new());
    }
    let rows = client.query(&format!("SELECT version, name, applied_on FROM {HISTORY} ORDER BY version"), &[]).await?;
    Ok(rows.iter().map(|row| Step { version: row.get(0), name: row.get(1), applied_on: Some(row.get(2)) }).collect())
}

impl Store {
    /// All migrations, those of the database that this program does not know included.
    pub async fn migrations(&self) -> Result<Vec<Step>> {
        let mut steps = history(&**self.client().await?).await?;
        for migration in runner().get_migrations() {
            if !steps.iter().any(|step| step.version == migration.version()) {
                steps.push(Step { version: migration.version(), name: migration.name().to_owned(), applied_on: None });
            }
        }
        steps.sort_by_key(|step| step.version);
        Ok(steps)
    }

    /// What the database has against what this program knows.
    pub async fn schema_state(&self) -> Result<SchemaState> {
        let program = newest(runner().get_migrations());
        let database = history(&**self.client().await?).await?.iter().map(|s| s.version).max().unwrap_or(0);
        Ok(match database.cmp(&program) {
            std::cmp::Ordering::Equal => SchemaState::Current,
            std::cmp::Ordering::Less => SchemaState::Older { database, program },
            std::cmp::Ordering::Greater if self.oldest_program().await? <= program => {
                SchemaState::Compatible { database, program }
            }
            std::cmp::Ordering::Greater => SchemaState::Newer { database, program },
        })
    }

    /// The newest migration that a program must know at least to work with the database, as the database says.
    async fn oldest_program(&self) -> Result<i32> {
        Ok(self.client().await?.query_one("SELECT millhand.oldest_program()", &[]).await?.get(0))
    }

    /// Applies what is missing. Two at once are safe: the second waits, and finds nothing to do.
    ///
    /// Returns the steps applied now.
    pub async fn migrate(&self) -> Result<Vec<Step>> {
        migrate(self.connect()).await
    }
}

/// The connection that migrates: each of its transactions has all tables to itself.
struct Alone {
    client: Client,
    /// How long it waits for others.
    lock_within: Duration,
}

impl AsyncTransaction for Alone {
    type Error = tokio_postgres::Error;

    async fn execute<'a, T: Iterator<Item = &'a str> + Send + 'a>(
        &mut self,
        queries: T,
    ) -> std::result::Result<usize, Self::Error> {
        let queries: Vec<_> = queries.collect();
        let transaction = self.client.transaction().await?;
        let lock_within = self.lock_within.as_millis();
        transaction.batch_execute(&format!("SET LOCAL lock_timeout = {lock_within}")).await?;
        // A step is its SQL and the note that it was applied. What comes alone makes the table of these notes.
        if queries.len() > 1 {
            transaction.batch_execute(LOCK_TABLES).await?;
        }
        for query in &queries {
            transaction.batch_execute(query).await?;
        }
        transaction.commit().await?;
        Ok(queries.len())
    }
}

impl AsyncQuery<Vec<Migration>> for Alone {
    async fn query(&mut self, query: &str) -> std::result::Result<Vec<Migration>, Self::Error> {
        AsyncQuery::query(&mut self.client, query).await
    }
}

impl AsyncMigrate for Alone {}

/// Applies what is missing. Workers run meanwhile: a step that has to wait for a lock gives up
/// before others have waited long behind it, and is tried again.
async fn apply(client: Client) -> Result<Report> {
    let mut client = Alone { client, lock_within: LOCK_WITHIN };
    let began = Instant::now();
    loop {
        let error = match runner().run_async(&mut client).await {
            Ok(report) => return Ok(report),
            Err(error) => error,
        };
        if !is_in_the_way(&error) {
            return Err(refused(&error));
        }
        if began.elapsed() > KEEP_TRYING {
            return Err(StoreError::Schema(format!(
                "the migration found others at work on Millhand's tables for {} minutes: is a backup running, or a transaction left open in psql? \
                 Run `millhand migrate` again when they are done",
                KEEP_TRYING.as_secs() / 60
            )));
        }
        tracing::info!("a migration waits for others to be done; trying again");
        // Others have as long to get on with their work as they were held up.
        tokio::time::sleep(client.lock_within).await;
        client.lock_within = (client.lock_within * 2).min(LOCK_WITHIN_AT_MOST);
    }
}

/// Whether others were in the way of a migration, and it may be tried again.
fn is_in_the_way(error: &refinery::Error) -> bool {
    use std::error::Error as _;
    let cause = error.source().and_then(|e| e.downcast_ref::<tokio_postgres::Error>());
    let codes = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED];
    cause.and_then(tokio_postgres::Error::code).is_some_and(|code| codes.contains(code))
}

/// An error where the database has what this program does not know.
fn newer_than_known(have: &[Step]) -> Result<()> {
    let program = newest(runner().get_migrations());
    let database = have.iter().map(|step| step.version).max().unwrap_or(0);
    if database > program {
        return Err(StoreError::Schema(format!(
            "the database's schema is at version {database}, newer than this millhand knows ({program}): upgrade millhand"
        )));
    }
    Ok(())
}

/// Waits until nobody else migrates, and leaves a transaction open that keeps others out.
///
/// A session's lock would stay behind with a pooler's connection. Who waits holds none of these meanwhile: there may be few.
async fn keep_others_out(keeper: &Client) -> Result<()> {
    loop {
        keeper.batch_execute("BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0").await?;
        if keeper.query_one("SELECT pg_try_advisory_xact_lock($1)", &[&LOCK]).await?.get(0) {
            return Ok(());
        }
        keeper.batch_execute("ROLLBACK").await?;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn migrate(connect: &Connect) -> Result<Vec<Step>> {
    // Connections of their own, which no setting of the pools touches.
    let (client, connection) = connect.config.connect(connect.tls.clone()).await?;
    let driver = tokio::spawn(connection);
    let (keeper, connection) = connect.config.connect(connect.tls.clone()).await?;
    tokio::spawn(connection);
    let floor: i32 = client.query_one("SELECT current_setting('server_version_num')::int", &[]).await?.get(0);
    if floor < 150_000 {
        return Err(StoreError::Schema(format!("PostgreSQL 15 or newer is needed; this is {}", floor / 10_000)));
    }
    let have = history(&client).await?;
    if runner().get_migrations().iter().all(|step| have.iter().any(|had| had.version == step.version()))
        && !have.is_empty()
    {
        // A role that may not change the schema may all the same find that there is nothing to do.
        newer_than_known(&have)?;
        return Ok(Vec::new());
    }
    keep_others_out(&keeper).await?;
    client.batch_execute("CREATE SCHEMA IF NOT EXISTS millhand").await?;
    let applied = match newer_than_known(&history(&client).await?) {
        Ok(()) => apply(client).await,
        Err(error) => {
            drop(client);
            Err(error)
        }
    };
    let _ = driver.await;
    // It held a lock and nothing else: what was applied does not depend on how it ends.
    let _ = keeper.batch_execute("COMMIT").await;
    Ok(applied?
        .applied_migrations()
        .iter()
        .map(|m| Step {
            version: m.version(),
            name: m.name().to_owned(),
            applied_on: m.applied_on().map(|t| t.to_string()),
        })
        .collect())
}
