//! The inbox: what needs a person, and what that can do about it.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, Utc};
use owo_colors::OwoColorize as _;

use super::{
    Context,
    args_inbox::{Answer, Dismiss, Inbox, Retry, Which},
    database,
    failure::{Exit, Failure, Outcome},
    screen::{bold, dim, red, state_style},
    signals::Told,
    tasks::{read_prompt_text, report, task_id},
    text::{ago, count, safe_line, short, span},
};
use crate::{
    actions::{self, Acted, InboxFilter, Reply, RetryWith},
    model::{
        ask::Question,
        ids::{AskId, SessionId, TaskId},
    },
    store::{Store, asks::AskRow, reads::InboxRow},
};

/// Between two looks of `inbox --watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Most that is done by one `--all`.
const BULK: i64 = 10_000;
/// Lines shown of what a setup that failed printed last.
const LAST_LINES: usize = 6;

/// `millhand inbox`.
pub(super) async fn inbox(context: &Context, arguments: Inbox) -> Outcome {
    // From before anything is shown: who sees the first item may stop us at once.
    let told = arguments.watch.then(Told::listen).transpose()?;
    let store = database::open(context).await?;
    let filter = InboxFilter { project: arguments.project, ..InboxFilter::default() };
    let rows = actions::inbox(&store, &filter, i64::from(arguments.limit)).await?;
    if rows.is_empty() {
        context.screen.line("Nothing needs you.")?;
    }
    for row in &rows {
        print(context, row)?;
    }
    if let Some(told) = told {
        return watch(context, &store, &filter, &rows, told).await;
    }
    if rows.len() == arguments.limit as usize {
        context.screen.note(&format!("{}", format!("The newest {}; more with --limit", rows.len()).style(dim())));
    }
    Ok(Exit::Done)
}

/// What makes an item another one than it was: its task came to rest again, or asks something else.
fn key(row: &InboxRow) -> (i64, Option<i64>, String, Option<DateTime<Utc>>) {
    (row.task_id, row.ask_id, row.state.clone(), row.since)
}

/// Prints what comes, until it is stopped. A database that is away for a while is waited for.
async fn watch(context: &Context, store: &Store, filter: &InboxFilter, seen: &[InboxRow], mut told: Told) -> Outcome {
    let mut seen: HashSet<_> = seen.iter().map(key).collect();
    let mut is_away = false;
    loop {
        tokio::select! {
            () = told.told() => return Ok(Exit::Done),
            () = tokio::time::sleep(WATCH_EVERY) => {}
        }
        let rows = match actions::inbox(store, filter, BULK).await {
            Ok(rows) => rows,
            Err(error) if error.is_unreachable() => {
                if !is_away {
                    context.screen.warn("the database cannot be reached; waiting for it");
                }
                is_away = true;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        is_away = false;
        for row in rows.iter().rev().filter(|row| !seen.contains(&key(row))) {
            print(context, row)?;
        }
        seen = rows.iter().map(key).collect();
    }
}

fn print(context: &Context, row: &InboxRow) -> Outcome<()> {
    let screen = context.screen;
    screen.object("inbox", row)?;
    let task = TaskId(row.task_id);
    let place = format!("{} {}", SessionId(row.session_id), safe_line(&row.project));
    let since = row.since.map(|since| ago(since, Utc::now())).unwrap_or_default();
    let (id, state) = match row.ask_id {
        Some(ask) => (format!("{} {task}", AskId(ask)), "asks"),
        None => (task.to_string(), row.state.as_str()),
    };
    let reason = match (&row.error_class, row.ask_id) {
        (Some(class), None) => format!(" ({})", class.replace('_', " ")),
        _ => String::new(),
    };
    let state = format!("{state}{reason}").style(state_style(&row.state)).to_string();
    screen.line(&format!("{} {state} {}", id.style(bold()), format!("{place}, {since}").style(dim())))?;
    screen.line(&format!("    {}", short(&row.prompt, 100)))?;
    if let Some(message) = &row.error_message {
        // What a setup printed last is behind its first line.
        let (first, rest) = match row.error_class.as_deref() {
            Some("setup_failed") => message.split_once('\n').unwrap_or((message.as_str(), "")),
            _ => (message.as_str(), ""),
        };
        let style = if row.ask_id.is_some() { bold() } else { red() };
        screen.line(&format!("    {}", short(first, 300).style(style)))?;
        let rest: Vec<_> = rest.lines().collect();
        for line in &rest[rest.len().saturating_sub(LAST_LINES)..] {
            screen.line(&format!("      {}", short(line, 200).style(dim())))?;
        }
    }
    if row.behind > 0 {
        screen.line(&format!("    {} behind it", count(row.behind, "task")))?;
    }
    if let Some(deadline) = row.deadline_at {
        let left = (deadline - Utc::now()).num_seconds().max(0);
        screen.line(&format!("    {}", format!("becomes a no in {}", span(left)).style(dim())))?;
    }
    Ok(screen.line(&format!("    {}", todo(row).style(dim())))?)
}

/// What to do about it.
fn todo(row: &InboxRow) -> String {
    let task = TaskId(row.task_id);
    match (row.ask_id, row.error_class.as_deref(), row.state.as_str()) {
        (Some(ask), Some("question"), _) => {
            format!("millhand answer {0}, then millhand answer {0} \"...\"", AskId(ask))
        }
        (Some(ask), _, _) => format!("millhand answer {0} once, always or reject", AskId(ask)),
        (None, Some("budget"), "pending") => format!("millhand budget, or millhand cancel {task}"),
        (None, Some("budget"), _) => format!("millhand budget, or millhand show {task}, or millhand dismiss {task}"),
        // It waits for its host.
        (None, _, "pending") => format!("millhand show {task}, or millhand cancel {task}"),
        (None, _, _) => format!("millhand show {task}, then millhand retry {task} or millhand dismiss {task}"),
    }
}

/// `millhand answer`.
pub(super) async fn answer(context: &Context, arguments: Answer) -> Outcome {
    let store = database::open(context).await?;
    let screen = context.screen;
    let id = arguments.ask.0;
    let ask = actions::ask(&store, id).await?;
    if arguments.reply.is_empty() && !arguments.reject {
        screen.object("ask", &ask)?;
        return show(context, &ask);
    }
    let reply = if arguments.reject {
        Reply::Reject { message: arguments.message }
    } else if ask.kind == "permission" {
        permission_reply(&ask, &arguments.reply, arguments.message)?
    } else {
        Reply::Replies(question_replies(&ask, arguments.reply)?)
    };
    let answered = actions::answer(&store, id, &reply).await?;
    if !answered.changed {
        return Err(Failure {
            exit: Exit::Usage,
            code: "nothing_to_do",
            message: format!("nobody waits for the answer to {}: it is {}", arguments.ask, over(&answered.ask)),
            hint: Some(format!("see: millhand show {}", TaskId(answered.ask.task_id))),
        });
    }
    screen.object("ask", &answered.ask)?;
    let task = TaskId(answered.ask.task_id);
    screen.line(&format!("{} answered; {task} goes on: millhand attach {task}", arguments.ask.style(bold())))?;
    Ok(Exit::Done)
}

/// Why an ask takes no answer, in words.
fn over(ask: &AskRow) -> String {
    match ask.state.as_str() {
        "answered" => format!(
            "answered already ({}, by {})",
            ask.answer.as_deref().unwrap_or_default(),
            safe_line(ask.answered_by.as_deref().unwrap_or("somebody"))
        ),
        "expired" => "over its deadline, so it was a no".to_owned(),
        _ => "not asked any more, as its turn is over".to_owned(),
    }
}

fn questions(ask: &AskRow) -> Vec<Question> {
    serde_json::from_value(ask.what["questions"].clone()).unwrap_or_default()
}

/// Shows an ask whole.
fn show(context: &Context, ask: &AskRow) -> Outcome {
    let screen = context.screen;
    let (id, task) = (AskId(ask.id), TaskId(ask.task_id));
    let state = if ask.state == "open" { "waits for you".to_owned() } else { format!("is {}", over(ask)) };
    screen.line(&format!("{} {} of {task} {state}", id.style(bold()), ask.kind))?;
    if ask.kind == "permission" {
        let what = ask.what["permission"].as_str().unwrap_or_default();
        screen.line(&format!("    the agent wants to use \"{}\"", safe_line(what)))?;
        for pattern in ask.what["patterns"].as_array().into_iter().flatten().filter_map(|pattern| pattern.as_str()) {
            screen.line(&format!("      {}", safe_line(pattern)))?;
        }
    }
    for question in questions(ask) {
        screen.line(&format!("    {}", safe_line(&question.question)))?;
        for (at, option) in question.options.iter().enumerate() {
            let (label, description) = (safe_line(&option.label), safe_line(&option.description));
            let description =
                if description.is_empty() { description } else { format!(" {}", description.style(dim())) };
            screen.line(&format!("      {} {label}{description}", at + 1))?;
        }
        if question.multiple {
            screen.line("      several may be chosen, with commas between: 1,3")?;
        }
    }
    let how = match (ask.state.as_str(), ask.kind.as_str()) {
        ("open", "permission") => {
            format!("millhand answer {id} once, always (in this worktree) or reject; --message says what to do instead")
        }
        ("open", _) => {
            format!("millhand answer {id} 1 (or your own words, one argument for each question), or --reject")
        }
        _ => format!("millhand show {task}"),
    };
    screen.line(&format!("    {}", how.style(dim())))?;
    Ok(Exit::Done)
}

fn permission_reply(ask: &AskRow, words: &[String], message: Option<String>) -> Outcome<Reply> {
    let id = AskId(ask.id);
    match words {
        [word] => match word.as_str() {
            "once" | "allow" | "yes" if message.is_none() => Ok(Reply::Allow { always: false }),
            "always" if message.is_none() => Ok(Reply::Allow { always: true }),
            "reject" | "no" => Ok(Reply::Reject { message }),
            "once" | "allow" | "yes" | "always" => {
                Err(Failure::usage("a yes takes no message", "send it afterwards: millhand send SESSION \"...\""))
            }
            other => Err(Failure::usage(
                format!("{id} asks for a permission, which \"{}\" does not answer", safe_line(other)),
                format!("answer once, always or reject: millhand answer {id} once"),
            )),
        },
        _ => Err(Failure::usage(
            format!("{id} asks for one permission"),
            format!("answer once, always or reject: millhand answer {id} once"),
        )),
    }
}

/// One argument for each question; the number of an option stands for it.
fn question_replies(ask: &AskRow, words: Vec<String>) -> Outcome<Vec<Vec<String>>> {
    let questions = questions(ask);
    if words.len() != questions.len() {
        return Err(Failure::usage(
            format!(
                "{} asks {}, and there are {}",
                AskId(ask.id),
                count(questions.len() as i64, "question"),
                count(words.len() as i64, "answer")
            ),
            format!("give one argument for each; see them: millhand answer {}", AskId(ask.id)),
        ));
    }
    Ok(questions.iter().zip(words).map(|(question, words)| labels(question, words)).collect())
}

fn labels(question: &Question, words: String) -> Vec<String> {
    let option = |text: &str| {
        let number: usize = text.trim().parse().ok()?;
        Some(question.options.get(number.checked_sub(1)?)?.label.clone())
    };
    let chosen: Option<Vec<String>> = match question.multiple {
        true => words.split(',').map(option).collect(),
        false => option(&words).map(|label| vec![label]),
    };
    chosen.unwrap_or_else(|| vec![words])
}

/// The tasks that are meant: those named, or all of the inbox that came to rest.
async fn chosen(store: &Store, which: &Which) -> Outcome<Vec<i64>> {
    if !which.all {
        return which.tasks.iter().map(|id| task_id(*id)).collect();
    }
    let filter = InboxFilter { project: which.project.clone(), class: which.class.clone(), after: None };
    let rows = actions::inbox(store, &filter, BULK).await?;
    Ok(rows.iter().filter(|row| row.ask_id.is_none() && row.state != "pending").map(|row| row.task_id).collect())
}

/// Does it to each, and goes on where there is nothing to do for one. The exit code tells if that was so.
async fn each(
    context: &Context,
    which: &Which,
    verb: &str,
    done: &str,
    mut act: impl AsyncFnMut(&Store, i64) -> Result<Acted, actions::ActionError>,
) -> Outcome {
    let store = database::open(context).await?;
    let tasks = chosen(&store, which).await?;
    if tasks.is_empty() {
        context.screen.line("Nothing in the inbox is meant by that.")?;
    }
    let mut exit = Exit::Done;
    let is_one = tasks.len() == 1;
    for task in tasks {
        let acted = match act(&store, task).await {
            Ok(acted) => report(context, &acted, &done.replace("{}", &TaskId(task).to_string()), verb),
            Err(error) => Err(error.into()),
        };
        match acted {
            Ok(_) => {}
            Err(failure) if is_one => return Err(failure),
            // What concerns all of them concerns the next, too.
            Err(failure) if failure.exit == Exit::Unreachable => return Err(failure),
            Err(failure) => exit = context.screen.fail(failure),
        }
    }
    Ok(exit)
}

/// `millhand dismiss`.
pub(super) async fn dismiss(context: &Context, arguments: Dismiss) -> Outcome {
    let done = "dismissed; what is behind it may run";
    each(context, &arguments.which, "dismiss", done, async |store, task| actions::dismiss(store, task).await).await
}

/// `millhand retry`.
pub(super) async fn retry(context: &Context, arguments: Retry) -> Outcome {
    let prompt = match arguments.prompt {
        None => None,
        Some(prompt) => Some(read_prompt_text(prompt)?),
    };
    let with = RetryWith { prompt, model: arguments.model, agent: arguments.agent };
    let (edits, screen) = (arguments.edit, context.screen);
    if edits && !screen.can_ask {
        return Err(Failure::usage(
            "--edit needs a terminal",
            "give the new prompt with --prompt TEXT, or --prompt - from stdin",
        ));
    }
    let done = "runs again; follow it: millhand attach {}";
    each(context, &arguments.which, "retry", done, async |store, task| {
        let mut with = with.clone();
        if edits {
            with.prompt = edited(context, store, task).await?;
        }
        actions::retry(store, task, &with).await
    })
    .await
}

/// The prompt of a task, as the person changes it; none if they leave it as it is.
async fn edited(context: &Context, store: &Store, task: i64) -> Result<Option<String>, actions::ActionError> {
    let before = actions::show_task(store, task, context.window()).await?.look.task.prompt;
    let refused = |what: String| actions::ActionError::Refused {
        what,
        hint: Some("give the new prompt with --prompt TEXT, or --prompt - from stdin".to_owned()),
    };
    let after = super::editor::edit(&context.settings.environment, &before)
        .map_err(|error| refused(format!("the prompt could not be edited: {error}")))?;
    Ok((after != before).then_some(after))
}
