//! The one place that ends an attempt.

use super::{
    Performed, Turns,
    lease::Lease,
    persist::{KEEP_TRYING, pauses},
};
use crate::{
    model::{outcome::Ending, retry},
    store::queue::{Claimed, Finish, Finished},
};

/// Longest text that is kept of an error.
const ERROR_CHARS: usize = 4_000;
/// Longest text that is kept of the agent's last words.
const SUMMARY_CHARS: usize = 2_000;

/// Records how an attempt ended, trying again while the database cannot be reached.
pub(super) async fn finish(turns: &Turns, claimed: &Claimed, lease: &Lease, performed: &Performed) {
    let verdict = retry::decide(&performed.ending, performed.billed, claimed.counts, &turns.retry, rand::random());
    let error = (performed.ending != Ending::Completed).then(|| shorten(&performed.error, ERROR_CHARS));
    let summary = performed.summary.as_deref().map(|text| shorten(text, SUMMARY_CHARS));
    let finish = Finish {
        token: lease.token(),
        outcome: performed.ending.as_str(),
        error_class: performed.ending.error_class(),
        error_message: error.as_deref(),
        verdict,
        summary: summary.as_deref(),
        host_id: &turns.host_id,
    };
    let mut pauses = pauses();
    let began = tokio::time::Instant::now();
    loop {
        match turns.store.finish(&finish).await {
            Ok(Finished::Recorded(state)) => {
                tracing::info!(outcome = performed.ending.as_str(), state, "turn over");
                return;
            }
            Ok(Finished::Fenced) => {
                tracing::warn!(outcome = performed.ending.as_str(), "another worker has the task: result discarded");
                return;
            }
            Err(error) if error.is_unreachable() && began.elapsed() < KEEP_TRYING => {
                tracing::debug!(%error, "the result could not be recorded yet");
                tokio::time::sleep(pauses.next().unwrap_or_default()).await;
            }
            Err(error) => {
                // The lease runs out, and the task is rescued: nothing is lost but this attempt.
                tracing::error!(%error, outcome = performed.ending.as_str(), "the result could not be recorded");
                return;
            }
        }
    }
}

/// Cuts a text to a number of characters, marking the cut; NUL becomes U+FFFD.
fn shorten(text: &str, limit: usize) -> String {
    let clean = crate::store::without_nul(text);
    match clean.char_indices().nth(limit) {
        Some((at, _)) => format!("{}…", &clean[..at]),
        None => clean.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::shorten;

    #[test]
    fn long_texts_are_cut_at_a_character_and_marked() {
        assert_eq!(shorten("äöü", 2), "äö…");
        assert_eq!(shorten("äöü", 3), "äöü");
        assert_eq!(shorten("a\0b", 9), "a\u{fffd}b");
    }
}
