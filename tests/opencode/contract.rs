//! The live `/doc` of the installed opencode has what we use of its API. This tells first when a new version has not.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::rig::LONG;
use crate::support::wait_until;

/// Method, path, and the names in query or body that we send.
const ENDPOINTS: &[(&str, &str, &[&str])] = &[
    ("get", "/global/health", &[]),
    ("get", "/global/event", &[]),
    ("get", "/agent", &["directory"]),
    ("get", "/config", &["directory"]),
    ("get", "/config/providers", &["directory"]),
    ("get", "/provider", &["directory"]),
    ("post", "/session", &["directory", "title"]),
    ("get", "/session/{sessionID}", &[]),
    ("get", "/session/{sessionID}/children", &[]),
    ("get", "/session/{sessionID}/message", &["limit", "before"]),
    ("get", "/session/status", &["directory"]),
    (
        "post",
        "/session/{sessionID}/prompt_async",
        &["directory", "messageID", "model", "providerID", "modelID", "agent", "variant", "system", "parts"],
    ),
    ("post", "/session/{sessionID}/abort", &["directory"]),
    ("get", "/permission", &["directory"]),
    ("post", "/permission/{requestID}/reply", &["directory", "reply"]),
    ("get", "/question", &["directory"]),
    ("post", "/question/{requestID}/reject", &["directory"]),
    ("post", "/instance/dispose", &["directory"]),
];

/// Schemas, and the fields of them that we read.
const SCHEMAS: &[(&str, &[&str])] = &[
    (
        "AssistantMessage",
        &[
            "id",
            "sessionID",
            "role",
            "parentID",
            "modelID",
            "providerID",
            "time",
            "created",
            "completed",
            "finish",
            "error",
            "cost",
            "tokens",
            "input",
            "output",
            "reasoning",
            "cache",
            "read",
            "write",
            "summary",
        ],
    ),
    ("TextPartInput", &["id", "type", "text"]),
    ("UserMessage", &["id", "sessionID", "role", "time", "created"]),
    ("TextPart", &["id", "messageID", "type", "text", "time", "end"]),
    ("ReasoningPart", &["id", "messageID", "type", "text", "time", "end"]),
    ("ToolPart", &["id", "messageID", "type", "callID", "tool", "state"]),
    ("ToolStateCompleted", &["status", "input", "output", "title", "metadata"]),
    ("ToolStateError", &["status", "input", "error"]),
    ("StepFinishPart", &["id", "messageID", "type", "reason", "cost", "tokens"]),
    ("SessionStatus", &["type", "attempt", "message", "next"]),
    ("APIError", &["name", "data", "message", "statusCode", "responseHeaders"]),
    ("PermissionRequest", &["id", "sessionID", "permission", "patterns"]),
    ("QuestionRequest", &["id", "sessionID"]),
    ("Session", &["id", "parentID", "directory"]),
    ("Agent", &["name", "mode", "hidden"]),
    ("EventMessagePartDelta", &["messageID", "partID", "field", "delta"]),
    ("EventMessagePartUpdated", &["part"]),
    ("EventMessageUpdated", &["info"]),
    ("EventSessionStatus", &["sessionID", "status"]),
    ("EventSessionIdle", &["sessionID"]),
    ("EventSessionError", &["sessionID", "error"]),
    ("EventPermissionAsked", &["id", "sessionID", "permission", "patterns"]),
    ("EventQuestionAsked", &["id", "sessionID"]),
    ("EventTodoUpdated", &["todos"]),
    ("EventSessionCreated", &["info"]),
    ("EventSessionCompacted", &["sessionID"]),
];

async fn live_doc() -> Result<Value> {
    let folder = tempfile::TempDir::new()?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut server = tokio::process::Command::new(crate::support::opencode::find_opencode()?.path)
        .args(["serve", "--hostname", "127.0.0.1", "--port", &port.to_string()])
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder.path())
        .env("OPENCODE_DISABLE_MODELS_FETCH", "1")
        .env("OPENCODE_DISABLE_AUTOUPDATE", "1")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let client = reqwest::Client::builder().no_proxy().timeout(std::time::Duration::from_secs(5)).build()?;
    let url = format!("http://127.0.0.1:{port}/doc");
    let mut doc = None;
    wait_until("the server answers", LONG, async || {
        if let Ok(answer) = client.get(&url).send().await {
            doc = answer.json::<Value>().await.ok();
        }
        doc.is_some()
    })
    .await?;
    server.kill().await?;
    doc.context("a document")
}

#[tokio::test]
async fn the_live_api_has_what_we_use() -> Result<()> {
    let doc = live_doc().await?;
    let mut missing = Vec::new();
    for (method, path, names) in ENDPOINTS {
        let endpoint = &doc["paths"][path][method];
        if endpoint.is_null() {
            missing.push(format!("{method} {path}"));
            continue;
        }
        let text = format!("{}{}", endpoint["parameters"], endpoint["requestBody"]);
        missing.extend(
            names
                .iter()
                .filter(|name| !text.contains(&format!("\"{name}\"")))
                .map(|name| format!("{method} {path}: {name}")),
        );
    }
    for (schema, fields) in SCHEMAS {
        let text = doc["components"]["schemas"][schema].to_string();
        missing.extend(
            fields
                .iter()
                .filter(|field| !text.contains(&format!("\"{field}\"")))
                .map(|field| format!("{schema}.{field}")),
        );
    }
    ensure!(missing.is_empty(), "opencode's API lacks {missing:#?}");
    Ok(())
}
