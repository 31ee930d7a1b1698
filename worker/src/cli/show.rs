//! `millhand show`: one task or session, with what to do next.

use chrono::Utc;
use owo_colors::OwoColorize as _;
use serde_json::json;

use super::{
    Context, check, database, diff,
    failure::{Exit, Outcome},
    lists,
    screen::{bold, dim, red, state_style},
    text::{self, ago, count, safe, safe_line, short, span, tokens},
};
use crate::{
    actions::{self, Look, SessionView, TaskView},
    model::ids::{AnyId, ChatId, SessionId, TaskId},
    store::reads_turns::AttemptRow,
};

/// Tasks of a session shown.
const TASKS: i64 = 20;
/// Longest part of a prompt or answer shown.
const LONG: usize = 2000;

/// `millhand show`.
pub(super) async fn show(context: &Context, id: AnyId) -> Outcome {
    let store = database::open(context).await?;
    if let AnyId::Session(id) = id {
        let view = actions::show_session(&store, id.0, TASKS, context.window()).await?;
        return print_session(context, &view);
    }
    let task = actions::resolve_task(&store, id).await?;
    print_task(context, &actions::show_task(&store, task.0, context.window()).await?)
}

fn print_task(context: &Context, view: &TaskView) -> Outcome {
    let screen = context.screen;
    let Look { task, why } = &view.look;
    if screen.json {
        let mut object = serde_json::to_value(&view.look).map_err(std::io::Error::from)?;
        object["attempt_rows"] = json!(view.attempts);
        object["change_set"] = json!(view.changes.as_ref().map(|changes| &changes.set));
        object["pending_changes"] = json!(view.changes.as_ref().map(|changes| &changes.files));
        object["check_runs"] = json!(view.changes.as_ref().map(|changes| &changes.checks));
        object["behind"] = json!(view.behind);
        screen.object("task", &object)?;
        return Ok(Exit::Done);
    }
    let id = TaskId(task.id);
    let state = task.state.style(state_style(&task.state));
    let why = why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    screen.line(&format!("{} {state}{why}", id.style(bold())))?;
    let field = |name: &str, value: &str| screen.line(&format!("  {} {value}", format!("{name:<9}").style(dim())));
    field("prompt", &indented(&task.prompt))?;
    field("session", &format!("{} {}", SessionId(task.session_id), short(&view.session.title, 80)))?;
    field("chat", &ChatId(task.chat_id).to_string())?;
    field("project", &safe_line(&task.project))?;
    if let (Some(branch), Some(commit)) = (&view.session.base_branch, &view.session.base_commit) {
        field("base", &format!("{} {}", safe_line(branch), text::commit(commit)))?;
    }
    let variant = task.variant.as_deref().map(|variant| format!(", variant {variant}")).unwrap_or_default();
    let model = task.model.as_deref().unwrap_or("the agent's default");
    field("agent", &safe_line(&format!("{}, model {model}{variant}", task.agent)))?;
    field("queued", &ago(task.created_at, Utc::now()))?;
    field("cost", &format!("{} ({} tokens)", text::cost(task.cost_usd, task.unknown_steps), tokens(task.tokens)))?;
    if task.infra_losses > 0 {
        field("losses", &format!("{} to infrastructure, not charged", task.infra_losses))?;
    }
    for attempt in &view.attempts {
        // The last one's error is the task's, which follows.
        let said = attempt.error_message.is_some() && attempt.error_message == task.error_message;
        print_attempt(context, attempt, !said || attempt.number < task.last_attempt)?;
    }
    if let Some(message) = &task.error_message {
        field("error", &indented(message).style(red()).to_string())?;
    }
    if let Some(summary) = &task.output_summary {
        field("answer", &indented(summary))?;
    }
    if let Some(changes) = &view.changes {
        field("changes", &diff::summary(&changes.set))?;
        diff::print_files(context, changes)?;
    }
    if view.behind > 0 && (task.holds_line || task.state == "blocked") {
        field("behind", &format!("{} behind it", count(view.behind, "task")))?;
    }
    field("next", &next(view))?;
    Ok(Exit::Done)
}

fn print_attempt(context: &Context, attempt: &AttemptRow, with_error: bool) -> Outcome<()> {
    let outcome = attempt.outcome.as_deref().unwrap_or("running");
    let took = span((attempt.ended_at.unwrap_or_else(Utc::now) - attempt.started_at).num_seconds());
    let resolved = |requested: Option<&str>, resolved: Option<&str>| match (requested, resolved) {
        (_, None) => None,
        (Some(requested), Some(resolved)) if requested != resolved => Some(format!("{resolved} (asked: {requested})")),
        (_, Some(resolved)) => Some(resolved.to_owned()),
    };
    let agent = resolved(Some(&attempt.agent_requested), attempt.agent_resolved.as_deref());
    let model = resolved(attempt.model_requested.as_deref(), attempt.model_resolved.as_deref());
    let who: Vec<_> = [agent, model].into_iter().flatten().collect();
    let cost = format!("{} tokens, {}", tokens(attempt.tokens), text::cost(attempt.cost_usd, attempt.unknown_steps));
    let line = format!(
        "  {} {}: {outcome} in {took}, {cost}{}{}",
        "attempt  ".style(dim()),
        attempt.number,
        if who.is_empty() { "" } else { ", " },
        safe_line(&who.join(", "))
    );
    context.screen.line(&line)?;
    if let Some(message) = attempt.error_message.as_deref().filter(|_| with_error) {
        context.screen.line(&format!("            {}", short(message, 300).style(red())))?;
    }
    Ok(())
}

/// What a person may want to do with a task like this.
fn next(view: &TaskView) -> String {
    let task = &view.look.task;
    let id = TaskId(task.id);
    let has_changes = view.changes.as_ref().is_some_and(|changes| changes.set.files > 0);
    match task.state.as_str() {
        "pending" | "waiting" | "running" => format!("millhand attach {id}, or millhand cancel {id}"),
        "failed" if task.dismissed_at.is_some() => format!("dismissed; millhand retry {id}"),
        "failed" | "blocked" => format!("millhand retry {id}, or millhand dismiss {id}"),
        "cancelled" => format!("millhand retry {id}"),
        _ if has_changes => {
            format!(
                "millhand review {id}, millhand apply {id}, or millhand send {} \"...\"",
                SessionId(task.session_id)
            )
        }
        _ => format!("millhand send {} \"...\"", SessionId(task.session_id)),
    }
}

/// A text of several lines, under its first one.
fn indented(text: &str) -> String {
    let mut shown: String = text.trim().chars().take(LONG).collect();
    if shown.len() < text.trim().len() {
        shown.push_str("… (whole with --json)");
    }
    safe(&shown).replace('\n', "\n            ")
}

fn print_session(context: &Context, view: &SessionView) -> Outcome {
    let screen = context.screen;
    let session = &view.session;
    if screen.json {
        let mut object = serde_json::to_value(session).map_err(std::io::Error::from)?;
        object["task_rows"] = json!(view.tasks);
        object["change_set"] = json!(view.changes.as_ref().map(|changes| &changes.set));
        object["check_runs"] = json!(view.changes.as_ref().map(|changes| &changes.checks));
        screen.object("session", &object)?;
        return Ok(Exit::Done);
    }
    let id = SessionId(session.id);
    screen.line(&format!("{} {} {}", id.style(bold()), lists::line_of(session), short(&session.title, 100)))?;
    let field = |name: &str, value: &str| screen.line(&format!("  {} {value}", format!("{name:<9}").style(dim())));
    field("project", &safe_line(&session.project))?;
    if let (Some(branch), Some(commit)) = (&session.base_branch, &session.base_commit) {
        field("base", &format!("{} {}", safe_line(branch), text::commit(commit)))?;
    }
    if let Some(host) = &session.home_host {
        field("host", &safe_line(host))?;
    }
    field("chats", &session.chats.to_string())?;
    field("cost", &text::cost(session.cost_usd, session.unknown_steps))?;
    if let Some(changes) = &view.changes {
        field("changes", &diff::summary(&changes.set))?;
        for run in &changes.checks {
            screen.line(&check::line_of(run))?;
        }
    }
    lists::print_tasks(context, &view.tasks)?;
    let diff = if view.changes.is_some() { format!("millhand diff {id}, or ") } else { String::new() };
    field("next", &format!("{diff}millhand send {id} \"...\""))?;
    Ok(Exit::Done)
}
