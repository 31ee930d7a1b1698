//! `millhand token`.

use chrono::{DateTime, Utc};
use comfy_table::Cell;
use owo_colors::OwoColorize as _;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::{
    Context,
    apply::who,
    args_token::{Token, TokenAdd, TokenLogin, TokenLs},
    database,
    failure::{Exit, Failure, Outcome},
    screen::{bold, dim, keep_whole},
    text::{ago, safe_line, span},
};
use crate::{
    actions,
    model::{access::Scope, ids::TokenId},
    store::{Store, access::TokenRow},
    supervise::ServedAt,
};

/// Tokens that a list shows at most.
const SHOWN: i64 = 1000;

/// `millhand token`.
pub(super) async fn token(context: &Context, command: Token) -> Outcome {
    let store = database::open(context).await?;
    match command {
        Token::Add(arguments) => add(context, &store, arguments).await,
        Token::Ls(arguments) => ls(context, &store, &arguments).await,
        Token::Login(arguments) => login(context, &store, arguments).await,
        Token::Rm(arguments) => {
            let row = actions::revoke_token(&store, &arguments.token).await?;
            context.screen.object("token", &row)?;
            let (name, done) = (name(&row), if row.kind == "browser" { "is logged out" } else { "is taken back" });
            context.screen.line(&format!("{name} {} {done}", safe_line(&row.name)))?;
            Ok(Exit::Done)
        }
    }
}

fn name(row: &TokenRow) -> String {
    TokenId(row.id).style(bold()).to_string()
}

async fn add(context: &Context, store: &Store, arguments: TokenAdd) -> Outcome {
    /// A new token, with what is said once only.
    #[derive(Serialize)]
    struct Added<'a> {
        #[serde(flatten)]
        token: &'a TokenRow,
        secret: &'a str,
    }
    let screen = context.screen;
    let scopes: Vec<_> = arguments.scopes.into_iter().map(Into::into).collect();
    let (row, secret) = actions::add_token(store, &arguments.name, &scopes, arguments.expires).await?;
    let secret = secret.expose_secret();
    screen.object("token", &Added { token: &row, secret })?;
    let lasts = row.expires_at.map_or_else(|| "until it is taken back".to_owned(), |at| format!("for {}", left(at)));
    screen.line(&format!("{} {} may {} {lasts}", name(&row), safe_line(&row.name), row.scopes.join(", ")))?;
    screen.line(&format!("  token  {secret}  {}", "(shown only now)".style(dim())))?;
    Ok(Exit::Done)
}

/// `millhand token login`.
async fn login(context: &Context, store: &Store, arguments: TokenLogin) -> Outcome {
    let Some(url) = address(context) else {
        let hint = "say where it listens: api.listen; then: millhand up, or millhand api";
        return Err(Failure::usage("api.listen is off: there is nothing to log in to", hint));
    };
    let scopes: Vec<_> = arguments.scopes.into_iter().map(Into::into).collect();
    let name = arguments.name.unwrap_or_else(|| who(context));
    let link =
        login_link(context, store, &url, &name, if scopes.is_empty() { &[Scope::Admin] } else { &scopes }).await?;
    context.screen.object("login", &serde_json::json!({ "url": link }))?;
    context.screen.line(&link)?;
    let minutes = span(i64::try_from(context.settings.timings.login_code.as_secs()).unwrap_or(i64::MAX));
    context.screen.note(&format!("{}", format!("  good once, for {minutes}").style(dim())));
    if ServedAt::look(&context.settings.home.private()).is_none() {
        context.screen.warn("nothing of this home serves it now; start it: millhand up --detach, or millhand api");
    }
    Ok(Exit::Done)
}

/// Where this host's API is: as a process says that serves it, else as the settings have it.
pub(super) fn address(context: &Context) -> Option<String> {
    let settings = &context.settings;
    ServedAt::look(&settings.home.private()).or_else(|| settings.api.listen.map(|listen| format!("http://{listen}")))
}

/// A link that logs one browser in.
pub(super) async fn login_link(
    context: &Context,
    store: &Store,
    url: &str,
    name: &str,
    scopes: &[Scope],
) -> Outcome<String> {
    let code = actions::add_login_code(store, name, scopes, context.settings.timings.login_code).await?;
    Ok(format!("{url}/login?code={}", code.expose_secret()))
}

/// How long there is until a time.
fn left(until: DateTime<Utc>) -> String {
    span((until - Utc::now()).num_seconds().max(0))
}

async fn ls(context: &Context, store: &Store, arguments: &TokenLs) -> Outcome {
    let screen = context.screen;
    let rows = actions::tokens(store, arguments.all, None, SHOWN).await?;
    for row in &rows {
        screen.object("token", row)?;
    }
    if rows.is_empty() {
        screen.line("No tokens. Make one: millhand token add NAME --scope read")?;
        return Ok(Exit::Done);
    }
    let now = Utc::now();
    let mut table = screen.table(&["TOKEN", "NAME", "KIND", "SCOPES", "STATE", "MADE", "LAST USED", "EXPIRES"]);
    for row in &rows {
        let expires = match (row.expires_at, row.state.as_str()) {
            (Some(at), "in use") => format!("in {}", left(at)),
            (Some(at), _) => ago(at, now),
            (None, _) => "never".to_owned(),
        };
        table.add_row(vec![
            Cell::new(TokenId(row.id)),
            Cell::new(safe_line(&row.name)),
            Cell::new(&row.kind),
            Cell::new(row.scopes.join(" ")),
            Cell::new(&row.state),
            Cell::new(ago(row.created_at, now)),
            Cell::new(row.last_used_at.map_or_else(|| "never".to_owned(), |at| ago(at, now))),
            Cell::new(expires),
        ]);
    }
    keep_whole(&mut table, &[0, 2, 4]);
    screen.print_table(&table)?;
    Ok(Exit::Done)
}
