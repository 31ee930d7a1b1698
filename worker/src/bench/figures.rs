//! Samples and what is said of them.

use std::time::Duration;

use serde::Serialize;

/// A measured figure, as a table row and as a JSON line.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Which part of the benchmark.
    pub group: &'static str,
    /// What was measured.
    pub name: String,
    /// Median, or the only value.
    pub p50: f64,
    /// 99th percentile, where there are samples.
    pub p99: Option<f64>,
    /// Unit of both.
    pub unit: &'static str,
    /// How many samples.
    pub samples: usize,
    /// The aim, in words.
    pub aim: Option<&'static str>,
}

impl Figure {
    /// A figure that is one number.
    pub fn value(group: &'static str, name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { group, name: name.into(), p50: value, p99: None, unit, samples: 1, aim: None }
    }

    /// How many times as long the one takes as the other, by their medians. Not a number, which JSON shows as null, without samples.
    pub fn ratio(group: &'static str, name: impl Into<String>, one: &Samples, other: &Samples) -> Self {
        let ratio = if other.median_ms() > 0.0 { one.median_ms() / other.median_ms() } else { f64::NAN };
        Self { samples: one.len().min(other.len()), ..Self::value(group, name, ratio, "×") }
    }

    /// What one takes longer than the other, sample by sample, in milliseconds; below zero where it took less.
    pub fn difference(group: &'static str, name: impl Into<String>, one: &Samples, other: &Samples) -> Self {
        let ms: Vec<f64> =
            one.0.iter().zip(&other.0).map(|(one, other)| (one.as_secs_f64() - other.as_secs_f64()) * 1e3).collect();
        Self::of_numbers(group, name, ms, "ms")
    }

    /// Median and 99th percentile of numbers.
    pub fn of_numbers(group: &'static str, name: impl Into<String>, mut numbers: Vec<f64>, unit: &'static str) -> Self {
        numbers.sort_unstable_by(f64::total_cmp);
        let at = |share| rank(numbers.len(), share).and_then(|rank| numbers.get(rank)).copied();
        let p50 = at(0.5).unwrap_or(f64::NAN);
        Self { group, name: name.into(), p50, p99: at(0.99), unit, samples: numbers.len(), aim: None }
    }

    /// Adds the aim.
    #[must_use]
    pub fn aim(mut self, aim: &'static str) -> Self {
        self.aim = Some(aim);
        self
    }
}

/// The place of the sample below which this share of all lies (nearest rank).
fn rank(samples: usize, share: f64) -> Option<usize> {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank among few samples"
    )]
    let rank = ((samples as f64) * share).ceil() as usize;
    (samples > 0).then(|| rank.saturating_sub(1))
}

/// Durations of the same thing done again and again.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sample below which this share of all lies (nearest rank); none of nothing.
    pub fn percentile(&self, share: f64) -> Option<Duration> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get(rank(sorted.len(), share)?).copied()
    }

    /// The median, in milliseconds.
    pub fn median_ms(&self) -> f64 {
        self.percentile(0.5).unwrap_or_default().as_secs_f64() * 1e3
    }

    /// As a figure in milliseconds.
    pub fn figure(&self, group: &'static str, name: impl Into<String>) -> Figure {
        Figure {
            group,
            name: name.into(),
            p50: self.median_ms(),
            p99: self.percentile(0.99).map(|d| d.as_secs_f64() * 1e3),
            unit: "ms",
            samples: self.len(),
            aim: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let mut samples = Samples::default();
        assert_eq!(samples.percentile(0.5), None);
        for ms in (1..=100).rev() {
            samples.push(Duration::from_millis(ms));
        }
        assert_eq!(samples.percentile(0.5), Some(Duration::from_millis(50)));
        assert_eq!(samples.percentile(0.99), Some(Duration::from_millis(99)));
        assert_eq!(samples.percentile(1.0), Some(Duration::from_millis(100)));
        assert!((samples.median_ms() - 50.0).abs() < 1e-9);
    }

    fn samples(ms: &[u64]) -> Samples {
        Samples(ms.iter().copied().map(Duration::from_millis).collect())
    }

    #[test]
    fn a_difference_pairs_samples_and_may_be_negative() {
        let difference = Figure::difference("g", "n", &samples(&[10, 20, 31]), &samples(&[12, 15, 1]));
        assert!((difference.p50 - 5.0).abs() < 1e-9, "{difference:?}");
        assert!((difference.p99.expect("p99") - 30.0).abs() < 1e-9);
        assert!(Figure::difference("g", "n", &samples(&[5]), &samples(&[7])).p50 < 0.0);
        assert_eq!(Figure::difference("g", "n", &samples(&[1, 2]), &samples(&[1])).samples, 1);
    }

    #[test]
    fn nothing_measured_is_no_figure() {
        assert!(Figure::ratio("g", "n", &samples(&[5]), &samples(&[])).p50.is_nan());
        assert!(Figure::difference("g", "n", &samples(&[]), &samples(&[])).p50.is_nan());
        assert!((Figure::ratio("g", "n", &samples(&[90]), &samples(&[10])).p50 - 9.0).abs() < 1e-9);
    }
}
