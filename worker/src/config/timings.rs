//! All durations in one place, which tests shorten.

use std::time::Duration;

/// Every wait, interval and deadline of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// How long a lease lives without a heartbeat.
    pub lease: Duration,
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// Shortest wait of the fallback poll, used while there is work.
    pub poll_min: Duration,
    /// Longest wait of the fallback poll, reached while nothing happens.
    pub poll_max: Duration,
    /// Between rescues of expired leases.
    pub rescue: Duration,
    /// Between queries that prove the listening connection alive.
    pub listen_check: Duration,
    /// Between looks at what the agent's server says of a turn, beside its stream.
    pub settle_poll: Duration,
    /// Silence on an agent server's event stream after which it is opened again (it beats every 10 s).
    pub stream_silence: Duration,
    /// From a prompt being taken to the first sign of a turn.
    pub turn_start: Duration,
    /// No event of a turn for this long: it has stalled.
    pub turn_stall: Duration,
    /// A whole turn.
    pub turn_limit: Duration,
    /// From starting an agent server to its being healthy.
    pub server_start: Duration,
    /// One request to an agent server.
    pub server_request: Duration,
    /// From asking a process to end to killing it.
    pub kill_grace: Duration,
    /// How long turns may go on after a worker was told to stop.
    pub drain: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(20),
            heartbeat: Duration::from_secs(5),
            poll_min: Duration::from_millis(500),
            poll_max: Duration::from_secs(10),
            rescue: Duration::from_secs(5),
            listen_check: Duration::from_secs(5),
            settle_poll: Duration::from_secs(5),
            stream_silence: Duration::from_secs(25),
            turn_start: Duration::from_secs(60),
            turn_stall: Duration::from_secs(600),
            turn_limit: Duration::from_secs(4 * 3600),
            server_start: Duration::from_secs(60),
            server_request: Duration::from_secs(30),
            kill_grace: Duration::from_secs(2),
            drain: Duration::from_secs(30),
        }
    }
}
