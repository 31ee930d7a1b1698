//! Checks of what turns changed: what an ending means, how the checks of a change set stand together, and what the agent is told.

use std::{fmt::Write as _, time::Duration};

use super::command::{Ended, Ran, last_lines};

/// How often a check is begun whose worker dies.
pub const MOST_TRIES: i32 = 3;
/// Bytes of what one check printed that the agent is told.
const TOLD_BYTES: usize = 8 * 1024;
/// Checks that the agent is told of.
const TOLD: usize = 10;

/// What is recorded of a check that was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The value of `check_runs.state`.
    pub state: &'static str,
    /// The exit code, where it ended by itself.
    pub exit_code: Option<i32>,
    /// How it ended otherwise.
    pub problem: Option<String>,
    /// The end of what it printed.
    pub output: String,
    /// How long it took.
    pub took: Duration,
}

/// What becomes of a check that was run; none: it is to be run again, as it was not its own end.
pub fn record(ran: Ran) -> Option<Recorded> {
    let Ran { ended, took, output } = ran;
    let recorded = |state, exit_code, problem| Some(Recorded { state, exit_code, problem, output, took });
    let words = || Some(ended.words(took));
    match ended {
        Ended::Code(0) => recorded("passed", Some(0), None),
        Ended::Code(code) => recorded("failed", Some(code), None),
        Ended::Signal(_) | Ended::TooManyProcesses => recorded("failed", None, words()),
        Ended::TimedOut => recorded("timed_out", None, words()),
        Ended::Stopped | Ended::Lost => None,
    }
}

/// What is recorded of a check that could not be run.
pub fn not_run(problem: String, output: String) -> Recorded {
    Recorded { state: "error", exit_code: None, problem: Some(problem), output, took: Duration::ZERO }
}

/// A check, as a decision needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckState<'a> {
    /// Its name.
    pub name: &'a str,
    /// The value of `check_runs.state`.
    pub state: &'a str,
}

/// How the checks of a change set stand together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There are none.
    None,
    /// All have passed.
    Passed,
    /// Some have not been run yet.
    Pending(Vec<String>),
    /// Some have failed, or could not be run.
    Failed(Vec<String>),
}

impl Standing {
    /// Why the changes should not be taken, if they should not.
    pub fn objection(&self) -> Option<String> {
        match self {
            Self::None | Self::Passed => None,
            Self::Pending(names) => Some(format!("checks are not over yet: {}", names.join(", "))),
            Self::Failed(names) => Some(format!("checks have not passed: {}", names.join(", "))),
        }
    }
}

/// How they stand: `configured` are the project's checks now, `runs` those of the change set.
pub fn standing(configured: &[&str], runs: &[CheckState<'_>]) -> Standing {
    let names = |is: &dyn Fn(&str) -> bool| -> Vec<String> {
        runs.iter().filter(|run| is(run.state)).map(|run| run.name.to_owned()).collect()
    };
    let failed = names(&|state| matches!(state, "failed" | "timed_out" | "error"));
    if !failed.is_empty() {
        return Standing::Failed(failed);
    }
    let mut pending = names(&|state| matches!(state, "pending" | "running" | "skipped"));
    // Added since, and never run on this.
    let new = configured.iter().filter(|name| !runs.iter().any(|run| run.name == **name));
    pending.extend(new.map(|name| (*name).to_owned()));
    if !pending.is_empty() {
        return Standing::Pending(pending);
    }
    if runs.is_empty() { Standing::None } else { Standing::Passed }
}

/// A check that failed, as the agent is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed<'a> {
    /// Its name.
    pub name: &'a str,
    /// The command.
    pub command: &'a str,
    /// The exit code, where it ended by itself.
    pub exit_code: Option<i32>,
    /// How it ended otherwise.
    pub problem: Option<&'a str>,
    /// What it printed.
    pub output: &'a str,
}

/// The prompt that sends failed checks back.
pub fn feedback_prompt(failed: &[Failed<'_>], round: i32, at_most: i32) -> String {
    let mut prompt = format!(
        "The project's checks have failed on your changes (sent back {round} of at most {at_most} times). Please find out why, and mend it. \
         Do not weaken the checks.\n"
    );
    for check in failed.iter().take(TOLD) {
        let how = match (check.exit_code, check.problem) {
            (Some(code), _) => format!("exit code {code}"),
            (None, problem) => problem.unwrap_or("failed").to_owned(),
        };
        let _ = write!(prompt, "\n{}: `{}` ({how})\n", check.name, check.command.trim());
        let output = last_lines(check.output.lines(), TOLD_BYTES, false);
        // A fence that what it printed cannot close.
        let longest = output.split(|c| c != '`').map(str::len).max().unwrap_or(0);
        let fence = "`".repeat(longest.max(2) + 1);
        if !output.is_empty() {
            let _ = write!(prompt, "{fence}\n{output}{fence}\n");
        }
    }
    if failed.len() > TOLD {
        let _ = write!(prompt, "\nAnd {} more.\n", failed.len() - TOLD);
    }
    prompt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_checks_own_end_is_recorded() {
        let ran = |ended| record(Ran { ended, took: Duration::from_secs(2), output: "x\n".to_owned() });
        for (ended, state, code) in [
            (Ended::Code(0), "passed", Some(0)),
            (Ended::Code(3), "failed", Some(3)),
            (Ended::Signal(9), "failed", None),
            (Ended::TooManyProcesses, "failed", None),
            (Ended::TimedOut, "timed_out", None),
        ] {
            let recorded = ran(ended).expect("recorded");
            assert_eq!((recorded.state, recorded.exit_code), (state, code));
            assert_eq!(recorded.problem.is_some(), code.is_none(), "{state}");
        }
        assert_eq!((ran(Ended::Stopped), ran(Ended::Lost)), (None, None));
    }

    #[test]
    fn changes_stand_as_their_worst_check_does() {
        let runs = |states: &[(&'static str, &'static str)]| -> Vec<CheckState<'static>> {
            states.iter().map(|(name, state)| CheckState { name, state }).collect()
        };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (configured, states, expected) in [
            (&[][..], &[][..], Standing::None),
            (&["a"], &[("a", "passed")], Standing::Passed),
            (&[], &[("a", "passed")], Standing::Passed),
            (&["a"], &[], Standing::Pending(names(&["a"]))),
            (&["a", "b"], &[("a", "passed")], Standing::Pending(names(&["b"]))),
            (&["a"], &[("a", "running")], Standing::Pending(names(&["a"]))),
            (&["a"], &[("a", "skipped")], Standing::Pending(names(&["a"]))),
            (&["a", "b"], &[("a", "pending"), ("b", "timed_out")], Standing::Failed(names(&["b"]))),
            (&["a"], &[("a", "error")], Standing::Failed(names(&["a"]))),
        ] {
            let found = standing(configured, &runs(states));
            assert_eq!(found.objection().is_none(), matches!(expected, Standing::None | Standing::Passed));
            assert_eq!(found, expected, "{configured:?} {states:?}");
        }
    }

    #[test]
    fn the_agent_is_told_what_failed_and_how_and_cannot_be_told_more_by_the_output() {
        let failed =
            Failed { name: "test", command: "npm test\n", exit_code: Some(1), problem: None, output: "a\n```\nb" };
        let prompt = feedback_prompt(&[failed], 1, 2);
        assert!(prompt.contains("(sent back 1 of at most 2 times)"), "{prompt}");
        assert!(prompt.ends_with("\ntest: `npm test` (exit code 1)\n````\na\n```\nb\n````\n"), "{prompt}");
        let long = "x\n".repeat(1_000_000);
        let many = [Failed { output: &long, problem: Some("took too long"), exit_code: None, ..failed }; 12];
        let prompt = feedback_prompt(&many, 1, 1);
        assert!(prompt.len() < 200_000 && prompt.ends_with("\nAnd 2 more.\n"), "{}", prompt.len());
    }
}
