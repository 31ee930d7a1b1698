//! Tokens, by the API itself.

use std::time::Duration;

use axum::{Json, extract::State, response::Response};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    actions::{self, WhichToken},
    api::{
        Api,
        extract::{Answer, Asked, At, Body, Id, Token, created},
        page::{List, Page},
        problem::Problem,
    },
    config::duration,
    model::{access::Scope, ids::TokenId},
    store::access::TokenRow,
};

/// Which tokens.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct TokensQuery {
    /// Those too that were taken back or have expired.
    #[serde(default)]
    #[param(default = false)]
    all: bool,
    /// At most so many; 500 is the most.
    #[param(default = 50, minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The page behind the one that gave this as `next`.
    cursor: Option<String>,
}

/// List tokens and logged-in browsers, newest first, without their secrets.
#[utoipa::path(get, path = "/api/tokens", tag = "access", params(TokensQuery),
    responses((status = 200, description = "Tokens and browsers", body = List<TokenRow>)))]
pub(in crate::api) async fn list(State(api): State<Api>, Asked(asked): Asked<TokensQuery>) -> Answer<List<TokenRow>> {
    let page = Page::<i64>::new(asked.limit, asked.cursor.as_deref())?;
    let rows = actions::tokens(&api.store, asked.all, page.after.map(TokenId), page.rows()).await?;
    Ok(Json(page.of(rows, |row| row.id)))
}

/// A token to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct AddTokenRequest {
    /// What it is for.
    name: String,
    /// What it may do: enqueue, read, review, admin.
    scopes: Vec<String>,
    /// How long it lasts, such as 90d or 12h; left out: until it is taken back.
    expires: Option<String>,
}

/// A token that was made, with its secret.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct AddedToken {
    #[serde(flatten)]
    token: TokenRow,
    /// What to show as `Authorization: Bearer ...`; said only now.
    secret: String,
}

/// Make a token; its secret is said only now.
#[utoipa::path(post, path = "/api/tokens", tag = "access", request_body = AddTokenRequest,
    responses((status = 201, description = "The token", body = AddedToken)))]
pub(in crate::api) async fn add(
    State(api): State<Api>,
    Body(asked): Body<AddTokenRequest>,
) -> Result<Response, Problem> {
    let scope = |name: &String| {
        Scope::named(name).ok_or_else(|| {
            Problem::bad(format!("\"{name}\" is no scope")).hint("there are enqueue, read, review and admin")
        })
    };
    let scopes = asked.scopes.iter().map(scope).collect::<Result<Vec<_>, _>>()?;
    let (token, secret) =
        actions::add_token(&api.store, &asked.name, &scopes, lasting(asked.expires.as_deref())?).await?;
    let path = format!("/api/tokens/{}", token.id);
    Ok(created(path, AddedToken { token, secret: secret.expose_secret().to_owned() }))
}

fn lasting(text: Option<&str>) -> Result<Option<Duration>, Problem> {
    let bad = |text| Problem::bad(format!("\"{text}\" is no time")).hint("such as 90d, 12h, 30m");
    text.map(|text| duration::parse(text).ok_or_else(|| bad(text))).transpose()
}

/// Take a token back, or log a browser out, at once.
#[utoipa::path(delete, path = "/api/tokens/{id}", tag = "access", params(("id" = String, Path, description = "The token or browser: tok3, or 3")),
    responses((status = 200, description = "The token as it is now", body = TokenRow)))]
pub(in crate::api) async fn revoke(State(api): State<Api>, At(id): At<Id<Token>>) -> Answer<TokenRow> {
    Ok(Json(actions::revoke_token(&api.store, &WhichToken::Id(TokenId(id.0))).await?))
}
