//! The database's whereabouts: a Postgres of our own where the user names none, and what a connection string means.
//!
//! The private Postgres belongs to a home and is shared by all its processes. Each holds a shared lock while it uses it; a keeper
//! (`millhand postgres-shim`, a small detached process) starts it, starts it again should it die, and stops it some seconds
//! after the last user is gone. So no process has to outlive another, and a SIGKILL of any of them loses nothing that was committed.
//!
//! What must not happen here: queries of Millhand's own tables (those are in `store`), a start on the data of another major version,
//! or a server that listens on the network.

mod cluster;
mod hand_out;
pub mod keeper;
mod passfile;
mod private;
mod server;
mod tls;
pub mod url;
mod user;
mod words;

use std::path::PathBuf;

pub use private::{Private, Running};
pub use tls::Tls;
pub use url::{Address, AddressError, Source};

/// Why the private Postgres cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// The data is of another major version than the binaries.
    #[error(
        "the database in {} was made by PostgreSQL {cluster}, but only PostgreSQL {found} was found (in {}). Install \
         PostgreSQL {cluster} again, or set postgres.binaries to its folder. To move to {found}: copy the data over with \
         pg_dump of {cluster}, or with pg_upgrade, and then point DATABASE_URL to the new one",
        data.display(), binaries.display()
    )]
    OtherMajor {
        /// Where the data is.
        data: PathBuf,
        /// The version of the data.
        cluster: u32,
        /// The version that was found.
        found: u32,
        /// Where that is.
        binaries: PathBuf,
    },
    /// The user that Postgres runs as cannot get there.
    #[error(
        "PostgreSQL does not run as root, and the user {user} may not enter {}: set MILLHAND_HOME to a folder that all may enter \
         (/var/lib/millhand), or set DATABASE_URL to use another database", folder.display()
    )]
    Unreachable {
        /// The user.
        user: String,
        /// The first folder on the way that it may not enter.
        folder: PathBuf,
    },
    /// There is no user to run Postgres as.
    #[error(
        "PostgreSQL does not run as root, and there is neither a user postgres nor nobody: add one, or set DATABASE_URL"
    )]
    NoUser,
    /// The password of existing data is missing.
    #[error("the password of the database is missing: put {} back from a backup, or move {} away to begin anew",
        password.display(), data.display())]
    NoPassword {
        /// Where it should be.
        password: PathBuf,
        /// The data that it is for.
        data: PathBuf,
    },
    /// It does not start.
    #[error("the private PostgreSQL does not start: {message}; its log is {}", log.display())]
    Start {
        /// Why, in Postgres's words where there are some.
        message: String,
        /// Where more is.
        log: PathBuf,
    },
    /// It does not answer.
    #[error("the private PostgreSQL does not answer: {message}; its log is {}", log.display())]
    Silent {
        /// What happened.
        message: String,
        /// Where more is.
        log: PathBuf,
    },
    /// A file or folder.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl PrivateError {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        |source| Self::Io { path, source }
    }
}
