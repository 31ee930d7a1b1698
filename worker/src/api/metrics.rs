//! What Prometheus reads.

use std::fmt::Write as _;

use axum::{
    extract::State,
    http::{HeaderName, header},
};

use super::{Api, problem::Problem};
use crate::{
    actions::{self, Activity},
    store::reads::LiveWorker,
};

/// Turns that are looked at; their number is what counts.
const TURNS: i64 = 10_000;
/// The form of the text.
const FORM: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Read figures as Prometheus takes them.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, description = "Figures", body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(api): State<Api>) -> Result<([(HeaderName, &'static str); 1], String), Problem> {
    let activity = actions::activity(&api.store, TURNS, api.window()).await?;
    let (dead, off) = api.store.webhook_trouble().await?;
    let oldest = api.store.oldest_due().await?.map_or(0.0, |waited| waited.as_secs_f64());
    Ok(([(header::CONTENT_TYPE, FORM)], text(&activity, dead, off, oldest)))
}

fn text(activity: &Activity, dead: i64, off: i64, oldest_seconds: f64) -> String {
    let mut text = String::new();
    let mut one = |name: &str, kind: &str, about: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "# HELP {name} {about}\n# TYPE {name} {kind}\n{name} {value}");
    };
    let waiting = &activity.waiting;
    one(
        "millhand_tasks_pending",
        "gauge",
        "Tasks that could run, or wait for a time, a host or a budget.",
        &waiting.pending,
    );
    one("millhand_tasks_waiting", "gauge", "Tasks behind another of their session.", &waiting.waiting);
    one(
        "millhand_tasks_oldest_due_seconds",
        "gauge",
        "How long the oldest task that could run has waited.",
        &oldest_seconds,
    );
    one("millhand_turns_running", "gauge", "Turns that run.", &activity.turns.len());
    one("millhand_inbox_items", "gauge", "What needs a person.", &waiting.inbox);
    one("millhand_cost_today_usd", "gauge", "Known cost of this day (UTC), in USD.", &waiting.today_usd);
    one("millhand_tokens_today", "gauge", "Tokens of this day (UTC).", &waiting.today_tokens);
    one("millhand_deliveries_dead", "gauge", "Deliveries to webhooks that were given up.", &dead);
    one("millhand_webhooks_off", "gauge", "Webhooks that their receivers had turned off.", &off);
    of_workers(&mut text, &activity.workers);
    text
}

fn of_workers(text: &mut String, workers: &[LiveWorker]) {
    let name = "millhand_worker_up";
    let _ = writeln!(text, "# HELP {name} Workers heard of lately.\n# TYPE {name} gauge");
    for worker in workers {
        let (host, version) = (escaped(&worker.host_id), escaped(&worker.version));
        let _ = writeln!(
            text,
            "{name}{{host=\"{host}\",hostname=\"{}\",version=\"{version}\"}} 1",
            escaped(&worker.hostname)
        );
    }
    type Figure = fn(&LiveWorker) -> i64;
    let figures: [(&str, &str, Figure); 3] = [
        ("millhand_worker_capacity", "Turns that a worker runs at once.", |worker| worker.capacity.into()),
        ("millhand_worker_running", "Turns that a worker runs.", |worker| worker.running),
        ("millhand_worker_draining", "Whether a worker takes no more tasks.", |worker| worker.draining.into()),
    ];
    for (name, about, figure) in figures {
        let _ = writeln!(text, "# HELP {name} {about}\n# TYPE {name} gauge");
        for worker in workers {
            let _ = writeln!(text, "{name}{{host=\"{}\"}} {}", escaped(&worker.host_id), figure(worker));
        }
    }
    let name = "millhand_worker_events_total";
    let _ =
        writeln!(text, "# HELP {name} What a worker has done since it started, by what it was.\n# TYPE {name} counter");
    for worker in workers {
        for (what, count) in worker.counters.as_object().into_iter().flatten() {
            // `finished.completed` is one of `finished`.
            let (event, of) = what.split_once('.').unwrap_or((what, ""));
            let count = count.as_u64().or_else(|| count.as_f64().map(|count| count as u64)).unwrap_or(0);
            let host = escaped(&worker.host_id);
            let _ =
                writeln!(text, "{name}{{host=\"{host}\",event=\"{}\",of=\"{}\"}} {count}", escaped(event), escaped(of));
        }
    }
}

/// A label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::fleet::Waiting;

    #[test]
    fn each_figure_has_its_head_once_and_labels_are_escaped() {
        let worker = LiveWorker {
            id: uuid::Uuid::nil(),
            host_id: "a\"b\\c".to_owned(),
            hostname: "one\ntwo".to_owned(),
            version: "0.1.0".to_owned(),
            capacity: 8,
            draining: false,
            started_at: chrono::DateTime::UNIX_EPOCH,
            heartbeat_at: chrono::DateTime::UNIX_EPOCH,
            counters: json!({ "claimed": 3, "finished.completed": 2 }),
            running: 1,
        };
        let cost = "1.25".parse().expect("decimal");
        let waiting = Waiting { pending: 1, waiting: 2, inbox: 3, today_usd: cost, today_tokens: 4 };
        let activity = Activity { workers: vec![worker.clone(), worker], turns: Vec::new(), waiting };
        let text = text(&activity, 0, 0, 1.5);
        assert!(text.contains("\nmillhand_cost_today_usd 1.25\n"), "{text}");
        assert!(text.contains("{host=\"a\\\"b\\\\c\",event=\"finished\",of=\"completed\"} 2\n"), "{text}");
        assert!(text.contains("hostname=\"one\\ntwo\""), "{text}");
        let mut heads: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let count = heads.len();
        heads.dedup();
        assert_eq!((count, heads.len()), (14, 14), "{text}");
        assert!(text.lines().all(|line| line.starts_with('#') || line.split_whitespace().count() >= 2), "{text}");
    }
}
