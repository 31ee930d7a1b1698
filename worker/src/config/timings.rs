//! All durations in one place, which tests shorten.

use std::time::Duration;

use crate::model::webhook::Backoff;

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
    /// No event of a turn for this long, while no tool runs: it has stalled.
    pub turn_stall: Duration,
    /// One tool call of a turn.
    pub turn_tool: Duration,
    /// From an ask or question of a turn to its answer, where no person is asked.
    pub turn_answer: Duration,
    /// How long a person may take to answer an ask or question; then it is a no.
    pub person_answer: Duration,
    /// All tries of one model call together.
    pub turn_retry: Duration,
    /// Silence of a provider, before or during its answer, after which the agent asks it again.
    pub provider_silence: Duration,
    /// A whole turn.
    pub turn_limit: Duration,
    /// The setup command of a new worktree.
    pub setup: Duration,
    /// One check of what a turn changed, unless the check says otherwise.
    pub check: Duration,
    /// Between looks for changes to check.
    pub check_poll: Duration,
    /// From starting an agent server to its being healthy.
    pub server_start: Duration,
    /// One request to an agent server.
    pub server_request: Duration,
    /// How long an agent server may not answer before it is given up.
    pub server_grace: Duration,
    /// An agent server that is not used for this long is ended.
    pub server_idle: Duration,
    /// A worktree that is not used for this long is let go of by its agent server.
    pub directory_idle: Duration,
    /// An agent server older than this is replaced when it is idle.
    pub server_age: Duration,
    /// How long turns may go on that keep an agent server from being replaced.
    pub server_drain: Duration,
    /// How long a project waits for an agent server before the longest-serving one makes room.
    pub server_patience: Duration,
    /// Between looks after the agent servers.
    pub tend: Duration,
    /// Between looks which agent servers run, to be shown.
    pub tell: Duration,
    /// From asking a process to end to killing it.
    pub kill_grace: Duration,
    /// How long an idle agent server whose worker died waits for the next worker. One with turns: as long as its leases.
    pub adopt_grace: Duration,
    /// How long turns may go on after a worker was told to stop.
    pub drain: Duration,
    /// How long an apply waits for a lock of the user's git.
    pub apply_lock: Duration,
    /// Between looks for applies that were interrupted.
    pub settle_applies: Duration,
    /// Between looks whether open change sets would still apply.
    pub forecast: Duration,
    /// Between looks at a remote for that.
    pub forecast_fetch: Duration,
    /// Between looks for worktrees that nobody needs.
    pub reap: Duration,
    /// From a session's being closed or deleted to its worktree's going.
    pub reap_grace: Duration,
    /// Before what could not be reaped is tried again.
    pub reap_retry: Duration,
    /// How long the trash is kept.
    pub trash_kept: Duration,
    /// Between rounds of taking away what is old.
    pub prune: Duration,
    /// Between looks at what agents a host can run.
    pub probe: Duration,
    /// How long a host has no worker before another takes over its sessions; zero: never.
    pub rehome: Duration,
    /// Between looks for new items that webhooks are to be told of, and for deliveries that are due.
    pub notify: Duration,
    /// How far behind its watermark the notifier looks: what took so long to be committed is not missed.
    pub notify_overlap: Duration,
    /// One post to a webhook, from looking its name up to its answer.
    pub webhook_timeout: Duration,
    /// Upper bound of the first wait after a post that failed.
    pub webhook_backoff: Duration,
    /// Upper bound of every such wait.
    pub webhook_backoff_cap: Duration,
    /// How long a link that logs a browser in is good.
    pub login_code: Duration,
    /// How long a browser stays logged in.
    pub browser_login: Duration,
    /// Between looks whether whoever follows a stream of the API may still do so.
    pub access_recheck: Duration,
    /// Between looks for what followed tasks said.
    pub viewer_poll: Duration,
    /// Between comments on a stream on which nothing comes.
    pub viewer_beat: Duration,
    /// Between looks at the whole fleet, while anybody follows it.
    pub fleet_poll: Duration,
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
            turn_tool: Duration::from_secs(3600),
            turn_answer: Duration::from_secs(60),
            person_answer: Duration::from_secs(3600),
            turn_retry: Duration::from_secs(300),
            provider_silence: Duration::from_secs(120),
            turn_limit: Duration::from_secs(4 * 3600),
            setup: Duration::from_secs(900),
            check: Duration::from_secs(1800),
            check_poll: Duration::from_secs(2),
            server_start: Duration::from_secs(60),
            server_request: Duration::from_secs(30),
            server_grace: Duration::from_secs(20),
            server_idle: Duration::from_secs(1800),
            directory_idle: Duration::from_secs(900),
            server_age: Duration::from_secs(24 * 3600),
            server_drain: Duration::from_secs(600),
            server_patience: Duration::from_secs(60),
            tend: Duration::from_secs(30),
            tell: Duration::from_secs(5),
            kill_grace: Duration::from_secs(2),
            adopt_grace: Duration::from_secs(60),
            drain: Duration::from_secs(30),
            apply_lock: Duration::from_secs(5),
            settle_applies: Duration::from_secs(30),
            forecast: Duration::from_secs(5),
            forecast_fetch: Duration::from_secs(300),
            reap: Duration::from_secs(60),
            reap_grace: Duration::from_secs(3600),
            reap_retry: Duration::from_secs(600),
            trash_kept: Duration::from_secs(7 * 86_400),
            prune: Duration::from_secs(600),
            probe: Duration::from_secs(600),
            rehome: Duration::from_secs(900),
            notify: Duration::from_secs(2),
            notify_overlap: Duration::from_secs(600),
            webhook_timeout: Duration::from_secs(15),
            webhook_backoff: Duration::from_secs(10),
            webhook_backoff_cap: Duration::from_secs(6 * 3600),
            login_code: Duration::from_secs(600),
            browser_login: Duration::from_secs(30 * 86_400),
            access_recheck: Duration::from_secs(30),
            viewer_poll: Duration::from_millis(100),
            viewer_beat: Duration::from_secs(15),
            fleet_poll: Duration::from_secs(1),
        }
    }
}

impl Timings {
    /// How long deliveries to webhooks wait for their next try.
    pub fn webhook_waits(&self) -> Backoff {
        Backoff { base: self.webhook_backoff, cap: self.webhook_backoff_cap }
    }
}
