//! Tokens of the HTTP API, browsers that were logged in, and what was done by them. Of secrets only hashes come here.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;

use super::{Result, Store, seconds, without_nul};

/// A token to make.
#[derive(Clone, Copy, Debug)]
pub struct NewToken<'a> {
    /// What people call it.
    pub name: &'a str,
    /// SHA-256 of its secret.
    pub sha256: &'a [u8; 32],
    /// What it may do.
    pub scopes: &'a [&'static str],
    /// How long it lasts; none: until it is taken back.
    pub lasts: Option<Duration>,
}

/// A token, or a browser that was logged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of api_tokens")]
pub struct TokenRow {
    pub id: i64,
    pub kind: String,
    pub name: String,
    pub scopes: Vec<String>,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub last_used_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    /// in use, expired or revoked, by the database's clock.
    pub state: String,
}

/// Which kind of secret was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// In the header `Authorization`.
    Token,
    /// As a cookie.
    Browser,
}

impl Shown {
    /// As the database names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Browser => "browser",
        }
    }
}

/// Whose secret it is, if it is worth something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Key of the token or browser.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Its hash, to be compared once more in constant time.
    pub sha256: Vec<u8>,
    /// Its last use was noted longer ago than asked.
    pub is_due: bool,
}

/// A call of the API that may have changed something.
#[derive(Clone, Copy, Debug)]
pub struct ApiCall<'a> {
    /// Key of the token or browser.
    pub token_id: i64,
    /// Its name.
    pub who: &'a str,
    /// What was called.
    pub method: &'a str,
    /// Its path.
    pub path: &'a str,
    /// How it was answered.
    pub status: i32,
    /// The task that it was about.
    pub task_id: Option<i64>,
}

const COLUMNS: &str = "id, kind, name, scopes, created_by, created_at, expires_at, last_used_at, revoked_at, \
    CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= clock_timestamp() THEN 'expired' ELSE 'in use' END";

fn token(row: &Row) -> TokenRow {
    TokenRow {
        id: row.get(0),
        kind: row.get(1),
        name: row.get(2),
        scopes: row.get(3),
        created_by: row.get(4),
        created_at: row.get(5),
        expires_at: row.get(6),
        last_used_at: row.get(7),
        revoked_at: row.get(8),
        state: row.get(9),
    }
}

impl Store {
    /// Makes a token. An expired one of the same name gives way.
    pub async fn add_token(&self, new: &NewToken<'_>) -> Result<TokenRow> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let sql = "UPDATE millhand.api_tokens SET revoked_at = clock_timestamp() \
                   WHERE kind = 'token' AND name = $1 AND revoked_at IS NULL AND expires_at <= clock_timestamp()";
        transaction.execute(sql, &[&new.name]).await?;
        let sql = format!(
            "INSERT INTO millhand.api_tokens (kind, name, sha256, scopes, expires_at) \
             VALUES ('token', $1, $2, $3, clock_timestamp() + make_interval(secs => $4)) RETURNING {COLUMNS}"
        );
        let lasts = new.lasts.map(seconds);
        let row = transaction.query_one(&sql, &[&new.name, &new.sha256.as_slice(), &new.scopes, &lasts]).await?;
        transaction.commit().await?;
        Ok(token(&row))
    }

    /// Tokens and browsers, newest first, after (below) this one; those that are worth nothing any more only if `all`.
    pub async fn tokens(&self, all: bool, below: Option<i64>, at_most: i64) -> Result<Vec<TokenRow>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM millhand.api_tokens WHERE ($1 OR (revoked_at IS NULL \
             AND (expires_at IS NULL OR expires_at > clock_timestamp()))) AND ($2::bigint IS NULL OR id < $2) ORDER BY id DESC LIMIT $3"
        );
        Ok(self.client().await?.query(&sql, &[&all, &below, &at_most]).await?.iter().map(token).collect())
    }

    /// Takes back a token or a browser by its id, or a token in use by its name; none: there is no such.
    pub async fn revoke_token(&self, id: Option<i64>, name: Option<&str>) -> Result<Option<TokenRow>> {
        let sql = format!(
            "UPDATE millhand.api_tokens SET revoked_at = coalesce(revoked_at, clock_timestamp()) \
             WHERE id = coalesce($1, (SELECT id FROM millhand.api_tokens WHERE kind = 'token' AND name = $2 AND revoked_at IS NULL)) \
             RETURNING {COLUMNS}"
        );
        Ok(self.client().await?.query_opt(&sql, &[&id, &name]).await?.as_ref().map(token))
    }

    /// Makes a code that logs one browser in, for a while. Old ones go.
    pub async fn add_login_code(&self, new: &NewToken<'_>) -> Result<()> {
        let sql = "WITH gone AS (DELETE FROM millhand.login_codes WHERE expires_at < now() - interval '1 day') \
                   INSERT INTO millhand.login_codes (name, sha256, scopes, expires_at) \
                   VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4))";
        let lasts = seconds(new.lasts.unwrap_or_default());
        self.client().await?.execute(sql, &[&new.name, &new.sha256.as_slice(), &new.scopes, &lasts]).await?;
        Ok(())
    }

    /// Logs a browser in with a code; none: the code is unknown, used or too old.
    pub async fn use_login_code(
        &self,
        code: &[u8; 32],
        browser: &[u8; 32],
        lasts: Duration,
    ) -> Result<Option<(i64, String)>> {
        let client = self.client().await?;
        let sql = include_str!("sql/use_login_code.sql");
        let row = client.query_opt(sql, &[&code.as_slice(), &browser.as_slice(), &seconds(lasts)]).await?;
        Ok(row.map(|row| (row.get(0), row.get(1))))
    }

    /// Whose secret has this hash; none: nobody's, or it is worth nothing any more.
    pub async fn holder(&self, shown: Shown, sha256: &[u8; 32], coarse: Duration) -> Result<Option<Holder>> {
        let sql = "SELECT id, name, scopes, sha256, \
                   last_used_at IS NULL OR last_used_at < clock_timestamp() - make_interval(secs => $3) \
                   FROM millhand.api_tokens WHERE sha256 = $2 AND kind = $1 AND revoked_at IS NULL \
                   AND (expires_at IS NULL OR expires_at > clock_timestamp())";
        let client = self.client().await?;
        let statement = client.prepare_cached(sql).await?;
        let row = client.query_opt(&statement, &[&shown.as_str(), &sha256.as_slice(), &seconds(coarse)]).await?;
        Ok(row.map(|row| Holder {
            id: row.get(0),
            name: row.get(1),
            scopes: row.get(2),
            sha256: row.get(3),
            is_due: row.get(4),
        }))
    }

    /// Notes that a token was used. Not worth waiting for the disk.
    pub async fn note_token_use(&self, id: i64) -> Result<()> {
        let sql = "UPDATE millhand.api_tokens SET last_used_at = clock_timestamp() WHERE id = $1";
        self.relaxed().await?.execute(sql, &[&id]).await?;
        Ok(())
    }

    /// Notes a call of the API in the audit log.
    pub async fn note_api_call(&self, call: &ApiCall<'_>) -> Result<()> {
        let sql = "INSERT INTO millhand.audit_log (who, action, task_id, details) VALUES ($1, 'api_call', $2, $3)";
        let details: Value = serde_json::json!({
            "method": call.method, "path": without_nul(call.path), "status": call.status, "token": call.token_id,
        });
        self.client().await?.execute(sql, &[&call.who, &call.task_id, &details]).await?;
        Ok(())
    }
}
