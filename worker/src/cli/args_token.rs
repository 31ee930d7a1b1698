//! The command line's words about access to the HTTP API.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::{actions::WhichToken, config::duration, model::access, model::ids::TokenId};

#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Make a token for a program; its secret is shown once
    Add(TokenAdd),
    /// List tokens, and browsers that are logged in
    Ls(TokenLs),
    /// Take a token back, or log a browser out, at once
    Rm(TokenRm),
    /// Print a link that logs one browser in, once, within a few minutes
    Login(TokenLogin),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand token add ci --scope enqueue --expires 90d
  millhand token add dashboard --scope read
  curl -H \"Authorization: Bearer $TOKEN\" http://127.0.0.1:7341/api/tasks

Only a hash of the secret is kept. audit_log has what is done with it.")]
pub(super) struct TokenAdd {
    /// What it is for, such as ci
    #[arg(value_name = "NAME")]
    pub(super) name: String,
    /// What it may do; may be repeated
    #[arg(long = "scope", value_name = "SCOPE", required = true)]
    pub(super) scopes: Vec<Scope>,
    /// How long it lasts, such as 90d or 12h [default: until it is taken back]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(super) expires: Option<Duration>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Scope {
    /// Queue tasks
    Enqueue,
    /// Look at everything
    Read,
    /// Look, apply, reject, retry, answer
    Review,
    /// Everything
    Admin,
}

impl From<Scope> for access::Scope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Enqueue => Self::Enqueue,
            Scope::Read => Self::Read,
            Scope::Review => Self::Review,
            Scope::Admin => Self::Admin,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct TokenLs {
    /// Those too that were taken back or have expired
    #[arg(long)]
    pub(super) all: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand token rm ci
  millhand token rm tok3")]
pub(super) struct TokenRm {
    /// Token, or browser (tok3), or the name of a token
    #[arg(value_name = "TOKEN", value_parser = parse_token)]
    pub(super) token: WhichToken,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand token login
  millhand token login --scope review --name \"ada's tablet\"")]
pub(super) struct TokenLogin {
    /// What the browser may do; may be repeated [default: admin]
    #[arg(long = "scope", value_name = "SCOPE")]
    pub(super) scopes: Vec<Scope>,
    /// Whose it is, for records [default: your user's name]
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| format!("\"{text}\" is no time: use 90d, 12h, 30m"))
}

#[expect(clippy::unnecessary_wraps, reason = "clap's parsers return results")]
fn parse_token(text: &str) -> Result<WhichToken, String> {
    let digits = text.strip_prefix("tok").filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    Ok(match digits.and_then(|digits| digits.parse().ok()) {
        Some(id) => WhichToken::Id(TokenId(id)),
        None => WhichToken::Named(text.to_owned()),
    })
}
