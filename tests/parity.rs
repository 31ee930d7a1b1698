//! Tests of parity: what `opencode run` prints for a script is what Millhand's backend must report for it.

mod recorded;

use anyhow::{Result, ensure};
use millhand::{agent::TurnReport, model::outcome::Ending, scripted::Billed, tools::OPENCODE_TESTED};
use serde_json::{Value, json};

use self::recorded::record;
use crate::support::{
    model::start_with,
    opencode::{Place, Run, Step, find_opencode},
};

const FILES: &[(&str, &str)] = &[("README.md", "# Sample\n\nTwo lines.\n")];
const PROMPT: &str = "Do what the script says";

/// A script, the configuration that it is run with, and how Millhand must say that it ended.
struct Case {
    script: &'static str,
    config: Value,
    ending: Ending,
}

fn case(script: &'static str, config: Value, ending: Ending) -> Case {
    Case { script, config, ending }
}

/// Has both do a script, each in a place of its own, and gives both outcomes.
async fn do_twice(case: &Case) -> Result<(Run, Vec<Step>, TurnReport)> {
    let (for_run, for_record) = (start_with(case.script).await?, start_with(case.script).await?);
    let (run_in, record_in) = (Place::new(FILES).await?, Place::new(FILES).await?);
    let (run, recorded) = tokio::join!(
        run_in.run(&for_run, case.script, PROMPT, &case.config),
        record(&for_record, &record_in, case.script, PROMPT, &case.config),
    );
    let (run, (steps, report)) = (run?, recorded?);
    ensure!(for_record.billed() == sum(&report), "{:?} was billed, {:?} reported", for_record.billed(), report.steps);
    Ok((run, steps, report))
}

fn sum(report: &TurnReport) -> Billed {
    let tokens = |count: i64| u64::try_from(count).expect("tokens");
    let of_step = |step: &millhand::model::usage::StepUsage| Billed {
        input: tokens(step.input_tokens),
        output: tokens(step.output_tokens),
        reasoning: tokens(step.reasoning_tokens),
        cache_read: tokens(step.cache_read_tokens),
    };
    report.steps.iter().map(of_step).sum()
}

async fn compare(case: Case) -> Result<()> {
    let (run, steps, report) = do_twice(&case).await?;
    assert_eq!(run.steps, steps, "{}", case.script);
    assert_eq!(report.ending, case.ending, "{}: {}", case.script, report.error);
    assert_eq!(run.exit == Some(0), run.errors.is_empty(), "{}", case.script);
    if find_opencode()?.version == OPENCODE_TESTED {
        insta::assert_debug_snapshot!(case.script, run);
    } else {
        // Others word their tools' results differently.
        crate::support::not_run!(
            "snapshot of opencode run for {}, as it is of opencode {OPENCODE_TESTED}",
            case.script
        );
    }
    Ok(())
}

#[tokio::test]
async fn parts_equal_those_of_opencode_run() -> Result<()> {
    // One after another, as each needs two processes of some 400 MB.
    for case in [
        case("text_only", json!({}), Ending::Completed),
        case("several_tools", json!({}), Ending::Completed),
        case("rejected_ask", json!({"permission": {"bash": "ask"}}), Ending::AskRejected),
        case("limited_then_success", json!({}), Ending::Completed),
    ] {
        compare(case).await?;
    }
    Ok(())
}

/// Beside the others, as opencode takes more than a minute to give a provider up.
#[tokio::test]
async fn parts_equal_those_of_opencode_run_when_the_provider_fails() -> Result<()> {
    compare(case("failing_to_the_end", json!({}), Ending::ProviderError { status: Some(500) })).await
}
