//! What a request says, read and refused with a [`Problem`]: ids in paths, queries, JSON bodies, who asks.

use std::{fmt, marker::PhantomData};

use axum::{
    Json,
    extract::{
        FromRequest, FromRequestParts, Path, Query, Request,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{StatusCode, request::Parts},
};
use serde::{Deserialize, Deserializer, de, de::DeserializeOwned};

use super::{Api, problem::Problem};
use crate::actions::Principal;

/// What an answer is.
pub(super) type Answer<T> = Result<Json<T>, Problem>;

/// What varies in a path.
pub(super) struct At<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Api> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let found: Result<Path<T>, PathRejection> = Path::from_request_parts(parts, api).await;
        found.map(|Path(found)| Self(found)).map_err(|rejection| Problem::bad(sentence(&rejection.body_text())))
    }
}

/// What is asked for behind the `?`.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Api> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let found: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, api).await;
        found.map(|Query(found)| Self(found)).map_err(|rejection| Problem::bad(sentence(&rejection.body_text())))
    }
}

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Api> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let found: Result<Json<T>, JsonRejection> = Json::from_request(request, api).await;
        found.map(|Json(found)| Self(found)).map_err(|rejection| {
            let text = sentence(&rejection.body_text());
            match rejection.status() {
                StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", text)
                        .hint("send JSON, with the header Content-Type: application/json")
                }
                StatusCode::PAYLOAD_TOO_LARGE => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", text),
                _ => Problem::bad(text),
            }
        })
    }
}

/// axum's words, begun as ours are.
fn sentence(text: &str) -> String {
    let text = text
        .trim_start_matches("Failed to deserialize query string: ")
        .trim_start_matches("Failed to deserialize the JSON body into the target type: ")
        .trim_start_matches("Invalid URL: ");
    let mut text = text.to_owned();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    text
}

/// A kind of id in paths.
pub(super) trait Kind {
    /// The letters before its number.
    const PREFIX: &'static str;
    /// What it is the id of, with an example.
    const WHAT: &'static str;
}

macro_rules! kinds {
    ($($name:ident $prefix:literal $what:literal;)*) => {
        $(
            #[derive(Clone, Copy, Debug)]
            pub(super) struct $name;

            impl Kind for $name {
                const PREFIX: &'static str = $prefix;
                const WHAT: &'static str = $what;
            }
        )*
    };
}

kinds! {
    Task "t" "a task, such as t42 or 42";
    Session "s" "a session, such as s7 or 7";
    Chat "c" "a chat, such as c9 or 9";
    ChangeSet "" "a change set, such as 5";
    File "" "a file of a change set, such as 31";
    Ask "a" "an ask, such as a12 or 12";
    Webhook "wh" "a webhook, such as wh3 or 3";
    Delivery "d" "a delivery, such as d17 or 17";
    Worktree "w" "a worktree, such as w4 or 4";
    Token "tok" "a token or browser, such as tok3 or 3";
}

/// An id: its number, or as people see it, with its letters before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Id<K>(pub(super) i64, PhantomData<K>);

impl<'de, K: Kind> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit<K>(PhantomData<K>);

        impl<K: Kind> de::Visitor<'_> for Visit<K> {
            type Value = i64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(K::WHAT)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<i64, E> {
                let digits = text.strip_prefix(K::PREFIX).unwrap_or(text);
                let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
                let number = digits.parse().ok().filter(|_| is_number);
                number.ok_or_else(|| E::custom(format!("\"{text}\" is not the id of {}", K::WHAT)))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<i64, E> {
                Ok(number)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<i64, E> {
                i64::try_from(number).map_err(|_| E::custom(format!("{number} is not the id of {}", K::WHAT)))
            }
        }

        // Text in paths and queries; a number, or text, in JSON.
        from.deserialize_any(Visit(PhantomData::<K>)).map(|id| Self(id, PhantomData))
    }
}

/// Whose token or browser it is that asks.
pub(super) struct Caller(pub(super) Principal);

impl FromRequestParts<Api> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
        let found = parts.extensions.get::<Principal>().cloned();
        found.map(Self).ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "nobody is known to ask"))
    }
}

/// Who asks, for the record.
pub(super) struct Who(pub(super) String);

impl FromRequestParts<Api> for Who {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        Caller::from_request_parts(parts, api).await.map(|Caller(principal)| Self(principal.name))
    }
}

/// The key that queues something once, however often it is sent.
pub(super) struct OnceKey(pub(super) Option<String>);

/// The longest key.
const KEY_BYTES: usize = 200;

impl FromRequestParts<Api> for OnceKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
        let Some(given) = parts.headers.get("idempotency-key") else { return Ok(Self(None)) };
        let key = given.to_str().ok().map(str::trim).filter(|key| !key.is_empty() && key.len() <= KEY_BYTES);
        match key {
            Some(key) => Ok(Self(Some(key.to_owned()))),
            None => Err(Problem::bad(format!("Idempotency-Key is a text in ASCII of at most {KEY_BYTES} characters"))),
        }
    }
}

/// An answer for something that was made: where it is now, and what.
pub(super) fn created<T: serde::Serialize>(path: String, made: T) -> axum::response::Response {
    use axum::response::IntoResponse as _;
    (StatusCode::CREATED, [(axum::http::header::LOCATION, path)], Json(made)).into_response()
}

/// Does something to its end, also where whoever asked for it does not wait.
pub(super) async fn to_its_end<T: Send + 'static, E: Into<Problem> + Send + 'static>(
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(work).await {
        Ok(done) => done.map_err(Into::into),
        Err(error) => {
            tracing::error!(%error, "a request's work ended before its end");
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "it ended before its end"))
        }
    }
}
