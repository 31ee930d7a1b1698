//! Why a task does not run yet: a pure function of the task and of who could run it.

use crate::{
    config::duration,
    store::reads::{AgentRow, LiveWorker, TaskRow},
};

/// Who could run something.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fleet {
    /// Workers heard of lately.
    pub workers: Vec<LiveWorker>,
    /// What hosts can run, as they last said.
    pub agents: Vec<AgentRow>,
    /// Limits that are reached: the project, or none for all, and in words.
    pub over_budget: Vec<(Option<String>, String)>,
}

impl Fleet {
    /// Workers that take tasks.
    fn taking(&self) -> impl Iterator<Item = &LiveWorker> {
        self.workers.iter().filter(|worker| !worker.draining)
    }

    /// A host that has not said what it can run is taken to be able to.
    fn can_run(&self, host: &str, agent: &str) -> bool {
        self.agents.iter().find(|row| row.host_id == host && row.agent == agent).is_none_or(|row| row.installed)
    }
}

/// Why the task does not run; none if it runs, or has come to rest.
pub fn why(task: &TaskRow, fleet: &Fleet) -> Option<String> {
    match task.state.as_str() {
        "waiting" => Some(in_line(task, fleet)),
        "pending" => Some(as_head(task, fleet)),
        "running" if task.cancel_requested_at.is_some() => Some("is being cancelled".to_owned()),
        _ => None,
    }
}

fn in_line(task: &TaskRow, fleet: &Fleet) -> String {
    match (&task.place.head, task.place.holder_id) {
        (Some((id, state)), _) if state == "blocked" => format!("behind t{id}, which needs a person"),
        (Some((id, _)), _) => format!("behind t{id}"),
        (None, Some(id)) => format!("held by failed t{id}: retry or dismiss it"),
        (None, None) => able(task, fleet).unwrap_or_else(|| "next in its line".to_owned()),
    }
}

fn as_head(task: &TaskRow, fleet: &Fleet) -> String {
    // Parts of a second are noise, and "in 0s" reads like a mistake.
    let due = std::time::Duration::from_secs(task.place.due_in.as_secs() + 1);
    if !task.place.due_in.is_zero() {
        let left = duration::render(due);
        return match task.error_class.as_deref() {
            Some("rate_limited") => format!("rate limited, again in {left}"),
            Some(_) => format!("backoff, again in {left}"),
            None => format!("starts in {left}"),
        };
    }
    let limit = fleet.over_budget.iter().find(|(project, _)| project.as_ref().is_none_or(|its| *its == task.project));
    if let Some((_, says)) = limit {
        return says.clone();
    }
    able(task, fleet).unwrap_or_else(|| "waits for a free worker".to_owned())
}

/// Why nobody can run it now.
fn able(task: &TaskRow, fleet: &Fleet) -> Option<String> {
    let agent = task.agent.split('/').next().unwrap_or_default();
    if fleet.workers.is_empty() {
        return Some("no worker is running: millhand up".to_owned());
    }
    if fleet.taking().next().is_none() {
        return Some("every worker is stopping".to_owned());
    }
    if let Some(host) = &task.place.needs_host {
        let mut there = fleet.taking().filter(|worker| worker.host_id == *host);
        if there.next().is_none() {
            return Some(format!("its host {host} has no worker"));
        }
        return (!fleet.can_run(host, agent)).then(|| format!("its host {host} has no agent {agent}"));
    }
    (!fleet.taking().any(|worker| fleet.can_run(&worker.host_id, agent))).then(|| format!("no host has agent {agent}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::DateTime;

    use super::*;
    use crate::store::reads::TaskPlace;

    fn task(state: &str, place: TaskPlace) -> TaskRow {
        TaskRow {
            id: 42,
            project: "acme".to_owned(),
            session_id: 7,
            chat_id: 9,
            prompt: "x".to_owned(),
            agent: "opencode/plan".to_owned(),
            model: None,
            variant: None,
            state: state.to_owned(),
            priority: 0,
            run_at: DateTime::UNIX_EPOCH,
            attempts: 0,
            max_attempts: 3,
            infra_losses: 0,
            last_attempt: 0,
            idempotency_key: None,
            parent_task_id: None,
            cancel_requested_at: None,
            dismissed_at: None,
            output_summary: None,
            error_class: None,
            error_message: None,
            tokens: 0,
            cost_usd: rust_decimal::Decimal::ZERO,
            created_at: DateTime::UNIX_EPOCH,
            started_at: None,
            finished_at: None,
            holds_line: false,
            unknown_steps: 0,
            merge_commit: None,
            merge_branch: None,
            place,
        }
    }

    fn worker(host: &str, draining: bool) -> LiveWorker {
        LiveWorker {
            id: uuid::Uuid::nil(),
            host_id: host.to_owned(),
            hostname: host.to_owned(),
            version: String::new(),
            capacity: 1,
            draining,
            started_at: DateTime::UNIX_EPOCH,
            heartbeat_at: DateTime::UNIX_EPOCH,
            counters: serde_json::Value::Null,
            running: 0,
        }
    }

    fn agent(host: &str, installed: bool) -> AgentRow {
        AgentRow {
            host_id: host.to_owned(),
            agent: "opencode".to_owned(),
            backend: "opencode".to_owned(),
            installed,
            version: None,
            problem: None,
            models: serde_json::Value::Null,
            probed_at: DateTime::UNIX_EPOCH,
        }
    }

    fn fleet(workers: &[LiveWorker], agents: &[AgentRow]) -> Fleet {
        Fleet { workers: workers.to_vec(), agents: agents.to_vec(), over_budget: Vec::new() }
    }

    #[test]
    fn a_task_in_line_names_what_is_in_front_of_it() {
        let at = |head: Option<(i64, &str)>, holder_id| TaskPlace {
            head: head.map(|(id, state)| (id, state.to_owned())),
            holder_id,
            ..TaskPlace::default()
        };
        let up = fleet(&[worker("h1", false)], &[]);
        let says = |place| why(&task("waiting", place), &up).expect("why");
        assert_eq!(says(at(Some((41, "running")), None)), "behind t41");
        assert_eq!(says(at(Some((41, "blocked")), None)), "behind t41, which needs a person");
        assert_eq!(says(at(None, Some(40))), "held by failed t40: retry or dismiss it");
        assert_eq!(says(at(None, None)), "next in its line");
    }

    #[test]
    fn a_head_says_what_keeps_it_from_being_claimed() {
        let now = TaskPlace::default();
        let homed = TaskPlace { needs_host: Some("h1".to_owned()), ..TaskPlace::default() };
        let says = |place: &TaskPlace, fleet: &Fleet| why(&task("pending", place.clone()), fleet).expect("why");
        assert_eq!(says(&now, &Fleet::default()), "no worker is running: millhand up");
        assert_eq!(says(&now, &fleet(&[worker("h1", true)], &[])), "every worker is stopping");
        assert_eq!(says(&now, &fleet(&[worker("h1", false)], &[agent("h1", false)])), "no host has agent opencode");
        assert_eq!(says(&now, &fleet(&[worker("h1", false)], &[agent("h1", true)])), "waits for a free worker");
        assert_eq!(says(&homed, &fleet(&[worker("h2", false)], &[])), "its host h1 has no worker");
        assert_eq!(
            says(&homed, &fleet(&[worker("h1", false)], &[agent("h1", false), agent("h2", true)])),
            "its host h1 has no agent opencode"
        );

        let mut spent = fleet(&[worker("h1", false)], &[]);
        spent.over_budget = vec![(Some("other".to_owned()), "other's".to_owned())];
        assert_eq!(says(&now, &spent), "waits for a free worker");
        spent.over_budget.push((None, "over budget: all projects".to_owned()));
        assert_eq!(says(&now, &spent), "over budget: all projects");

        let mut later = task("pending", TaskPlace { due_in: Duration::from_secs(90), ..TaskPlace::default() });
        assert_eq!(why(&later, &Fleet::default()).as_deref(), Some("starts in 1m 31s"));
        later.error_class = Some("agent_failed".to_owned());
        assert_eq!(why(&later, &Fleet::default()).as_deref(), Some("backoff, again in 1m 31s"));
        later.error_class = Some("rate_limited".to_owned());
        assert_eq!(why(&later, &Fleet::default()).as_deref(), Some("rate limited, again in 1m 31s"));
        assert_eq!(why(&task("completed", now), &Fleet::default()), None);
    }
}
