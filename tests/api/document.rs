//! The document: it is the committed one, and it has every route.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use anyhow::Result;
use serde_json::Value;

use crate::support::millhand;

/// Which operations do what a command does. Those without one are about the machine that they are typed on: its programs, its processes, its
/// terminal, and the links that let a browser in.
const COMMANDS: &[(&str, &[&str])] = &[
    ("answer", &["inbox_answer"]),
    ("api", &[]),
    ("apply", &["changes_apply"]),
    ("attach", &["tasks_stream"]),
    ("bench", &[]),
    ("budget", &["costs_budgets"]),
    ("budget-clear", &["costs_clear_budgets"]),
    ("budget-price", &["costs_prices", "costs_set_price", "costs_clear_price"]),
    ("budget-set", &["costs_set_budgets"]),
    ("cancel", &["tasks_cancel"]),
    ("check", &["projects_checks"]),
    ("check-add", &["projects_add_check"]),
    ("check-ls", &["projects_checks"]),
    ("check-rm", &["projects_remove_check"]),
    ("check-run", &["changes_run_checks"]),
    ("check-show", &["changes_checks"]),
    ("checkpoints", &["sessions_checkpoints"]),
    ("close", &["sessions_close"]),
    ("completions", &[]),
    ("db", &[]),
    ("db-psql", &[]),
    ("db-url", &[]),
    ("demo", &[]),
    ("diff", &["changes_patch", "changes_interdiff"]),
    ("dismiss", &["tasks_dismiss", "tasks_dismiss_many"]),
    ("doctor", &[]),
    ("down", &[]),
    ("forecast", &["changes_forecasts"]),
    ("inbox", &["inbox_list", "inbox_asks"]),
    ("ls", &["tasks_list", "sessions_list"]),
    ("man", &[]),
    ("migrate", &[]),
    ("models", &["fleet_agents"]),
    ("project", &["projects_list"]),
    ("project-add", &["projects_add_project"]),
    ("project-ls", &["projects_list"]),
    ("project-rm", &["projects_remove_project"]),
    ("project-set", &["projects_set_project"]),
    ("reject", &["changes_reject"]),
    ("reopen", &["sessions_reopen"]),
    ("retry", &["tasks_retry", "tasks_retry_many"]),
    ("review", &["changes_show", "changes_comment", "changes_interdiff", "changes_looked"]),
    ("rollback", &["sessions_rollback"]),
    ("run", &["tasks_create"]),
    ("send", &["sessions_send", "sessions_send_review", "sessions_send_conflicts"]),
    ("setup", &[]),
    ("show", &["tasks_show", "sessions_show", "tasks_events"]),
    ("stats", &["costs_costs"]),
    ("stats-costs", &["costs_costs"]),
    ("status", &["fleet_overview", "fleet_workers", "fleet_servers"]),
    ("token", &["access_list"]),
    ("token-add", &["access_add"]),
    ("token-login", &[]),
    ("token-ls", &["access_list"]),
    ("token-rm", &["access_revoke"]),
    ("top", &["fleet_activity", "fleet_stream"]),
    ("uninstall", &[]),
    ("up", &[]),
    ("webhook", &["webhooks_list"]),
    ("webhook-add", &["webhooks_add"]),
    ("webhook-deliveries", &["webhooks_deliveries"]),
    ("webhook-disable", &["webhooks_switch"]),
    ("webhook-enable", &["webhooks_switch"]),
    ("webhook-ls", &["webhooks_list"]),
    ("webhook-retry", &["webhooks_retry"]),
    ("webhook-rm", &["webhooks_remove"]),
    ("webhook-test", &["webhooks_test"]),
    ("worker", &[]),
    ("worktree", &["fleet_worktrees"]),
    ("worktree-ls", &["fleet_worktrees"]),
    ("worktree-reap", &["fleet_reap"]),
    ("worktree-restore", &["fleet_restore"]),
];

fn committed() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../web/openapi.json")
}

#[test]
fn the_committed_document_is_the_one_that_is_served() {
    let served = serde_json::to_string_pretty(&millhand::api::document()).expect("JSON") + "\n";
    if std::env::var_os("MILLHAND_WRITE_OPENAPI").is_some() {
        fs::write(committed(), &served).expect("web/openapi.json");
    }
    let found = fs::read_to_string(committed()).unwrap_or_default();
    assert!(found == served, "web/openapi.json is not what is served; write it anew: MILLHAND_WRITE_OPENAPI=1");
}

#[test]
fn every_route_is_in_the_document_once_with_its_scope() {
    let document = millhand::api::document();
    let mut ids = BTreeSet::new();
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            described.insert((method.to_uppercase(), path.clone()));
            let id = operation["operationId"].as_str().expect("an id").to_owned();
            assert!(ids.insert(id.clone()), "{id} is there twice");
            assert!(operation["summary"].is_string(), "{id} says nothing of itself");
        }
    }
    let mut entered = BTreeSet::new();
    for route in millhand::api::routes() {
        let operation = &document["paths"][&route.path][route.method.as_str().to_lowercase()];
        let scope = route.scope.map_or(Value::Null, |scope| Value::from(scope.as_str()));
        assert_eq!(operation["x-scope"], scope, "{} {}", route.method, route.path);
        let open = matches!(route.path.as_str(), "/healthz" | "/readyz" | "/login");
        assert_eq!(route.scope.is_none(), open, "{}: nothing but this is open to everybody", route.path);
        assert!(entered.insert((route.method.to_string(), route.path)));
    }
    assert_eq!(entered, described);
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    fn walk(document: &Value, value: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(to) = fields.get("$ref").and_then(Value::as_str) {
                    assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to}");
                }
                fields.values().for_each(|field| walk(document, field));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(document, item)),
            _ => {}
        }
    }
    let document = millhand::api::document();
    walk(&document, &document);
}

#[test]
fn what_the_commands_do_can_be_done_by_http() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let written = Command::new(millhand()).arg("man").arg(folder.path()).output()?;
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let mut commands = BTreeSet::new();
    for page in fs::read_dir(folder.path())? {
        let page = page?.file_name().to_string_lossy().into_owned();
        commands.extend(page.strip_suffix(".1").and_then(|name| name.strip_prefix("millhand-")).map(str::to_owned));
    }
    let known: BTreeSet<_> = COMMANDS.iter().map(|(command, _)| (*command).to_owned()).collect();
    assert_eq!(commands, known, "a command without an operation, or a reason why it has none");
    let document = millhand::api::document();
    let paths = document["paths"].as_object().into_iter().flatten();
    let ids: BTreeSet<_> = paths
        .flat_map(|(_, item)| item.as_object().into_iter().flatten())
        .filter_map(|(_, operation)| operation["operationId"].as_str())
        .collect();
    for (command, operations) in COMMANDS {
        for operation in *operations {
            assert!(ids.contains(operation), "{command}: there is no {operation}");
        }
    }
    Ok(())
}
