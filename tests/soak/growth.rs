//! What was seen of a worker after so many turns, and whether it has grown.

use serde_json::{Value, json};

/// One in so many samples, from the first on, is of a worker that is not warm yet.
const WARM_UP: usize = 3;
/// What the worker's own memory may be more at the end than when it was warm: of 1,000 turns, less than 5 kB each.
const MEMORY_KB: f64 = 3_000.0;
/// The same of descriptors, threads and connections: pools breathe.
const FEW: f64 = 3.0;
/// Servers are recycled when they are idle above 1.5 GB.
const SERVER_KB: u64 = 2_000_000;

/// A worker, when it has nothing to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) turns: u64,
    /// Heap and stacks.
    pub(super) own_kb: u64,
    pub(super) descriptors: u64,
    pub(super) threads: u64,
    /// To the database.
    pub(super) connections: u64,
    /// The agent's servers, with what they share.
    pub(super) server_kb: u64,
    /// Of the whole host: shims, servers, and what turns have left behind.
    pub(super) processes: u64,
}

impl Sample {
    /// The less of each.
    pub(super) fn least(self, other: Self) -> Self {
        Self {
            turns: self.turns,
            own_kb: self.own_kb.min(other.own_kb),
            descriptors: self.descriptors.min(other.descriptors),
            threads: self.threads.min(other.threads),
            connections: self.connections.min(other.connections),
            server_kb: self.server_kb.min(other.server_kb),
            processes: self.processes.min(other.processes),
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let Self { turns, own_kb, descriptors, threads, connections, server_kb, processes } = self;
        format!(
            "soak: {turns:5} turns: worker {own_kb:6} kB, {descriptors} descriptors, {threads} threads, {connections} connections; \
             opencode {server_kb} kB; {processes} processes"
        )
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "turns": self.turns,
            "own_kb": self.own_kb,
            "descriptors": self.descriptors,
            "threads": self.threads,
            "connections": self.connections,
            "server_kb": self.server_kb,
            "processes": self.processes,
        })
    }
}

/// What has grown since everything was warm, in words. By the median of the slopes between all samples, which one that is high or low does not change.
pub(super) fn grown(samples: &[Sample]) -> Vec<String> {
    let warm = &samples[samples.len() / WARM_UP..];
    let mut grown = Vec::new();
    let mut check = |what: &str, of: fn(&Sample) -> u64, room: f64| {
        let more = growth(warm, of);
        if more > room {
            grown
                .push(format!("{what}: {more:.0} more, by the trend of {:?}", warm.iter().map(of).collect::<Vec<_>>()));
        }
    };
    check("the worker's own memory in kB", |sample| sample.own_kb, MEMORY_KB);
    check("its descriptors", |sample| sample.descriptors, FEW);
    check("its threads", |sample| sample.threads, FEW);
    check("its connections", |sample| sample.connections, FEW);
    check("the host's processes", |sample| sample.processes, FEW);
    if let Some(most) = samples.iter().map(|sample| sample.server_kb).max().filter(|most| *most > SERVER_KB) {
        grown.push(format!("opencode was not recycled at {most} kB"));
    }
    grown
}

/// How much more a figure is at the end than at the beginning, by its trend.
#[expect(clippy::cast_precision_loss, reason = "kilobytes and counts")]
fn growth(samples: &[Sample], of: fn(&Sample) -> u64) -> f64 {
    let points: Vec<(f64, f64)> = samples.iter().map(|sample| (sample.turns as f64, of(sample) as f64)).collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return 0.0 };
    let mut slopes = Vec::new();
    for (number, one) in points.iter().enumerate() {
        slopes.extend(points[number + 1..].iter().map(|other| (other.1 - one.1) / (other.0 - one.0)));
    }
    slopes.sort_unstable_by(f64::total_cmp);
    slopes.get(slopes.len() / 2).map_or(0.0, |slope| slope * (last.0 - first.0))
}

#[test]
fn what_grows_is_told_and_what_breathes_is_not() {
    let sample = |turns: u64, each: u64| Sample {
        turns,
        own_kb: 10_000 + turns * each,
        descriptors: 40 + turns * each / 1000,
        threads: 4,
        connections: 6 + turns % 3,
        server_kb: 500_000,
        processes: 5,
    };
    let over = |each: u64| (1..=10).map(|round| sample(round * 100, each)).collect::<Vec<_>>();
    assert_eq!(grown(&over(0)), Vec::<String>::new());
    let told = grown(&over(6));
    assert!(told.len() == 2 && told[0].contains("memory") && told[1].contains("descriptors"), "{told:?}");
    let mut spiked = over(0);
    spiked[8].own_kb += 50_000;
    assert_eq!(grown(&spiked), Vec::<String>::new());
    let mut large = over(0);
    large[4].server_kb = SERVER_KB + 1;
    assert!(grown(&large)[0].contains("recycled"));
}
