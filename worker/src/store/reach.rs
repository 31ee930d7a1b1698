//! Why the database cannot be reached, in words that say what to do.

use std::{error::Error as _, io};

use rustls::CertificateError;
use tokio_postgres::error::SqlState;

/// The innermost cause says what is wrong; the outer ones say "error connecting to server".
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        words = inner.to_string();
        cause = inner.source();
    }
    words
}

/// What to do where a statement that was prepared is not there any more, or another one is: another connection answers.
pub(super) fn of_pooler(code: &SqlState) -> Option<&'static str> {
    [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT].contains(code).then_some(
        "a pooler in transaction mode that does not know prepared statements? PgBouncer needs 1.21 or newer, with max_prepared_statements above \
         0; and set database.listen = false",
    )
}

/// Why the connection did not come about, or broke; none: it is the question that was wrong.
pub(super) fn why(error: &tokio_postgres::Error) -> Option<String> {
    if let Some(db) = error.as_db_error() {
        let what = db.message();
        return match db.code().code() {
            "28P01" => Some(format!("{what}: check user and password in the database's URL, PGPASSWORD or ~/.pgpass")),
            "28000" => Some(format!("{what}: check the user, and the server's pg_hba.conf (or try sslmode=require)")),
            "3D000" => Some(format!("{what}: correct its name, or create it with `createdb`")),
            "53300" => Some(format!("{what}: raise the server's max_connections, or run fewer workers")),
            // Others were in the way: they will be done.
            "40001" | "40P01" | "55P03" => Some(what.to_owned()),
            // 57P: the server goes down, or ended this connection; 08: connection.
            code if code.starts_with("57P") || code.starts_with("08") => Some(what.to_owned()),
            _ => None,
        };
    }
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
            return Some(tls_words(tls));
        }
        if let Some(inner) = inner.downcast_ref::<io::Error>() {
            // It may hold one of TLS, which says more.
            match inner.get_ref().and_then(|held| held.downcast_ref::<rustls::Error>()) {
                Some(tls) => return Some(tls_words(tls)),
                None => return Some(io_words(inner)),
            }
        }
        cause = inner.source();
    }
    let words = root_cause(error);
    match words.as_str() {
        "server does not support TLS" => Some(format!(
            "{words}: turn it on there (ssl = on), or use sslmode=prefer or disable if the network is trusted"
        )),
        "password missing" => {
            Some("the server asks for a password: put it into the database's URL, PGPASSWORD or ~/.pgpass".to_owned())
        }
        _ => {
            // The kinds are private; these are the ones of a connection that never came about.
            let kinds = ["error connecting", "timeout waiting", "error performing TLS", "authentication error"];
            let broken = error.is_closed() || kinds.iter().any(|kind| error.to_string().starts_with(kind));
            broken.then_some(words)
        }
    }
}

fn io_words(error: &io::Error) -> String {
    let words = root_cause(error);
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("{words}: is Postgres running there, and are host and port right?"),
        io::ErrorKind::NotFound => {
            format!("{words}: there is no socket of Postgres; is it running, and is its folder right?")
        }
        io::ErrorKind::PermissionDenied => format!("{words}: this user may not use Postgres's socket"),
        io::ErrorKind::TimedOut => format!("{words}: is the host right, and does a firewall let this machine through?"),
        // The resolver's errors have no kind of their own.
        _ if words.contains("lookup address") => format!("{words}: check the host's name"),
        _ => words,
    }
}

fn tls_words(error: &rustls::Error) -> String {
    use CertificateError as Bad;
    let rustls::Error::InvalidCertificate(problem) = error else { return format!("TLS: {error}") };
    let hint = match problem {
        Bad::UnknownIssuer => "sslrootcert names the CA's file; is it the right one?",
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
            "use the name that it is for, or sslmode=verify-ca, which does not look at it"
        }
        Bad::Expired | Bad::ExpiredContext { .. } => "the server needs a new one; is this machine's clock right?",
        _ => "the server needs another one",
    };
    format!("the server's certificate is not accepted: {problem} ({hint})")
}
