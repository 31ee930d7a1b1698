//! Reaching the database: connecting, migrating, handing its address to other tools.

use std::path::Path;

use owo_colors::OwoColorize as _;
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    Context,
    args::{Db, Migrate},
    failure::{Exit, Failure, Outcome},
    screen::{dim, green},
    setup::{self, blocking},
    worker::this_program,
};
use crate::{
    config::prepare_home,
    postgres::{Address, Private, PrivateError, Running, Source},
    store::{
        Connect, Store,
        migrate::{SchemaState, Step},
    },
    tools::find_postgres,
};

/// Connections that a command needs.
const POOL_SIZE: usize = 4;

/// The database, for as long as this lives.
pub(super) struct Database {
    pub(super) store: Store,
    /// Where it is, without a password.
    pub(super) shown: String,
    address: Address,
    /// The URL as it was given; none: by `PG*` variables.
    given: Option<SecretString>,
    /// Keeps the private Postgres up.
    _private: Option<Running>,
}

impl Database {
    /// libpq's variables for another program that is to use it; none if the `PG*` variables of the environment are enough.
    pub(super) fn variables(&self) -> Vec<(&'static str, String)> {
        self.given.as_ref().map(|given| self.address.libpq_variables(given)).unwrap_or_default()
    }
}

impl std::ops::Deref for Database {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

/// The database, with a schema that this program knows.
pub(super) async fn open(context: &Context) -> Outcome<Database> {
    let database = connect(context).await?;
    prepare(context, &database).await?;
    Ok(database)
}

/// Sees to the schema: a private database is ours to bring up to date.
pub(super) async fn prepare(context: &Context, database: &Database) -> Outcome<()> {
    let schema = database.store.schema_state().await?;
    if matches!(schema, SchemaState::Older { .. }) && context.settings.database.is_private() {
        database.store.migrate().await?;
        return Ok(());
    }
    Ok(schema.require_current()?)
}

/// The database, if it is there without starting one.
pub(super) async fn connect_if_running(context: &Context) -> Outcome<Option<Database>> {
    if context.settings.database.is_private() && !Private::is_running(&context.settings.home) {
        return Ok(None);
    }
    connect(context).await.map(Some)
}

/// The database, whatever its schema. Starts the private one where none is named.
pub(super) async fn connect(context: &Context) -> Outcome<Database> {
    let database = &context.settings.database;
    if database.is_private() {
        return connect_private(context).await;
    }
    let from = if database.url.is_some() { database.url_from.as_str() } else { "PG* variables" };
    let source = Source {
        url: database.url.as_ref().map(|url| url.expose_secret()),
        variables: Some(&database.variables),
        user_home: context.settings.environment.get("HOME").map(Path::new),
    };
    let address = Address::resolve(&source)
        .map_err(|error| Failure::usage(format!("{from}: {error}"), "postgres://user@host/database"))?;
    let shown = format!("{} ({from})", address.display_safe());
    // Who does not listen has a pooler in between, as far as we know.
    let connect = Connect::to(address.clone(), POOL_SIZE).through_pooler(!database.listen);
    let store = Store::new(connect)?;
    store.ping().await?;
    Ok(Database { store, shown, address, given: database.url.clone(), _private: None })
}

async fn connect_private(context: &Context) -> Outcome<Database> {
    let home = &context.settings.home;
    prepare_home(home).map_err(|error| {
        let home = home.root().display();
        Failure::usage(
            format!("{home}: {error}"),
            "choose a folder that you may write: --home FOLDER, or MILLHAND_HOME",
        )
    })?;
    let search = setup::postgres_search(context);
    let binaries = blocking(move || find_postgres(&search)).await??;
    let progress = context.screen.progress("starting the private Postgres");
    let running = Private::new(home.clone(), binaries, this_program()?).connect().await?;
    drop(progress);
    let address = Address::parse(running.url().expose_secret())
        .map_err(|error| Failure::broken(format!("the private Postgres's address: {error}"), None))?;
    let store = Store::new(Connect::to(address.clone(), POOL_SIZE))?;
    store.ping().await?;
    let shown = format!("private, in {}", home.postgres().display());
    Ok(Database { store, shown, given: Some(running.url().clone()), address, _private: Some(running) })
}

/// `millhand migrate`.
pub(super) async fn migrate(context: &Context, arguments: &Migrate) -> Outcome {
    let store = connect(context).await?;
    let screen = context.screen;
    if arguments.status || arguments.dry_run {
        let state = store.schema_state().await?;
        for step in store.migrations().await? {
            if arguments.dry_run && step.applied_on.is_some() {
                continue;
            }
            screen.object("migration", &shown(&step))?;
            let name = format!("V{} {}", step.version, step.name);
            screen.line(&match &step.applied_on {
                Some(when) => format!("{} {name} {}", "✓".style(green()), format!("applied {when}").style(dim())),
                None => format!("· {name} {}", "to be applied".style(dim())),
            })?;
        }
        match state {
            SchemaState::Current | SchemaState::Compatible { .. } => screen.line("The schema is up to date.")?,
            SchemaState::Older { .. } => screen.line("Next: millhand migrate")?,
            SchemaState::Newer { .. } => state.require_current()?,
        }
        return Ok(Exit::Done);
    }
    let progress = screen.progress("migrating");
    let applied = store.migrate().await?;
    drop(progress);
    for step in &applied {
        screen.object("migration", &shown(step))?;
        screen.line(&format!("{} V{} {}", "✓".style(green()), step.version, step.name))?;
    }
    if applied.is_empty() {
        screen.line("The schema is up to date.")?;
    }
    Ok(Exit::Done)
}

fn shown(step: &Step) -> serde_json::Value {
    serde_json::json!({ "version": step.version, "name": step.name, "applied_on": step.applied_on })
}

/// `millhand db`.
pub(super) async fn db(context: &Context, command: Db) -> Outcome {
    let database = connect(context).await?;
    match command {
        Db::Url => {
            let url = match &database.given {
                Some(url) => url.expose_secret().to_owned(),
                None => database.address.url().expose_secret().to_owned(),
            };
            context.screen.object("database", &serde_json::json!({ "url": url }))?;
            context.screen.line(&url)?;
            Ok(Exit::Done)
        }
        Db::Psql { arguments } => {
            let mut psql = std::process::Command::new("psql");
            // By the environment, where others on this machine cannot read the password.
            psql.envs(database.variables());
            psql.args(arguments);
            // The private Postgres is ours to keep while psql runs, so this process stays beside it.
            let status = psql.status().map_err(|error| {
                Failure::broken(
                    format!("psql: {error}"),
                    Some("install PostgreSQL's client (psql), or use another one with: millhand db url".to_owned()),
                )
            })?;
            if status.success() { Ok(Exit::Done) } else { Err(Failure::broken(format!("psql ended: {status}"), None)) }
        }
    }
}

impl From<PrivateError> for Failure {
    fn from(error: PrivateError) -> Self {
        Self { exit: Exit::Unreachable, code: "database_unreachable", message: error.to_string(), hint: None }
    }
}
