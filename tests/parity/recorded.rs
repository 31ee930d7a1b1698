//! What Millhand's backend reports of a turn, in the form that a run of `opencode run` has.

use std::{collections::HashMap, env, path::Path, time::Duration};

use anyhow::{Context, Result};
use millhand::{
    agent::{
        AgentProject, Backend, Prompt, SessionRequest, TurnReport,
        opencode::{OpencodeBackend, OpencodeSetup},
    },
    config::Timings,
    model::{
        ask::AskPolicy,
        event::{AgentEvent, ToolStatus},
        resume::message_id,
    },
    scripted::{ScriptedModel, model_name},
    supervise::Supervisor,
};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{
    desk::Nobody,
    millhand,
    opencode::{Finish, Place, RUN_WITHIN, Step, Tool, find_opencode, lean_config, nine_places},
};

/// A backend that sees nothing of this machine but the `PATH`; `home` is a folder of its own.
fn backend(model: &ScriptedModel, extra: &Value, home: &Path) -> Result<OpencodeBackend> {
    std::fs::create_dir_all(home)?;
    let variables = [("PATH", env::var_os("PATH").unwrap_or_default()), ("HOME", home.into())];
    Ok(OpencodeBackend::new(OpencodeSetup {
        binary: find_opencode()?.path,
        supervisor: Supervisor::new(millhand(), format!("test-{}", Uuid::new_v4().simple())),
        timings: Timings::default(),
        environment: variables.map(|(name, value)| (name.into(), value)).into(),
        default_provider: None,
        default_model: None,
        extra_config: Some(lean_config(model, extra)),
        snapshot: false,
        lsp: false,
        formatter: false,
        max_servers: 1,
        max_directories: 50,
        recycle_bytes: 4_000_000_000,
        show_reasoning: true,
        confinement: None,
        counters: millhand::model::counters::Counters::default(),
        user: None,
        cache: home.join("cache"),
        logs: None,
    }))
}

/// Has Millhand's backend do one turn of a script in a place.
pub async fn record(
    model: &ScriptedModel,
    place: &Place,
    script: &str,
    prompt: &str,
    extra: &Value,
) -> Result<(Vec<Step>, TurnReport)> {
    let home = tempfile::tempdir()?;
    let backend = backend(model, extra, home.path())?;
    let (sender, mut receiver) = mpsc::channel(64);
    let collector = tokio::spawn(async move {
        let mut events = Vec::new();
        while let Some(event) = receiver.recv().await {
            events.push(event);
        }
        events
    });
    let project = AgentProject {
        id: 1,
        name: "sample".to_owned(),
        folder: home.path().join("agents/1"),
        trusted: false,
        asks: AskPolicy::Reject,
        env_pass: Vec::new(),
    };
    let request = SessionRequest {
        project,
        directory: place.repository(),
        title: "A test".to_owned(),
        mode: None,
        model: Some(model_name(script)),
        variant: None,
        resume: None,
    };
    let session = backend.ensure_session(request, &sender).await?;
    let prompt = Prompt::new(prompt.to_owned(), message_id(Uuid::new_v4().simple(), std::time::SystemTime::now()));
    let turn = backend.prompt(&session, prompt, &Nobody, &sender, CancellationToken::new());
    let report = tokio::time::timeout(RUN_WITHIN, turn).await.context("the turn hangs")?;
    drop(sender);
    backend.shutdown(Duration::from_secs(10)).await;
    let events = collector.await?;
    let repository = place.repository();
    Ok((steps(&events, repository.to_str().context("path")?)?, report))
}

/// Puts events into steps: a part belongs to the step in which it was first seen, and its last state counts.
fn steps(events: &[AgentEvent], directory: &str) -> Result<Vec<Step>> {
    let mut last: HashMap<&str, &AgentEvent> = HashMap::new();
    for event in events {
        if let Some(part) = event.part() {
            last.insert(part, event);
        }
    }
    let mut steps = Vec::new();
    let mut step = Step::default();
    for event in events {
        // Each part once, where it was first seen.
        let Some(event) = event.part().and_then(|part| last.remove(part)) else { continue };
        match event {
            AgentEvent::Text { text, .. } => step.text.push(neutral(text, directory)),
            AgentEvent::Reasoning { text, .. } => step.reasoning.push(neutral(text, directory)),
            AgentEvent::Tool { call, .. } => step.tools.push(Tool {
                call_id: call.call_id.clone(),
                tool: call.tool.clone(),
                status: status(call.status).to_owned(),
                input: neutral_value(&call.input, directory)?,
                output: call.output.as_deref().map(|text| neutral(text, directory)),
                error: call.error.as_deref().map(|text| neutral(text, directory)),
                exit_code: call.exit_code,
            }),
            AgentEvent::StepFinish { reason, usage, .. } => {
                step.finish = Some(Finish {
                    reason: reason.clone(),
                    input: usage.input_tokens,
                    output: usage.output_tokens,
                    reasoning: usage.reasoning_tokens,
                    cache_read: usage.cache_read_tokens,
                    cache_write: usage.cache_write_tokens,
                    cost_usd: nine_places(usage.cost_usd.unwrap_or_default())?,
                });
                steps.push(std::mem::take(&mut step));
            }
            other => anyhow::bail!("the last that was heard of a part is {other:?}"),
        }
    }
    if step != Step::default() {
        steps.push(step);
    }
    steps.iter_mut().for_each(Step::sort);
    Ok(steps)
}

fn status(status: ToolStatus) -> &'static str {
    match status {
        ToolStatus::Pending => "pending",
        ToolStatus::Running => "running",
        ToolStatus::Completed => "completed",
        ToolStatus::Error => "error",
    }
}

fn neutral(text: &str, directory: &str) -> String {
    text.replace(directory, "<repository>")
}

fn neutral_value(value: &Value, directory: &str) -> Result<Value> {
    Ok(serde_json::from_str(&neutral(&value.to_string(), directory))?)
}
