//! Every route is used once at least, on a world in which real turns have run, and each answer is what the document says.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    Rig,
    schema::{objections, unknown_fields},
};

/// Makes two files.
pub const WRITES: &str = r#"[
    {"type": "tool_call", "id": "call_1", "name": "write", "arguments": {"filePath": "made.txt", "content": "made\n"}},
    {"type": "tool_call", "id": "call_2", "name": "write", "arguments": {"filePath": "other.txt", "content": "other\n"}},
    {"type": "usage", "input": 100, "output": 10},
    {"type": "text", "content": "Done."},
    {"type": "usage", "input": 120, "output": 5},
    {"type": "done"}
]"#;

/// Asks, holds the answers against the document, and remembers what was asked.
struct Walk<'a> {
    rig: &'a Rig,
    document: Value,
    used: Mutex<BTreeSet<(String, String)>>,
}

impl Walk<'_> {
    /// Uses a route, which is to answer with this status.
    async fn uses(
        &self,
        method: Method,
        template: &str,
        path: &str,
        body: Option<Value>,
        status: u16,
    ) -> Result<Value> {
        let name = format!("{method} {path}");
        let mut request = self.rig.http.request(method.clone(), self.rig.url(path));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let (found, text) = (answer.status(), answer.text().await?);
        ensure!(found == StatusCode::from_u16(status)?, "{name}: {found} {text}");
        let operation = &self.document["paths"][template][method.as_str().to_lowercase()];
        ensure!(operation.is_object(), "{method} {template} is not in the document");
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert((method.to_string(), template.to_owned()));
        let responses = &operation["responses"];
        let said = responses.get(found.as_str()).or_else(|| responses.get("default").filter(|_| !found.is_success()));
        let content = &said.with_context(|| format!("{name}: {found} is not in the document"))?["content"];
        let Some(schema) = content.get("application/json").or_else(|| content.get("application/problem+json")) else {
            return Ok(Value::String(text));
        };
        let value: Value = serde_json::from_str(&text)?;
        let mut wrong = objections(&self.document, &schema["schema"], &value, "");
        wrong.extend(
            unknown_fields(&self.document, &schema["schema"], &value, "")
                .into_iter()
                .map(|at| format!("{at} is not in the document")),
        );
        ensure!(wrong.is_empty(), "{name}: {wrong:#?}");
        Ok(value)
    }

    /// Uses a stream that has no end.
    async fn begins(&self, path: &str) -> Result<()> {
        let mut answer = self.rig.http.get(self.rig.url(path)).send().await?.error_for_status()?;
        ensure!(answer.chunk().await?.is_some_and(|bytes| !bytes.is_empty()), "nothing comes");
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(("GET".to_owned(), path.to_owned()));
        Ok(())
    }

    async fn get(&self, template: &str, path: &str) -> Result<Value> {
        self.uses(Method::GET, template, path, None, 200).await
    }

    async fn post(&self, template: &str, path: &str, body: Value) -> Result<Value> {
        self.uses(Method::POST, template, path, Some(body), 200).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_as_the_document_says() -> Result<()> {
    let rig = Rig::new(&[("writes", WRITES)]).await?;
    let worker = rig.world.start().await?;
    let walk = Walk { rig: &rig, document: millhand::api::document(), used: Mutex::default() };
    queue(&walk).await?;
    review(&walk).await?;
    people(&walk).await?;
    manage(&walk).await?;
    look(&walk).await?;
    crate::support::world::stop(worker).await;
    let used = walk.used.into_inner().unwrap_or_else(PoisonError::into_inner);
    let unused: Vec<_> = millhand::api::routes()
        .into_iter()
        .map(|route| (route.method.to_string(), route.path))
        .filter(|route| !used.contains(route))
        .collect();
    assert!(unused.is_empty(), "no test uses {unused:?}");
    Ok(())
}

/// A session with two turns.
async fn queue(walk: &Walk<'_>) -> Result<()> {
    let ask = json!({ "project": "acme", "prompt": "make files" });
    let task = walk.uses(Method::POST, "/api/tasks", "/api/tasks", Some(ask), 201).await?;
    let id = task["id"].as_i64().context("id")?;
    assert_eq!(walk.rig.world.settled(id).await?, "completed");
    let session = task["session_id"].as_i64().context("session")?;
    let path = format!("/api/sessions/s{session}/tasks");
    let sent = json!({ "prompt": "again", "new_chat": true });
    let second = walk.uses(Method::POST, "/api/sessions/{id}/tasks", &path, Some(sent), 201).await?;
    assert_eq!(walk.rig.world.settled(second["id"].as_i64().context("id")?).await?, "completed");
    walk.get("/api/tasks", "/api/tasks").await?;
    walk.get("/api/tasks/{id}", &format!("/api/tasks/t{id}")).await?;
    let events = walk.get("/api/tasks/{id}/events", &format!("/api/tasks/{id}/events?limit=2")).await?;
    let next = events["next"].as_str().context("a turn has more than two events")?;
    let more = walk.get("/api/tasks/{id}/events", &format!("/api/tasks/{id}/events?limit=500&cursor={next}")).await?;
    let seqs = |page: &Value| {
        page["items"].as_array().map_or(Vec::new(), |items| items.iter().map(|e| e["seq"].as_i64()).collect())
    };
    let (first, rest) = (seqs(&events), seqs(&more));
    assert!(first.last() < rest.first(), "{first:?} {rest:?}");
    walk.get("/api/sessions", "/api/sessions?state=open").await?;
    walk.get("/api/sessions/{id}", &format!("/api/sessions/{session}")).await?;
    let chats = walk.get("/api/sessions/{id}/chats", &format!("/api/sessions/{session}/chats")).await?;
    assert_eq!(chats["items"].as_array().map(Vec::len), Some(2));
    walk.get("/api/chats/{id}", &format!("/api/chats/c{}", task["chat_id"])).await?;
    let conversations = format!("/api/sessions/{session}/agent-sessions");
    let found = walk.get("/api/sessions/{id}/agent-sessions", &conversations).await?;
    assert_eq!(found["items"].as_array().map(Vec::len), Some(2), "{found}");
    Ok(())
}

/// The newest change set of session 1, looked at and decided.
async fn review(walk: &Walk<'_>) -> Result<()> {
    let sets = walk.get("/api/change-sets", "/api/change-sets?session=1").await?;
    let (newest, older) = (&sets["items"][0], &sets["items"][1]);
    let (id, old) = (newest["id"].as_i64().context("newest")?, older["id"].as_i64().context("older")?);
    let at = |rest: &str| format!("/api/change-sets/{id}{rest}");
    walk.get("/api/change-sets/{id}", &at("")).await?;
    let files = walk.get("/api/change-sets/{id}/files", &at("/files")).await?;
    let file = &files["items"][0];
    let one = walk.get("/api/change-sets/{id}/files/{file}", &at(&format!("/files/{}", file["id"]))).await?;
    assert!(one["patch"].as_str().is_some_and(|patch| patch.contains("+made")), "{one}");
    let patch = walk.get("/api/change-sets/{id}/patch", &at("/patch")).await?;
    assert!(patch.as_str().is_some_and(|patch| patch.starts_with("diff --git")), "{patch}");
    walk.get("/api/change-sets/{id}/interdiff", &at(&format!("/interdiff?from={old}"))).await?;
    let looked = format!("/api/change-sets/{old}/looked");
    walk.uses(Method::POST, "/api/change-sets/{id}/looked", &looked, None, 200).await?;
    let since = walk.get("/api/change-sets/{id}/interdiff", &at("/interdiff")).await?;
    assert_eq!(since["from"]["id"], old);
    let comment = json!({ "path": "made.txt", "line": 1, "body": "why?" });
    walk.uses(Method::POST, "/api/change-sets/{id}/comments", &at("/comments"), Some(comment), 201).await?;
    walk.get("/api/change-sets/{id}/comments", &at("/comments")).await?;
    walk.get("/api/sessions/{id}/comments", "/api/sessions/s1/comments").await?;
    walk.uses(Method::POST, "/api/change-sets/{id}/checks", &at("/checks"), None, 422).await?;
    walk.get("/api/change-sets/{id}/checks", &at("/checks")).await?;
    let refused = json!({ "only": ["other.txt"] });
    walk.post("/api/change-sets/{id}/reject", &at("/reject"), refused).await?;
    let applied = walk.post("/api/change-sets/{id}/apply", &at("/apply"), json!({ "only": ["made.txt"] })).await?;
    assert_eq!(applied["taken"], json!(["made.txt"]));
    assert!(walk.rig.world.repository().join("made.txt").exists());
    let again = walk.uses(Method::POST, "/api/change-sets/{id}/apply", &at("/apply"), Some(json!({})), 422).await?;
    assert!(again["detail"].as_str().is_some_and(|why| why.contains("already")), "{again}");
    let none = Some(json!({}));
    walk.uses(Method::POST, "/api/sessions/{id}/conflicts", "/api/sessions/1/conflicts", none, 422).await?;
    walk.get("/api/forecasts", "/api/forecasts?project=acme").await?;
    walk.get("/api/change-sets/{id}/applies", &at("/applies")).await?;
    walk.get("/api/sessions/{id}/checkpoints", "/api/sessions/1/checkpoints").await?;
    let back = json!({ "task": older["task_id"] });
    walk.post("/api/sessions/{id}/rollback", "/api/sessions/1/rollback", back).await?;
    let sent =
        walk.uses(Method::POST, "/api/sessions/{id}/review", "/api/sessions/1/review", Some(json!({})), 201).await?;
    assert_eq!(walk.rig.world.settled(sent["id"].as_i64().context("id")?).await?, "completed");
    walk.uses(Method::POST, "/api/sessions/{id}/close", "/api/sessions/1/close", None, 200).await?;
    walk.uses(Method::POST, "/api/sessions/{id}/reopen", "/api/sessions/1/reopen", None, 200).await?;
    Ok(())
}

/// What people do to tasks that came to rest, and to what is asked.
async fn people(walk: &Walk<'_>) -> Result<()> {
    let ask = json!({ "project": "acme", "prompt": "no such model", "model": "scripted/none" });
    let failed =
        walk.uses(Method::POST, "/api/tasks", "/api/tasks", Some(ask), 201).await?["id"].as_i64().context("id")?;
    let state = walk.rig.world.settled(failed).await?;
    assert!(matches!(state.as_str(), "failed" | "blocked"), "{state}");
    let inbox = walk.get("/api/inbox", "/api/inbox").await?;
    assert_eq!(inbox["items"][0]["task_id"], failed);
    let missing = json!({ "tasks": [format!("t{failed}"), 999_999] });
    let many = walk.post("/api/tasks/retry", "/api/tasks/retry", missing).await?;
    assert!(many["items"][0]["problem"].is_null() && many["items"][1]["problem"]["status"] == 404, "{many}");
    walk.rig.world.settled(failed).await?;
    let path = format!("/api/tasks/{failed}/retry");
    walk.post("/api/tasks/{id}/retry", &path, json!({ "prompt": "anew", "model": "scripted/writes" })).await?;
    assert_eq!(walk.rig.world.settled(failed).await?, "completed");
    let later = walk.rig.world.queue_for("none", "twice").await?;
    walk.rig.world.settled(later).await?;
    walk.post("/api/tasks/dismiss", "/api/tasks/dismiss", json!({ "all": true, "project": "acme" })).await?;
    for (verb, template) in [("dismiss", "/api/tasks/{id}/dismiss"), ("cancel", "/api/tasks/{id}/cancel")] {
        let path = format!("/api/tasks/{later}/{verb}");
        walk.uses(Method::POST, template, &path, None, 409).await?;
    }
    walk.get("/api/asks", "/api/asks?state=open").await?;
    walk.uses(Method::GET, "/api/asks/{id}", "/api/asks/a1", None, 404).await?;
    let yes = json!({ "answer": "once" });
    walk.uses(Method::POST, "/api/asks/{id}/answer", "/api/asks/a1/answer", Some(yes), 404).await?;
    Ok(())
}

/// What administrators do.
async fn manage(walk: &Walk<'_>) -> Result<()> {
    let put =
        |template: &'static str, path: &'static str, body| walk.uses(Method::PUT, template, path, Some(body), 200);
    let delete = |template: &'static str, path: &'static str| walk.uses(Method::DELETE, template, path, None, 200);
    put("/api/budgets", "/api/budgets", json!({ "limits": [{ "per": "day", "limit": "20" }] })).await?;
    put(
        "/api/budgets",
        "/api/budgets",
        json!({ "project": "acme", "limits": [{ "per": "task", "limit": "200ktok" }] }),
    )
    .await?;
    walk.get("/api/budgets", "/api/budgets?project=acme").await?;
    delete("/api/budgets", "/api/budgets?project=acme&per=task").await?;
    put("/api/prices", "/api/prices", json!({ "model": "scripted/*", "input": 1.5, "output": 3 })).await?;
    walk.get("/api/prices", "/api/prices").await?;
    delete("/api/prices", "/api/prices?model=scripted/*").await?;
    walk.get("/api/costs", "/api/costs?by=day&since=7d").await?;
    let source = walk.rig.world.repository();
    let add = json!({ "source": source, "name": "second", "asks": "inbox" });
    let made = walk.uses(Method::POST, "/api/projects", "/api/projects", Some(add), 201).await?;
    assert_eq!((&made["name"], &made["ask_policy"]), (&json!("second"), &json!("inbox")));
    let set = json!({ "setup_command": "true", "max_attempts": 5, "copy": [{ "path": "a", "from": source.join("README.md") }] });
    let set = walk.uses(Method::PATCH, "/api/projects/{name}", "/api/projects/second", Some(set), 200).await?;
    assert_eq!((&set["max_attempts"], &set["copied_files"]), (&json!(5), &json!(["a"])));
    assert_eq!(set["ask_policy"], "inbox", "what is not named stays");
    put("/api/projects/{name}/checks/{check}", "/api/projects/second/checks/unit", json!({ "command": "true" }))
        .await?;
    walk.get("/api/projects/{name}/checks", "/api/projects/second/checks").await?;
    delete("/api/projects/{name}/checks/{check}", "/api/projects/second/checks/unit").await?;
    walk.get("/api/projects", "/api/projects").await?;
    walk.get("/api/projects/{name}", "/api/projects/acme").await?;
    delete("/api/projects/{name}", "/api/projects/second").await?;
    let hook = json!({ "url": "http://127.0.0.1:9/hook", "allow_private": true, "events": ["task.failed"] });
    let hook = walk.uses(Method::POST, "/api/webhooks", "/api/webhooks", Some(hook), 201).await?;
    assert!(hook["secret"].as_str().is_some_and(|secret| secret.len() > 20));
    walk.get("/api/webhooks", "/api/webhooks").await?;
    walk.get("/api/webhooks/{id}", "/api/webhooks/wh1").await?;
    walk.uses(Method::POST, "/api/webhooks/{id}/test", "/api/webhooks/wh1/test", None, 200).await?;
    walk.get("/api/deliveries", "/api/deliveries?webhook=wh1").await?;
    walk.post("/api/deliveries/retry", "/api/deliveries/retry", json!({ "dead": true, "webhook": 1 })).await?;
    let off = json!({ "enabled": false });
    walk.uses(Method::PATCH, "/api/webhooks/{id}", "/api/webhooks/1", Some(off), 200).await?;
    delete("/api/webhooks/{id}", "/api/webhooks/1").await?;
    walk.get("/api/worktrees", "/api/worktrees?gone=true").await?;
    walk.post("/api/worktrees/reap", "/api/worktrees/reap", json!({ "ids": ["w1"], "dry_run": true })).await?;
    walk.uses(Method::POST, "/api/worktrees/{id}/restore", "/api/worktrees/w1/restore", None, 200).await?;
    walk.get("/api/audit", "/api/audit?limit=5").await?;
    Ok(())
}

/// The whole.
async fn look(walk: &Walk<'_>) -> Result<()> {
    let ended = walk.get("/api/tasks/{id}/stream", "/api/tasks/1/stream").await?;
    assert!(ended.as_str().is_some_and(|text| text.contains("event: ended")), "{ended}");
    walk.begins("/api/stream").await?;
    let figures = walk.get("/metrics", "/metrics").await?;
    assert!(figures.as_str().is_some_and(|text| text.contains("\nmillhand_worker_up{")), "{figures}");
    for path in ["/docs", "/docs/viewer.js", "/docs/viewer.css"] {
        walk.get(path, path).await?;
    }
    for path in [
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/api/overview",
        "/api/activity",
        "/api/workers",
        "/api/agents",
        "/api/servers",
    ] {
        walk.get(path, path).await?;
    }
    let add = json!({ "name": "other", "scopes": ["review"], "expires": "1d" });
    let made = walk.uses(Method::POST, "/api/tokens", "/api/tokens", Some(add), 201).await?;
    walk.get("/api/tokens", "/api/tokens?all=true&limit=1").await?;
    let path = format!("/api/tokens/tok{}", made["id"]);
    let gone = walk.uses(Method::DELETE, "/api/tokens/{id}", &path, None, 200).await?;
    assert_eq!(gone["state"], "revoked");
    walk.uses(Method::GET, "/login", "/login?code=wrong", None, 401).await?;
    assert_eq!(walk.get("/api/me", "/api/me").await?["name"], "tests");
    // The last: from here on nobody is known.
    walk.uses(Method::POST, "/api/logout", "/api/logout", None, 200).await?;
    walk.uses(Method::GET, "/api/me", "/api/me", None, 401).await?;
    Ok(())
}
