//! Whether and when a task is tried again.

use std::time::Duration;

use super::outcome::{Ending, ErrorClass};

/// Bounds on trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Upper bound of the first wait.
    pub backoff_base: Duration,
    /// Upper bound of every wait.
    pub backoff_cap: Duration,
    /// Infrastructure losses after which a person is asked.
    pub max_infra_losses: i32,
    /// Wait after a rate limit that names none.
    pub rate_limit_wait: Duration,
    /// Longest wait that a provider may ask for.
    pub rate_limit_cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            backoff_base: Duration::from_secs(10),
            backoff_cap: Duration::from_secs(600),
            max_infra_losses: 10,
            rate_limit_wait: Duration::from_secs(60),
            rate_limit_cap: Duration::from_secs(6 * 3600),
        }
    }
}

/// How far a task had come when its attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Charged attempts before this one.
    pub attempts: i32,
    /// Charged attempts allowed.
    pub max_attempts: i32,
    /// Infrastructure losses before this one.
    pub infra_losses: i32,
}

/// What becomes of the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done.
    Completed,
    /// Try again after the wait.
    Again {
        /// Not before this long from now.
        wait: Duration,
        /// Counts against `max_attempts`.
        charged: bool,
        /// Counts against the bound on infrastructure losses.
        infra_loss: bool,
        /// The agent may have the prompt's message: continue it instead of sending a new one.
        keep_message: bool,
    },
    /// Final, until a person retries it.
    Failed,
    /// Lost to infrastructure too often: a person should look.
    Blocked,
    /// Somebody has to say that it may go on, or a budget has to.
    Asks,
}

/// Decides what becomes of a task whose attempt ended.
///
/// `billed`: the attempt had answers of the model that cost something. A rate limit counts among the bounded
/// losses then, as going on from there pays for the whole context again. `jitter` is a random number in `0.0..1.0`: waits have full jitter, between nothing and a bound that
/// doubles with each charged attempt.
pub fn decide(ending: &Ending, billed: bool, counts: Counts, policy: &RetryPolicy, jitter: f64) -> Verdict {
    let jittered = |doublings: i32| {
        let bound = policy
            .backoff_base
            .saturating_mul(2_u32.saturating_pow(doublings.clamp(0, 20).unsigned_abs()))
            .min(policy.backoff_cap);
        bound.mul_f64(jitter.clamp(0.0, 1.0))
    };
    match ending.error_class() {
        None => Verdict::Completed,
        Some(ErrorClass::Refused) => Verdict::Failed,
        Some(ErrorClass::AgentFailed) if counts.attempts + 1 >= counts.max_attempts => Verdict::Failed,
        Some(ErrorClass::AgentFailed) => {
            Verdict::Again { wait: jittered(counts.attempts), charged: true, infra_loss: false, keep_message: false }
        }
        Some(ErrorClass::SetupFailed) if counts.attempts + 1 >= counts.max_attempts => Verdict::Failed,
        Some(ErrorClass::SetupFailed) if *ending == (Ending::SetupFailed { again: false }) => Verdict::Failed,
        Some(ErrorClass::SetupFailed) => {
            // Nothing was sent. What an earlier attempt sent, before its worktree was lost, is still gone on with.
            Verdict::Again { wait: jittered(counts.attempts), charged: true, infra_loss: false, keep_message: true }
        }
        Some(ErrorClass::RateLimited) if billed && counts.infra_losses + 1 > policy.max_infra_losses => {
            Verdict::Blocked
        }
        Some(ErrorClass::RateLimited) => {
            let asked = match ending {
                Ending::RateLimited { retry_after_seconds: Some(seconds) } => Duration::from_secs(*seconds),
                _ => policy.rate_limit_wait,
            };
            // Spread those that were all told the same second.
            let spread = policy.backoff_base.mul_f64(jitter.clamp(0.0, 1.0));
            Verdict::Again {
                wait: asked.min(policy.rate_limit_cap) + spread,
                charged: false,
                infra_loss: billed,
                keep_message: false,
            }
        }
        // Nobody's fault, and it goes on where it was as soon as it may.
        Some(ErrorClass::Budget) => Verdict::Asks,
        // Handed back on purpose: nobody's fault, and the next worker should start at once.
        Some(ErrorClass::InfrastructureLost) if *ending == Ending::Aborted => {
            Verdict::Again { wait: Duration::ZERO, charged: false, infra_loss: false, keep_message: true }
        }
        Some(ErrorClass::InfrastructureLost) if *ending == Ending::AsksToResend => Verdict::Asks,
        Some(ErrorClass::InfrastructureLost) if counts.infra_losses + 1 > policy.max_infra_losses => Verdict::Blocked,
        Some(ErrorClass::InfrastructureLost) => Verdict::Again {
            // The first loss costs no time; a host that keeps failing is not hammered.
            wait: if counts.infra_losses == 0 { Duration::ZERO } else { jittered(counts.infra_losses - 1) },
            charged: false,
            infra_loss: true,
            keep_message: true,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        backoff_base: Duration::from_secs(10),
        backoff_cap: Duration::from_secs(60),
        max_infra_losses: 2,
        rate_limit_wait: Duration::from_secs(30),
        rate_limit_cap: Duration::from_secs(100),
    };

    fn counts(attempts: i32, infra_losses: i32) -> Counts {
        Counts { attempts, max_attempts: 3, infra_losses }
    }

    fn wait(verdict: Verdict) -> Option<Duration> {
        match verdict {
            Verdict::Again { wait, .. } => Some(wait),
            _ => None,
        }
    }

    #[test]
    fn charged_attempts_run_out_and_waits_double_up_to_the_cap() {
        let many = Counts { attempts: 0, max_attempts: 100, infra_losses: 0 };
        let waits: Vec<_> = (0..5)
            .map(|n| {
                wait(decide(&Ending::Stalled, false, Counts { attempts: n, ..many }, &POLICY, 1.0)).expect("again")
            })
            .map(|w| w.as_secs())
            .collect();
        assert_eq!(waits, [10, 20, 40, 60, 60]);
        assert_eq!(wait(decide(&Ending::Stalled, false, many, &POLICY, 0.0)), Some(Duration::ZERO));
        assert!(wait(decide(&Ending::Stalled, false, counts(1, 0), &POLICY, 0.5)).is_some());
        assert_eq!(decide(&Ending::Stalled, false, counts(2, 0), &POLICY, 0.5), Verdict::Failed);
    }

    #[test]
    fn refusals_are_final_at_once() {
        for ending in [
            Ending::AgentInvalid,
            Ending::ModelInvalid,
            Ending::AskRejected,
            Ending::ProviderError { status: Some(401) },
            Ending::RepositoryRefused,
        ] {
            assert_eq!(decide(&ending, false, counts(0, 0), &POLICY, 0.5), Verdict::Failed, "{ending:?}");
        }
    }

    #[test]
    fn a_setup_that_failed_is_tried_again_within_the_attempts_and_one_that_cannot_work_is_not() {
        let failed = |again, attempts| decide(&Ending::SetupFailed { again }, false, counts(attempts, 0), &POLICY, 1.0);
        assert!(matches!(
            failed(true, 0),
            Verdict::Again { charged: true, infra_loss: false, keep_message: true, wait } if wait == Duration::from_secs(10)
        ));
        assert_eq!((failed(true, 2), failed(false, 0)), (Verdict::Failed, Verdict::Failed));
    }

    #[test]
    fn rate_limits_wait_as_told_within_a_cap_and_charge_nothing() {
        let told = |seconds| Ending::RateLimited { retry_after_seconds: seconds };
        for (seconds, expected) in [(Some(7), 7), (None, 30), (Some(86_400), 100)] {
            let verdict = decide(&told(seconds), false, counts(2, 9), &POLICY, 0.0);
            assert_eq!(wait(verdict), Some(Duration::from_secs(expected)));
            assert!(matches!(verdict, Verdict::Again { charged: false, infra_loss: false, .. }));
        }
        let paid = decide(&told(None), true, counts(2, 0), &POLICY, 0.0);
        assert!(matches!(paid, Verdict::Again { charged: false, infra_loss: true, keep_message: false, .. }));
        assert_eq!(decide(&told(None), true, counts(0, 2), &POLICY, 0.0), Verdict::Blocked, "not for ever");
    }

    #[test]
    fn infrastructure_losses_are_not_charged_keep_the_message_and_are_bounded() {
        let first = decide(&Ending::ServerLost, false, counts(0, 0), &POLICY, 1.0);
        assert!(matches!(
            first,
            Verdict::Again { wait: Duration::ZERO, charged: false, infra_loss: true, keep_message: true }
        ));
        assert_eq!(decide(&Ending::ServerLost, false, counts(0, 2), &POLICY, 1.0), Verdict::Blocked);
        assert_eq!(decide(&Ending::AsksToResend, false, counts(0, 2), &POLICY, 1.0), Verdict::Asks);
        assert_eq!(decide(&Ending::OverBudget, true, counts(2, 9), &POLICY, 1.0), Verdict::Asks, "whatever was lost");
        assert!(matches!(
            decide(&Ending::Aborted, false, counts(0, 2), &POLICY, 1.0),
            Verdict::Again { infra_loss: false, wait: Duration::ZERO, .. }
        ));
    }
}
