//! Logging browsers in and out: a link that is good once becomes a cookie that no script can read.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse as _, Response},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{COOKIE, credentials::cookie};
use crate::{
    actions::{self, Principal, WhichToken},
    api::{
        Api,
        extract::{Answer, Asked, Caller},
        problem::Problem,
    },
    store::access::Shown,
};

/// What a browser shows that has no link, or one that was used.
const NO_CODE: &str = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Millhand: log in</title>\n\
    <h1>This link does not log you in</h1>\n\
    <p>Each link is good once, and for a few minutes. Get a new one on the machine where Millhand runs:</p>\n\
    <pre>millhand token login</pre>\n</html>\n";

/// The code of a link.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct LoginQuery {
    /// As `millhand up`, `millhand api` and `millhand token login` print it.
    code: Option<String>,
}

/// Log a browser in, by a link that is good once.
#[utoipa::path(get, path = "/login", tag = "access", params(LoginQuery), responses(
    (status = 303, description = "Logged in: a cookie, and on to the dashboard"),
    (status = 401, description = "The link was used, or is too old", body = String, content_type = "text/html")))]
pub(in crate::api) async fn login(
    State(api): State<Api>,
    headers: HeaderMap,
    Asked(asked): Asked<LoginQuery>,
) -> Result<Response, Problem> {
    let lasts = api.settings.timings.browser_login;
    let code = asked.code.unwrap_or_default();
    if let Some((id, secret)) = actions::log_in(&api.store, &code, lasts).await? {
        tracing::info!(browser = %id, "a browser was logged in");
        return Ok(to_the_dashboard(Some(set(&secret, lasts.as_secs()))));
    }
    // A page loaded again, or a link that was opened before.
    let shown = cookie(&headers);
    let is_in = match &shown {
        Some(secret) => actions::principal_of(&api.store, Shown::Browser, secret).await?.is_some(),
        None => false,
    };
    Ok(if is_in { to_the_dashboard(None) } else { (StatusCode::UNAUTHORIZED, Html(NO_CODE)).into_response() })
}

fn to_the_dashboard(cookie: Option<HeaderValue>) -> Response {
    let mut response = (StatusCode::SEE_OTHER, [(header::LOCATION, "/")]).into_response();
    if let Some(cookie) = cookie {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

/// Scripts do not see it, and no page of others sends it. Not `Secure`: on this machine we are spoken to without TLS.
fn set(secret: &SecretString, seconds: u64) -> HeaderValue {
    let line = format!("{COOKIE}={}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict", secret.expose_secret());
    let mut value = HeaderValue::try_from(line).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// Whoever asks.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct Myself {
    /// Of the token or browser.
    id: i64,
    /// Its name: who decides, in records.
    name: String,
    /// What it may do: enqueue, read, review, admin. admin implies all, review implies read.
    scopes: Vec<&'static str>,
}

impl From<Principal> for Myself {
    fn from(principal: Principal) -> Self {
        let scopes = principal.scopes.iter().map(|scope| scope.as_str()).collect();
        Self { id: principal.id.0, name: principal.name, scopes }
    }
}

/// Say who asks, and what they may do.
#[utoipa::path(get, path = "/api/me", tag = "access", responses((status = 200, description = "Whoever asks", body = Myself)))]
pub(in crate::api) async fn me(Caller(principal): Caller) -> Answer<Myself> {
    Ok(Json(principal.into()))
}

/// Log this browser out; a token that is shown is taken back.
#[utoipa::path(post, path = "/api/logout", tag = "access", responses((status = 200, description = "Whoever that was", body = Myself)))]
pub(in crate::api) async fn logout(State(api): State<Api>, Caller(principal): Caller) -> Result<Response, Problem> {
    actions::revoke_token(&api.store, &WhichToken::Id(principal.id)).await?;
    let gone = set(&SecretString::from(""), 0);
    Ok(([(header::SET_COOKIE, gone)], Json(Myself::from(principal))).into_response())
}
