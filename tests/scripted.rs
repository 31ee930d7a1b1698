//! Tests of the scripted model: over HTTP as an agent talks to it. What the real agent makes of it is in `demo` and
//! in `parity`.

mod demo;

use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt, future::try_join_all};
use millhand::scripted::{Billed, fault::RequestFault};
use serde_json::{Value, json};

use crate::support::model::{Answer, ask, assemble, post, request, start_model};

const SOON: Duration = Duration::from_secs(10);

const TWO_TURNS: &str = r#"[
    {"type": "reasoning", "content": "Zuerst überlegen …"},
    {"type": "text", "content": "I write {{turn}} for “{{prompt}}”, twice and with enough characters for some chunks."},
    {"type": "tool_call", "id": "a", "name": "write", "arguments": {"path": "{{turn}}.txt", "n": [1, "{{prompt}}"]}},
    {"type": "tool_call", "id": "b", "name": "bash", "arguments": {"command": "true"}},
    {"type": "text", "content": "First done."},
    {"type": "usage", "input": 10, "output": 5, "reasoning": 2, "cache_read": 100},
    {"type": "done"},
    {"type": "text", "content": "Second done."}
]"#;

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

/// Takes a conversation through all turns of `TWO_TURNS` and gives all answers.
async fn converse(model: &millhand::scripted::ScriptedModel, name: &str) -> Result<Vec<Answer>> {
    let mut messages = vec![json!({"role": "system", "content": format!("You are in /w/{name}.")})];
    let mut answers = Vec::new();
    for prompt in ["one", "two", "three"] {
        messages.push(user(&format!("{prompt} {name}")));
        loop {
            let answer = ask(model, "s", &messages).await?;
            messages.extend(answer.as_messages());
            let stopped = answer.finish.as_deref() == Some("stop");
            answers.push(answer);
            if stopped {
                break;
            }
        }
    }
    Ok(answers)
}

#[tokio::test]
async fn script_is_followed_through_turns_and_begins_again() -> Result<()> {
    let model = start_model(&[("s", TWO_TURNS)]).await?;
    let answers = converse(&model, "x").await?;
    let texts: Vec<_> = answers.iter().map(|answer| answer.text.as_str()).collect();
    let first = "I write 1 for “one x”, twice and with enough characters for some chunks.";
    let again = "I write 3 for “three x”, twice and with enough characters for some chunks.";
    assert_eq!(texts, [first, "First done.", "Second done.", again, "First done."]);
    assert_eq!(answers[0].reasoning, "Zuerst überlegen …");
    assert_eq!(answers[0].finish.as_deref(), Some("tool_calls"));
    let call = ("a".to_owned(), "write".to_owned(), json!({"path": "1.txt", "n": [1, "one x"]}));
    assert_eq!(answers[0].calls[0], call);
    assert_eq!(answers[0].calls.len(), 2);
    assert!(answers[0].chunks > 8, "streamed in chunks: {}", answers[0].chunks);
    let usage = answers[1].usage.as_ref().expect("usage");
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(110), &json!(7)));
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 100);
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 2);
    model.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn conversations_at_once_keep_their_places_apart() -> Result<()> {
    let model = start_model(&[("s", TWO_TURNS)]).await?;
    let names: Vec<_> = (0..20).map(|n| format!("s{n}")).collect();
    let all = try_join_all(names.iter().map(|name| converse(&model, name))).await?;
    for (name, answers) in names.iter().zip(&all) {
        assert_eq!(answers.len(), 5);
        assert_eq!(answers[3].calls[0].2["n"][1], format!("three {name}"));
    }
    let records = model.requests();
    assert_eq!(records.len(), 100);
    assert!(records.iter().all(|r| r.complete && r.last_byte.is_some_and(|end| end.instant >= r.arrived.instant)));
    let reported = all.iter().flatten().fold((0, 0), |sum, answer| {
        let usage = answer.usage.as_ref().expect("usage");
        let tokens = |key: &str| usage[key].as_u64().expect("tokens");
        (sum.0 + tokens("prompt_tokens"), sum.1 + tokens("completion_tokens"))
    });
    let billed = model.billed();
    assert_eq!((billed.input + billed.cache_read, billed.output + billed.reasoning), reported);
    Ok(())
}

#[tokio::test]
async fn repeated_request_gets_the_same_answer() -> Result<()> {
    let model = start_model(&[("s", TWO_TURNS)]).await?;
    let messages = [user("again"), json!({"role": "assistant", "content": "x"}), user("more")];
    let first = post(&model, &request("s", &messages)).await?.text().await?;
    let second = post(&model, &request("s", &messages)).await?.text().await?;
    assert_eq!(assemble(&first)?.text, "Second done.");
    assert_eq!(first.replace("chatcmpl-0", ""), second.replace("chatcmpl-1", ""));
    Ok(())
}

#[tokio::test]
async fn title_requests_use_nothing_up() -> Result<()> {
    let faulty =
        json!({"steps": [{"type": "text", "content": "t"}], "faults": [{"type": "http", "status": 500, "times": 1}]});
    let model = start_model(&[("s", &faulty.to_string())]).await?;
    let mut title = request("s", &[user("Generate a title"), user("x")]);
    title.as_object_mut().expect("object").remove("tools");
    assert_eq!(assemble(&post(&model, &title).await?.text().await?)?.text, "Scripted session");
    assert_eq!(post(&model, &request("s", &[user("x")])).await?.status(), 500, "the fault was not used up");
    assert_eq!(ask(&model, "s", &[user("x")]).await?.text, "t");
    assert!(model.billed_titles().total() > 0);
    let of_turns: Billed = model.requests().iter().filter(|r| r.tools_offered).map(|r| r.billed).sum();
    assert_eq!(model.billed(), of_turns);
    Ok(())
}

#[tokio::test]
async fn request_without_stream_gets_the_whole_answer() -> Result<()> {
    let model = start_model(&[("s", TWO_TURNS)]).await?;
    let mut request = request("s", &[user("one")]);
    request["stream"] = json!(false);
    let answer: Value = post(&model, &request).await?.json().await?;
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "Zuerst überlegen …");
    let arguments: Value =
        serde_json::from_str(message["tool_calls"][0]["function"]["arguments"].as_str().expect("text"))?;
    assert_eq!(arguments["path"], "1.txt");
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    assert!(answer["usage"]["total_tokens"].as_u64().expect("total") > 0);
    assert!(model.requests()[0].complete);
    Ok(())
}

#[tokio::test]
async fn prompt_of_megabytes_is_taken() -> Result<()> {
    let model = start_model(&[("s", r#"[{"type":"text","content":"{{prompt}}"}]"#)]).await?;
    let prompt = "x{{turn}}".repeat(400_000);
    let answer = ask(&model, "s", &[user(&prompt)]).await?;
    assert_eq!(answer.text, prompt, "and its placeholders are left alone");
    assert!(answer.chunks < 300, "a long text is not a flood of chunks: {}", answer.chunks);
    Ok(())
}

#[tokio::test]
async fn unknown_script_and_unreadable_request_are_told_apart() -> Result<()> {
    let model = start_model(&[("s", TWO_TURNS), ("other", TWO_TURNS)]).await?;
    let response = post(&model, &request("nope", &[user("x")])).await?;
    assert_eq!(response.status(), 404);
    let body: Value = response.json().await?;
    assert_eq!(body["error"]["message"], "no script is called \"nope\"; loaded are: other, s");
    assert_eq!(post(&model, &json!({"model": "s"})).await?.status(), 400);
    assert!(model.requests().is_empty());
    Ok(())
}

#[tokio::test]
async fn step_faults_strike_each_conversation_as_often_as_they_say() -> Result<()> {
    let script = r#"[
        {"type": "http", "status": 429, "retry_after": 1, "retry_after_ms": 20, "message": "slow down", "times": 2},
        {"type": "text", "content": "t"}
    ]"#;
    let model = start_model(&[("s", script)]).await?;
    for directory in ["a", "b"] {
        let request = request("s", &[json!({"role": "system", "content": directory}), user("same")]);
        for expected in [429, 429, 200, 200] {
            let response = post(&model, &request).await?;
            assert_eq!(response.status(), expected);
            if expected == 429 {
                assert_eq!(response.headers()["retry-after"], "1");
                assert_eq!(response.headers()["retry-after-ms"], "20");
                assert_eq!(response.json::<Value>().await?["error"]["message"], "slow down");
            }
        }
    }
    assert_eq!(model.requests().iter().filter(|r| r.status == Some(429) && r.billed.total() == 0).count(), 4);
    Ok(())
}

#[tokio::test]
async fn request_faults_strike_after_and_until_they_are_taken_away() -> Result<()> {
    let model = start_model(&[("s", r#"[{"type":"text","content":"t"}]"#)]).await?;
    let fault = |value: Value| RequestFault::parse(value).expect("fault");
    model.set_faults("s", vec![fault(json!({"type": "http", "status": 500, "after": 1}))])?;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(post(&model, &request("s", &[user("x")])).await?.status().as_u16());
    }
    model.set_faults("s", Vec::new())?;
    seen.push(post(&model, &request("s", &[user("x")])).await?.status().as_u16());
    assert_eq!(seen, [200, 500, 500, 500, 200]);
    assert!(model.set_faults("nope", Vec::new()).is_err());
    Ok(())
}

/// Asks, and gives what came of the stream until its end, and whether that was a clean one.
async fn listen(model: &millhand::scripted::ScriptedModel, script: &str) -> Result<(String, bool)> {
    let mut stream = post(model, &request(script, &[user("x")])).await?.bytes_stream();
    let mut heard = Vec::new();
    while let Some(bytes) = stream.next().await {
        match bytes {
            Ok(bytes) => heard.extend_from_slice(&bytes),
            Err(_) => return Ok((String::from_utf8(heard)?, false)),
        }
    }
    Ok((String::from_utf8(heard)?, true))
}

#[tokio::test]
async fn stream_faults_break_what_they_say_and_no_more() -> Result<()> {
    let model = start_model(&[
        ("cut", r#"[{"type":"text","content":"before"},{"type":"cut"}]"#),
        ("middle", r#"{"steps":[{"type":"text","content":"0123456789012345678901234567890123456789"}],"faults":[{"type":"cut"}]}"#),
        ("broken", r#"[{"type":"text","content":"before"},{"type":"broken_chunk"}]"#),
        ("none", r#"[{"type":"text","content":"t"},{"type":"finish","reason":"none"}]"#),
        ("length", r#"[{"type":"text","content":"t"},{"type":"finish","reason":"length"}]"#),
        ("html", r#"[{"type":"html"},{"type":"text","content":"t"}]"#),
        ("empty", r#"[{"type":"done"}]"#),
    ])
    .await?;
    let (heard, clean) = listen(&model, "cut").await?;
    assert!(!clean && assemble(&heard)?.text == "before", "{heard}");
    let (heard, clean) = listen(&model, "middle").await?;
    assert!(!clean && assemble(&heard)?.text == "01234567890123456789012345678901", "{heard}");
    let (heard, clean) = listen(&model, "broken").await?;
    assert!(clean && assemble(&heard).is_err() && heard.contains("before"), "{heard}");
    let none = assemble(&listen(&model, "none").await?.0)?;
    assert_eq!((none.text.as_str(), none.finish, none.usage, none.done), ("t", None, None, true));
    assert_eq!(assemble(&listen(&model, "length").await?.0)?.finish.as_deref(), Some("length"));
    assert!(listen(&model, "html").await?.0.contains("<html>"));
    let empty = assemble(&listen(&model, "empty").await?.0)?;
    assert_eq!((empty.text.as_str(), empty.finish.as_deref()), ("", Some("stop")));
    let records = model.requests();
    let whole: Vec<_> = records.iter().filter(|r| r.complete).map(|r| r.script.as_str()).collect();
    assert_eq!(whole, ["none", "length", "empty"]);
    Ok(())
}

#[tokio::test]
async fn answer_that_breaks_off_bills_what_was_said() -> Result<()> {
    let script =
        |usage: &str| format!(r#"[{{"type":"text","content":"12345678"}},{usage}{{"type":"cut"}},{{"type":"done"}}]"#);
    let fixed = script(r#"{"type":"usage","input":7,"output":9,"cache_read":3},"#);
    let tight = script(r#"{"type":"usage","input":7,"output":1},"#);
    let model = start_model(&[("counted", &script("")), ("fixed", &fixed), ("tight", &tight)]).await?;
    for name in ["counted", "fixed", "tight"] {
        assert!(!listen(&model, name).await?.1);
    }
    let billed: Vec<_> = model.requests().iter().map(|r| r.billed).collect();
    // "user" and "x" are the characters of the request.
    assert_eq!(billed[0], Billed { input: 2, output: 2, ..Billed::default() });
    assert_eq!(billed[1], Billed { input: 7, output: 2, cache_read: 3, ..Billed::default() });
    assert_eq!(billed[2], Billed { input: 7, output: 1, ..Billed::default() });
    Ok(())
}

#[tokio::test]
async fn stalled_and_endless_answers_end_with_the_client_or_the_server() -> Result<()> {
    let model = start_model(&[
        ("stall", r#"[{"type":"text","content":"before"},{"type":"stall"}]"#),
        ("endless", r#"[{"type":"endless","content":"and "}]"#),
        ("wait", r#"[{"type":"wait"},{"type":"text","content":"t"}]"#),
    ])
    .await?;
    let mut endless = post(&model, &request("endless", &[user("x")])).await?.bytes_stream();
    for _ in 0..20 {
        endless.next().await.expect("it goes on")?;
    }
    drop(endless);
    let (stalled, waiting, ()) = tokio::join!(listen(&model, "stall"), listen(&model, "wait"), async {
        let under_way = |records: &[millhand::scripted::RecordedRequest]| {
            records.iter().any(|r| r.script == "stall" && r.billed.output > 0)
                && records.iter().any(|r| r.script == "wait")
        };
        let records = model.wait_for_requests(SOON, under_way).await.expect("under way");
        assert!(records.iter().all(|r| !r.complete));
        model.stop();
    });
    let (heard, clean) = stalled?;
    assert!(!clean && assemble(&heard)?.text == "before");
    assert!(waiting?.0.contains("stops"));
    let address = model.address();
    model.shutdown().await;
    std::net::TcpListener::bind(address)?;
    Ok(())
}

#[tokio::test]
async fn only_loopback_is_listened_on() {
    let refused = millhand::scripted::ScriptedModel::start([], "0.0.0.0:0".parse().expect("address")).await;
    assert!(refused.err().expect("must be refused").to_string().contains("loopback"));
}
