//! The demo's scripts, run by the real opencode: what they say they do must be done.

use anyhow::Result;
use millhand::scripted::{
    ScriptedModel,
    sample::{DEMO_TASKS, SAMPLE_FILES, demo_scripts},
};
use serde_json::json;
use tokio::process::Command;

use crate::support::opencode::{Place, Run};

/// Takes a place through the demo's tasks of one session.
async fn take_through(session: usize) -> Result<(Place, Vec<Run>)> {
    let model = ScriptedModel::start(demo_scripts()?, "127.0.0.1:0".parse()?).await?;
    let place = Place::new(&SAMPLE_FILES.map(|file| (file.path, file.content))).await?;
    let mut runs = Vec::new();
    for task in DEMO_TASKS.iter().filter(|task| task.session == session) {
        let run = match runs.is_empty() {
            true => place.run(&model, task.script, task.prompt, &json!({})).await?,
            false => place.continue_with(&model, task.script, task.prompt, &json!({})).await?,
        };
        runs.push(run);
    }
    Ok((place, runs))
}

fn assert_clean(run: &Run) {
    assert_eq!(run.exit, Some(0));
    assert!(run.errors.is_empty() && !run.steps.is_empty());
    for tool in run.steps.iter().flat_map(|step| &step.tools) {
        assert!(tool.status == "completed" && tool.exit_code.is_none_or(|code| code == 0), "{tool:#?}");
    }
    assert!(run.steps.iter().all(|step| step.finish.is_some()));
}

#[tokio::test]
async fn demo_adds_a_flag_then_tests_for_it() -> Result<()> {
    let (place, runs) = take_through(0).await?;
    assert_eq!(runs.len(), 2);
    runs.iter().for_each(assert_clean);
    let output = Command::new("sh").arg("test.sh").current_dir(place.repository()).output().await?;
    let printed = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{printed}");
    assert_eq!(printed.lines().filter(|line| line.starts_with("ok: ")).count(), 6, "{printed}");
    let usage = Command::new("sh").args(["greet", "--help"]).current_dir(place.repository()).output().await?;
    assert!(String::from_utf8(usage.stderr)?.contains("[--json]"));
    Ok(())
}

#[tokio::test]
async fn demo_mends_the_readme() -> Result<()> {
    let (place, runs) = take_through(1).await?;
    assert_eq!(runs.len(), 1);
    runs.iter().for_each(assert_clean);
    let readme = std::fs::read_to_string(place.repository().join("README.md"))?;
    assert!(readme.contains("friendly") && !readme.contains("freindly") && readme.contains("## Usage"), "{readme}");
    let said = runs[0].steps.iter().flat_map(|step| &step.tools).find(|tool| tool.call_id == "call_check");
    let output = said.and_then(|tool| tool.output.as_deref()).unwrap_or_default();
    assert_eq!(output, "Hello, Ada!\nHello, Linus!\nHELLO, ADA!\n");
    Ok(())
}
