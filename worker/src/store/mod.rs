//! All SQL, the pools, the listener and the migrations: the only place that knows tokio-postgres.
//!
//! One function per query; a query longer than a few lines is a file in `sql/`. A turn never holds a
//! transaction: every function here is one statement or one short transaction. Nothing here decides; what a task
//! becomes is decided in `model`, and fenced here by the attempt's lease.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};

pub mod access;
pub mod asks;
pub mod budgets;
pub mod changes;
pub mod checks;
mod connect;
pub mod costs;
pub mod fleet;
pub mod forecasts;
pub mod listen;
mod load;
pub mod migrate;
pub mod pages;
pub mod people;
pub mod projects;
pub mod queue;
mod reach;
pub mod reads;
pub mod reads_turns;
pub mod rehome;
pub mod repair;
pub mod retention;
pub mod reviews;
pub mod setup;
pub mod streams;
pub mod turns;
pub mod webhooks;
pub mod worktrees;

pub use connect::{Connect, Store};
pub use load::{Ends, LoadedTask};

/// Why a query gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, or the connection broke. What was asked may or may not have happened.
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    /// The database refused, with the reason and what to do.
    #[error("{message}{}", hint.as_ref().map(|h| format!(" ({h})")).unwrap_or_default())]
    Refused {
        /// SQLSTATE.
        code: String,
        /// The database's words.
        message: String,
        /// What to do, in the database's words.
        hint: Option<String>,
        /// Name of the constraint that refused, if one did.
        constraint: Option<String>,
    },
    /// The schema in the database is not the one that this program knows.
    #[error("{0}")]
    Schema(String),
    /// An answer was not of the form expected; a bug.
    #[error("unexpected answer from the database: {0}")]
    Unexpected(String),
}

impl StoreError {
    /// Whether trying again later can help.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    /// SQLSTATE, where the database refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(why) = reach::why(&error) {
            return Self::Unreachable(why);
        }
        let Some(db) = error.as_db_error() else {
            return Self::Unexpected(format!("{error}: {}", reach::root_cause(&error)));
        };
        Self::Refused {
            code: db.code().code().to_owned(),
            message: db.message().to_owned(),
            hint: db.hint().or_else(|| reach::of_pooler(db.code())).map(str::to_owned),
            constraint: db.constraint().map(str::to_owned),
        }
    }
}

impl From<deadpool_postgres::PoolError> for StoreError {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        match error {
            deadpool_postgres::PoolError::Backend(error) => match Self::from(error) {
                // A refused log-in is, for the caller, a database that cannot be used.
                Self::Refused { message, .. } => Self::Unreachable(message),
                other => other,
            },
            other => Self::Unreachable(other.to_string()),
        }
    }
}

/// A result of this module.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Postgres takes no NUL in text or jsonb: it becomes U+FFFD, which shows that something was there.
pub fn without_nul(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

/// A connection whose commits wait for the disk.
async fn durable(pool: &Pool) -> Result<Object> {
    Ok(pool.get().await?)
}

/// Seconds, as `make_interval(secs => ...)` takes them.
fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
