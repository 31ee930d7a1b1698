//! Agents that go in circles: the same tool calls with the same results, one after another. Pure.
//!
//! opencode looks for that only within one message. The results count too: who asks every minute whether something is done
//! waits, and does not go in circles, as soon as the answer changes.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use super::wire::Part;

/// A circle has at most so many calls.
const LONGEST: usize = 3;
/// Calls that are remembered of a conversation.
const REMEMBERED: usize = 100;

/// The calls of a turn, by conversation.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    seen: HashSet<String>,
    calls: HashMap<String, VecDeque<u64>>,
    most: u32,
}

impl Repeats {
    /// Takes a tool call; only ended ones count, and each once. Says how often the same came in a row.
    pub(super) fn take(&mut self, session: &str, part: &Part) -> u32 {
        let ended = matches!(part.state.status.as_str(), "completed" | "error");
        if ended && self.seen.insert(part.id.clone()) {
            let calls = self.calls.entry(session.to_owned()).or_default();
            if calls.len() == REMEMBERED {
                calls.pop_front();
            }
            calls.push_back(fingerprint(part));
            self.most = (1..=LONGEST).map(|circle| rounds(calls, circle)).max().unwrap_or(0);
        }
        self.most
    }
}

/// How often the last calls, so many of them, came in a row.
fn rounds(calls: &VecDeque<u64>, circle: usize) -> u32 {
    let alike = calls.iter().rev().zip(calls.iter().rev().skip(circle)).take_while(|(a, b)| a == b).count();
    u32::try_from(alike / circle).unwrap_or(u32::MAX).saturating_add(1)
}

fn fingerprint(part: &Part) -> u64 {
    let mut hasher = DefaultHasher::new();
    let state = &part.state;
    (&part.tool, state.input.to_string(), &state.output, &state.error).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::opencode::wire::ToolState;

    fn calls(outputs: &[&str]) -> u32 {
        let mut repeats = Repeats::default();
        let mut times = 0;
        for (n, output) in outputs.iter().enumerate() {
            for status in ["running", "completed", "completed"] {
                let state =
                    ToolState { status: status.to_owned(), output: Some((*output).to_owned()), ..ToolState::default() };
                let part = Part { id: n.to_string(), tool: "bash".to_owned(), state, ..Part::default() };
                times = repeats.take("s", &part);
            }
        }
        times
    }

    #[test]
    fn only_calls_that_end_alike_again_and_again_are_a_circle() {
        assert_eq!(calls(&["a"]), 1);
        assert_eq!(calls(&["a", "a", "a"]), 3);
        assert_eq!(calls(&["a", "b", "c", "d"]), 1);
        assert_eq!(calls(&["a", "a", "a", "b"]), 1, "it has changed");
        assert_eq!(calls(&["a", "b", "a", "b", "a", "b"]), 3);
        assert_eq!(calls(&["x", "a", "b", "c", "a", "b", "c"]), 2);
        assert_eq!(calls(&["a", "b", "c", "d", "a", "b", "c", "d"]), 1, "too large a circle");
        assert!(calls(&["a"; 500]) > 90, "what is remembered is bounded");
    }
}
