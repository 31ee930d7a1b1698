//! The dashboard's files, as a browser gets and keeps them.

use anyhow::{Context, Result};
use reqwest::{Response, StatusCode, header};

use super::Rig;

async fn get(rig: &Rig, path: &str, accept: &str, known: Option<&str>) -> Result<Response> {
    let mut request = rig.http.get(rig.url(path)).header(header::ACCEPT, accept);
    if let Some(tag) = known {
        request = request.header(header::IF_NONE_MATCH, tag);
    }
    Ok(request.send().await?)
}

fn said(answer: &Response, name: header::HeaderName) -> &str {
    answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[tokio::test]
async fn its_files_are_kept_by_their_content_and_whatever_is_no_file_is_its_page() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    let page = get(&rig, "/", "text/html", None).await?;
    if page.status() == StatusCode::NOT_FOUND {
        assert!(page.text().await?.contains("ops/web"), "it says how to get it");
        crate::support::not_run!("the dashboard's files: it is not built: ops/web");
        return Ok(());
    }
    assert_eq!((page.status(), said(&page, header::CACHE_CONTROL)), (StatusCode::OK, "no-cache"));
    assert!(said(&page, header::CONTENT_TYPE).starts_with("text/html"));
    let tag = said(&page, header::ETAG).to_owned();
    assert!(tag.len() > 10 && tag.starts_with('"'), "{tag}");
    let text = page.text().await?;

    let again = get(&rig, "/", "text/html", Some(&tag)).await?;
    assert_eq!((again.status(), said(&again, header::ETAG)), (StatusCode::NOT_MODIFIED, tag.as_str()));
    assert!(again.bytes().await?.is_empty());
    let other = get(&rig, "/", "text/html", Some("\"another\"")).await?;
    assert_eq!(other.status(), StatusCode::OK, "what is known is not this");

    // A page of the dashboard is the page; what is no page is not there.
    let deep = get(&rig, "/sessions/7?tab=changes", "text/html,*/*", None).await?;
    assert_eq!((deep.status(), deep.text().await?), (StatusCode::OK, text.clone()));
    for path in ["/assets/nothing.js", "/../Cargo.toml", "/%2e%2e/package.json"] {
        assert_eq!(get(&rig, path, "*/*", None).await?.status(), StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(get(&rig, "/api/nothing", "text/html", None).await?.status(), StatusCode::NOT_FOUND);
    let posted = rig.http.post(rig.url("/")).send().await?;
    assert!(posted.status().is_client_error(), "{}", posted.status());

    let script =
        text.split("src=\"").find_map(|rest| rest.split('"').next().filter(|path| path.starts_with("/assets/")));
    let script = get(&rig, script.context("a script")?, "*/*", None).await?;
    assert_eq!(script.status(), StatusCode::OK);
    assert!(said(&script, header::CONTENT_TYPE).contains("javascript"));
    assert_eq!(said(&script, header::CACHE_CONTROL), "public, max-age=31536000, immutable");
    let tag = said(&script, header::ETAG).to_owned();
    let again = get(&rig, script.url().path(), "*/*", Some(&tag)).await?;
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    Ok(())
}
