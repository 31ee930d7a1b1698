//! Who may use the HTTP API: tokens, the links that log browsers in, and whom a secret belongs to.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;

use super::{ActionError, Result};
use crate::{
    model::{
        access::{Scope, code_of, hash_of, is_code, is_token, may, token_of},
        ids::TokenId,
    },
    store::{
        Store, StoreError,
        access::{NewToken, Shown, TokenRow},
    },
};

/// Longest name of a token, in characters.
const NAME_CHARACTERS: usize = 100;
/// The last use of a token is noted at most so often.
const USE_NOTED_EVERY: Duration = Duration::from_secs(60);
/// No token is made to last longer than this; one without an end lasts until it is taken back.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Whoever a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The token, or the browser.
    pub id: TokenId,
    /// Its name: who decided, for the record.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
}

impl Principal {
    /// Whether it may do what takes this scope.
    pub fn may(&self, wanted: Scope) -> bool {
        may(&self.scopes, wanted)
    }
}

/// A token, or a browser, that is to be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhichToken {
    /// By its id.
    Id(TokenId),
    /// A token in use, by its name.
    Named(String),
}

/// Makes a token; returns it with its secret, which is not shown again.
pub async fn add_token(
    store: &Store,
    name: &str,
    scopes: &[Scope],
    lasts: Option<Duration>,
) -> Result<(TokenRow, SecretString)> {
    let name = checked_name(name)?;
    check_lasts(lasts)?;
    let secret = SecretString::from(token_of(rand::random()));
    let sha256 = hash_of(secret.expose_secret());
    let new = NewToken { name, sha256: &sha256, scopes: &names(scopes)?, lasts };
    match store.add_token(&new).await {
        Err(StoreError::Refused { constraint: Some(constraint), .. }) if constraint == "api_tokens_name" => {
            Err(ActionError::Refused {
                what: format!("there is a token \"{name}\" already"),
                hint: Some(format!(
                    "choose another name, or take that one back first: millhand token rm {}",
                    shell_word(name)
                )),
            })
        }
        added => Ok((added?, secret)),
    }
}

/// Tokens and logged-in browsers, newest first; those that are worth nothing any more only if `all`.
pub async fn tokens(store: &Store, all: bool, below: Option<TokenId>, at_most: i64) -> Result<Vec<TokenRow>> {
    Ok(store.tokens(all, below.map(|id| id.0), at_most).await?)
}

/// Takes back a token, or logs a browser out.
pub async fn revoke_token(store: &Store, which: &WhichToken) -> Result<TokenRow> {
    let found = match which {
        WhichToken::Id(id) => store.revoke_token(Some(id.0), None).await?,
        WhichToken::Named(name) => store.revoke_token(None, Some(name)).await?,
    };
    found.ok_or_else(|| ActionError::NotFound {
        what: match which {
            WhichToken::Id(id) => format!("there is no token {id}"),
            WhichToken::Named(name) => format!("no token in use is called \"{name}\""),
        },
        hint: "see: millhand token ls".to_owned(),
    })
}

/// Makes a code that logs one browser in, once, and within a while.
pub async fn add_login_code(store: &Store, name: &str, scopes: &[Scope], lasts: Duration) -> Result<SecretString> {
    let name = checked_name(name)?;
    let code = SecretString::from(code_of(rand::random()));
    let sha256 = hash_of(code.expose_secret());
    store.add_login_code(&NewToken { name, sha256: &sha256, scopes: &names(scopes)?, lasts: Some(lasts) }).await?;
    Ok(code)
}

/// Logs a browser in with a code; returns what it shows from then on. None: the code is unknown, used or too old.
pub async fn log_in(store: &Store, code: &str, lasts: Duration) -> Result<Option<(TokenId, SecretString)>> {
    if !is_code(code) {
        return Ok(None);
    }
    let secret = SecretString::from(code_of(rand::random()));
    let found = store.use_login_code(&hash_of(code), &hash_of(secret.expose_secret()), lasts).await?;
    Ok(found.map(|(id, _)| (TokenId(id), secret)))
}

/// Whose secret this is; none: nobody's, or it is worth nothing any more.
pub async fn principal_of(store: &Store, shown: Shown, secret: &SecretString) -> Result<Option<Principal>> {
    let secret = secret.expose_secret();
    let has_form = match shown {
        Shown::Token => is_token(secret),
        Shown::Browser => is_code(secret),
    };
    if !has_form {
        return Ok(None);
    }
    let sha256 = hash_of(secret);
    let Some(holder) = store.holder(shown, &sha256, USE_NOTED_EVERY).await? else { return Ok(None) };
    if !bool::from(holder.sha256.as_slice().ct_eq(&sha256)) {
        return Ok(None);
    }
    if holder.is_due
        && let Err(error) = store.note_token_use(holder.id).await
    {
        tracing::debug!(%error, "the last use of a token was not noted");
    }
    let scopes = holder.scopes.iter().filter_map(|name| Scope::named(name)).collect();
    Ok(Some(Principal { id: TokenId(holder.id), name: holder.name, scopes }))
}

fn names(scopes: &[Scope]) -> Result<Vec<&'static str>> {
    if scopes.is_empty() {
        return Err(refused("a token needs a scope", "one of enqueue, read, review, admin"));
    }
    Ok(Scope::ALL.into_iter().filter(|scope| scopes.contains(scope)).map(Scope::as_str).collect())
}

fn checked_name(name: &str) -> Result<&str> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > NAME_CHARACTERS || name.chars().any(char::is_control) {
        return Err(refused("this is no name for a token", "1 to 100 characters, such as ci or \"ada's laptop\""));
    }
    Ok(name)
}

fn check_lasts(lasts: Option<Duration>) -> Result<()> {
    match lasts {
        Some(lasts) if lasts.is_zero() || lasts > LONGEST => Err(refused(
            "a token cannot last that long, or not at all",
            "such as 30d; without an end it lasts until it is taken back",
        )),
        _ => Ok(()),
    }
}

fn refused(what: &str, hint: &str) -> ActionError {
    ActionError::Refused { what: what.to_owned(), hint: Some(hint.to_owned()) }
}

/// A word as a shell takes it.
fn shell_word(word: &str) -> String {
    let is_plain = word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if is_plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}
