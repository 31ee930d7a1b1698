//! The dashboard's files, which are in the program; without them, how to get them.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{Html, IntoResponse as _, Response},
};
use rust_embed::{EmbeddedFile, RustEmbed};

use super::problem::Problem;

/// What `ops/web` builds.
#[derive(RustEmbed)]
#[folder = "../web/dist"]
#[allow_missing = true]
struct Dashboard;

/// The page of the dashboard.
const PAGE: &str = "index.html";
/// Files whose names change with what is in them.
const NAMED_BY_CONTENT: &str = "assets/";
/// What is said where there is no dashboard.
const NONE: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Millhand</title>\
    <h1>Millhand</h1><p>This program was built without its dashboard. In a clone: <code>ops/web</code>, then build it again.</p>\
    <p>The HTTP API works all the same: <a href=\"/docs\">what there is</a>.</p></html>";

/// A file of the dashboard; its page for whatever else a browser opens; else: there is no such thing.
pub(super) async fn file(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let path = uri.path().trim_start_matches('/');
    let is_read = method == Method::GET || method == Method::HEAD;
    let is_api = path == "api" || path.starts_with("api/");
    if is_read && !is_api {
        if let Some(found) = Dashboard::get(path) {
            return of(path, found, &headers);
        }
        let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if accepts.contains("text/html") {
            return page(Dashboard::get(PAGE), &headers);
        }
    }
    Problem::not_found(format!("there is no {method} {}", uri.path()))
        .hint("all there is: /openapi.json")
        .into_response()
}

fn page(built: Option<EmbeddedFile>, asked: &HeaderMap) -> Response {
    match built {
        Some(page) => of(PAGE, page, asked),
        None => (StatusCode::NOT_FOUND, Html(NONE)).into_response(),
    }
}

fn of(path: &str, file: EmbeddedFile, asked: &HeaderMap) -> Response {
    let hash: String = file.metadata.sha256_hash()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{hash}\"");
    // Whoever has this very file is told so.
    let is_known = asked.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => Body::from(file.data.into_owned()).into_response(),
    };
    let kept = if path.starts_with(NAMED_BY_CONTENT) { "public, max-age=31536000, immutable" } else { "no-cache" };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind(path)));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(kept));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

/// What a file is, by the end of its name.
fn kind(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, end)| end) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("json" | "webmanifest") => "application/json",
        Some("woff2") => "font/woff2",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_said_to_be_what_they_are() {
        for (path, expected) in [
            ("assets/index-x.js", "text/javascript; charset=utf-8"),
            ("index.html", "text/html; charset=utf-8"),
            ("icon.svg", "image/svg+xml"),
            ("README", "application/octet-stream"),
        ] {
            assert_eq!(kind(path), expected, "{path}");
        }
    }

    #[test]
    fn without_the_dashboard_it_is_said_how_to_get_it() {
        let answer = page(None, &HeaderMap::new());
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
        assert!(NONE.contains("ops/web") && NONE.contains("/docs"));
    }
}
