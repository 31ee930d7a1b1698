//! A scripted model for a test, and a client that talks to it as an agent does.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use millhand::scripted::{Script, ScriptedModel};
use serde_json::{Value, json};

/// Longest that one answer may take in a test.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Starts a model with scripts that are given as name and JSON.
pub async fn start_model(scripts: &[(&str, &str)]) -> Result<ScriptedModel> {
    let scripts = scripts.iter().map(|(name, json)| Script::parse(name, json)).collect::<Result<Vec<_>, _>>()?;
    Ok(ScriptedModel::start(scripts, "127.0.0.1:0".parse()?).await?)
}

/// Starts a model with one script of `tests/scripts`.
pub async fn start_with(script: &str) -> Result<ScriptedModel> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(format!("{script}.json"));
    Ok(ScriptedModel::start([Script::load(&path)?], "127.0.0.1:0".parse()?).await?)
}

/// An answer, put together from its chunks.
#[derive(Debug, Default)]
pub struct Answer {
    pub text: String,
    pub reasoning: String,
    pub calls: Vec<(String, String, Value)>,
    pub finish: Option<String>,
    pub usage: Option<Value>,
    pub chunks: usize,
    pub done: bool,
}

impl Answer {
    /// The answer as a message of the conversation, followed by results of its calls.
    pub fn as_messages(&self) -> Vec<Value> {
        let calls: Vec<_> = self
            .calls
            .iter()
            .map(|(id, name, arguments)| {
                json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments.to_string()}})
            })
            .collect();
        let mut messages = vec![json!({"role": "assistant", "content": self.text, "tool_calls": calls})];
        messages.extend(
            self.calls.iter().map(|(id, ..)| json!({"role": "tool", "tool_call_id": id, "content": "a result"})),
        );
        messages
    }
}

/// A request of an agent: streaming, with tools.
pub fn request(script: &str, messages: &[Value]) -> Value {
    let tools = json!([{"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}]);
    let options = json!({"include_usage": true});
    json!({"model": script, "messages": messages, "tools": tools, "stream": true, "stream_options": options})
}

/// Sends a request and gives the response back.
pub async fn post(model: &ScriptedModel, request: &Value) -> Result<reqwest::Response> {
    let url = format!("{}/chat/completions", model.base_url());
    Ok(reqwest::Client::new().post(url).json(request).timeout(ANSWER_WITHIN).send().await?)
}

/// Sends a streaming request and puts the answer together.
pub async fn ask(model: &ScriptedModel, script: &str, messages: &[Value]) -> Result<Answer> {
    let response = post(model, &request(script, messages)).await?;
    ensure!(response.status() == 200, "{}: {}", response.status(), response.text().await?);
    assemble(&response.text().await?)
}

/// Puts an answer together from the stream's text.
pub fn assemble(stream: &str) -> Result<Answer> {
    let mut answer = Answer::default();
    let mut arguments: Vec<String> = Vec::new();
    for line in stream.lines().filter(|line| !line.is_empty()) {
        let data = line.strip_prefix("data: ").with_context(|| format!("not a data line: {line}"))?;
        if answer.done {
            bail!("something follows the end: {line}");
        }
        if data == "[DONE]" {
            answer.done = true;
            continue;
        }
        let chunk: Value = serde_json::from_str(data).with_context(|| data.to_owned())?;
        answer.chunks += 1;
        if let Some(usage) = chunk.get("usage") {
            answer.usage = Some(usage.clone());
        }
        let Some(choice) = chunk["choices"].get(0) else { continue };
        let delta = &choice["delta"];
        answer.text.push_str(delta["content"].as_str().unwrap_or(""));
        answer.reasoning.push_str(delta["reasoning_content"].as_str().unwrap_or(""));
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = usize::try_from(call["index"].as_u64().context("index")?)?;
            if let Some(id) = call["id"].as_str() {
                ensure!(index == answer.calls.len(), "calls out of order");
                let name = call["function"]["name"].as_str().context("name")?;
                answer.calls.push((id.to_owned(), name.to_owned(), Value::Null));
                arguments.push(String::new());
            }
            arguments[index].push_str(call["function"]["arguments"].as_str().unwrap_or(""));
        }
        if let Some(finish) = choice["finish_reason"].as_str() {
            answer.finish = Some(finish.to_owned());
        }
    }
    for (call, arguments) in answer.calls.iter_mut().zip(&arguments) {
        call.2 = serde_json::from_str(arguments)?;
    }
    Ok(answer)
}
