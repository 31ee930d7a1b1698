//! What is refused, and how it is told.

use anyhow::Result;
use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json};

use super::Rig;
use crate::support::world::World;

#[tokio::test]
async fn whatever_is_wrong_is_told_as_a_problem() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    let task = rig.world.queue("one").await?;
    let long = "x".repeat(5 * 1024 * 1024);
    let json_type = "application/json";
    for (method, path, kind, body, status, word) in [
        (Method::GET, "/api/nothing", "", "", 404, "not_found"),
        (Method::GET, "/api/tasks/t999999", "", "", 404, "not_found"),
        (Method::GET, "/api/tasks/s1", "", "", 400, "bad_request"),
        (Method::GET, "/api/tasks/-1", "", "", 400, "bad_request"),
        (Method::PUT, "/api/tasks", json_type, "{}", 405, "method_not_allowed"),
        (Method::POST, "/api/tasks", json_type, "{", 400, "bad_request"),
        (Method::POST, "/api/tasks", json_type, r#"{"project":"acme"}"#, 400, "bad_request"),
        (Method::POST, "/api/tasks", json_type, r#"{"project":"acme","prompt":"x","promt":1}"#, 400, "bad_request"),
        (Method::POST, "/api/tasks", "text/plain", "{}", 415, "unsupported_media_type"),
        (Method::POST, "/api/tasks", json_type, r#"{"project":"nobody","prompt":"x"}"#, 404, "not_found"),
        (Method::POST, "/api/tasks", json_type, r#"{"project":"acme","prompt":""}"#, 422, "refused"),
        (Method::POST, "/api/tasks", json_type, r#"{"project":"acme","prompt":"a\u0000b"}"#, 422, "refused"),
        (Method::POST, "/api/tasks", json_type, &long, 413, "payload_too_large"),
        (Method::POST, &format!("/api/tasks/{task}/dismiss"), "", "", 409, "nothing_to_do"),
        (Method::GET, "/api/change-sets/7/files/1", "", "", 404, "not_found"),
    ] {
        let request = rig.http.request(method.clone(), rig.url(path)).body(body.to_owned());
        let request = if kind.is_empty() { request } else { request.header(CONTENT_TYPE, kind) };
        let answer = request.send().await?;
        let about = format!("{method} {path}: {}", body.get(..60).unwrap_or(body));
        assert_eq!(answer.status().as_u16(), status, "{about}");
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/problem+json", "{about}");
        let problem: Value = answer.json().await?;
        assert_eq!(problem["type"], format!("urn:millhand:{word}"), "{about}: {problem}");
        assert_eq!(problem["status"], status, "{about}");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{about}: {problem}");
    }
    Ok(())
}

#[tokio::test]
async fn a_key_queues_a_task_once_and_tells_nobody_what_another_asked() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    let send = async |body: Value| -> Result<(u16, Value)> {
        let request = rig.http.post(rig.url("/api/tasks")).header("Idempotency-Key", "k1").json(&body);
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    };
    let body = json!({ "project": "acme", "prompt": "once" });
    let (status, task) = send(body.clone()).await?;
    assert_eq!(status, 201, "{task}");
    let (status, again) = send(body).await?;
    assert_eq!((status, &again["id"]), (200, &task["id"]));
    let (status, problem) = send(json!({ "project": "acme", "prompt": "guess" })).await?;
    assert_eq!(status, 409, "{problem}");
    assert!(!problem.to_string().contains("once\""), "{problem}");
    assert_eq!(rig.world.one::<i64>("SELECT count(*) FROM millhand.tasks").await?, 1);
    Ok(())
}

#[tokio::test]
async fn eight_requests_with_one_key_at_once_make_one_task() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    let body = json!({ "project": "acme", "prompt": "once" });
    let send = || async {
        let request = rig.http.post(rig.url("/api/tasks")).header("Idempotency-Key", "same").json(&body);
        anyhow::Ok(request.send().await?.status().as_u16())
    };
    let mut statuses = futures::future::try_join_all((0..8).map(|_| send())).await?;
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 201]);
    assert_eq!(rig.world.one::<i64>("SELECT count(*) FROM millhand.tasks").await?, 1);
    Ok(())
}

#[tokio::test]
async fn while_the_database_is_away_it_says_so_and_when_to_ask_again() -> Result<()> {
    let world = World::new(&[]).await?;
    let proxy = world.db.proxy().await?;
    let connect = millhand::store::Connect::plain(world.db.config_through(&proxy), 4);
    let rig = Rig::with(world, millhand::store::Store::new(connect)?).await?;
    assert_eq!(rig.get("/readyz").await?["status"], "ok");
    let port = proxy.port();
    drop(proxy);
    for path in ["/readyz", "/api/tasks", "/api/overview"] {
        let answer = rig.http.get(rig.url(path)).send().await?;
        assert_eq!(answer.status().as_u16(), 503, "{path}");
        assert!(answer.headers().contains_key("retry-after"), "{path}");
        let problem: Value = answer.json().await?;
        assert_eq!(problem["type"], "urn:millhand:database_unreachable", "{path}");
        assert!(!problem.to_string().contains("127.0.0.1"), "where the database is, is nobody's business: {problem}");
    }
    assert_eq!(rig.get("/healthz").await?["status"], "ok");
    let _proxy = rig.world.db.proxy_on(port).await?;
    let within = std::time::Duration::from_secs(20);
    crate::support::wait_until("it is ready again", within, async || rig.get("/readyz").await.is_ok()).await
}
