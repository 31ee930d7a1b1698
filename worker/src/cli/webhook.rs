//! `millhand webhook`.

use chrono::Utc;
use comfy_table::Cell;
use owo_colors::OwoColorize as _;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::{
    Context,
    args_webhook::{Deliveries, Retry, Webhook, WebhookAdd},
    database,
    failure::{Exit, Outcome},
    screen::{bold, dim, green, keep_whole, red, yellow},
    text::{ago, count, safe_line, short},
};
use crate::{
    actions::{self, Again, Poster, WebhookRequest},
    model::{
        ids::{DeliveryId, TaskId, WebhookId},
        webhook::MAX_TRIES,
    },
    store::{
        Store,
        webhooks::{DeliveryFilter, DeliveryRow, WebhookRow},
    },
};

/// `millhand webhook`.
pub(super) async fn webhook(context: &Context, command: Webhook) -> Outcome {
    let screen = context.screen;
    let store = database::open(context).await?;
    match command {
        Webhook::Add(arguments) => add(context, &store, arguments).await,
        Webhook::Ls => ls(context, &store).await,
        Webhook::Rm(arguments) => {
            let row = actions::remove_webhook(&store, arguments.webhook).await?;
            screen.object("webhook", &row)?;
            let lost = if row.pending > 0 { format!(" with {}", pending(row.pending)) } else { String::new() };
            screen.line(&format!("{} removed{lost}", name(&row)))?;
            Ok(Exit::Done)
        }
        Webhook::Enable(arguments) => switch(context, &store, arguments.webhook, true).await,
        Webhook::Disable(arguments) => switch(context, &store, arguments.webhook, false).await,
        Webhook::Test(arguments) => test(context, &store, arguments.webhook).await,
        Webhook::Deliveries(arguments) => deliveries(context, &store, arguments).await,
        Webhook::Retry(arguments) => retry(context, &store, arguments).await,
    }
}

fn name(row: &WebhookRow) -> String {
    WebhookId(row.id).style(bold()).to_string()
}

fn pending(number: i64) -> String {
    format!("{number} pending {}", if number == 1 { "delivery" } else { "deliveries" })
}

/// What is wrong with the webhooks, and where to see it; none: nothing is.
pub(super) fn trouble(dead: i64, off: i64) -> Option<String> {
    let deliveries = if dead == 1 { "delivery was" } else { "deliveries were" };
    match (dead, off) {
        (0, 0) => None,
        (0, off) => Some(format!("{} off: the receiver is gone; see: millhand webhook ls", count(off, "webhook"))),
        (dead, _) => Some(format!("{dead} {deliveries} given up; see: millhand webhook deliveries --state dead")),
    }
}

async fn add(context: &Context, store: &Store, arguments: WebhookAdd) -> Outcome {
    /// A new webhook, with what is said once only.
    #[derive(Serialize)]
    struct Added<'a> {
        #[serde(flatten)]
        webhook: &'a WebhookRow,
        secret: &'a str,
    }
    let screen = context.screen;
    let request = WebhookRequest {
        url: arguments.url,
        kinds: arguments.events.into_iter().map(Into::into).collect(),
        project: arguments.project,
        allow_private: arguments.allow_private,
    };
    let (row, secret) = actions::add_webhook(store, &request).await?;
    let secret = secret.expose_secret();
    screen.object("webhook", &Added { webhook: &row, secret })?;
    screen.line(&format!("{} is told of {}", name(&row), row.events.join(", ")))?;
    screen.line(&format!("  secret  {secret}  {}", "(shown only now)".style(dim())))?;
    screen.line(&format!("{}", format!("  Next: millhand webhook test {}", WebhookId(row.id)).style(dim())))?;
    Ok(Exit::Done)
}

async fn ls(context: &Context, store: &Store) -> Outcome {
    let screen = context.screen;
    let rows = actions::webhooks(store).await?;
    for row in &rows {
        screen.object("webhook", row)?;
    }
    if rows.is_empty() {
        screen.line("No webhooks. Register one: millhand webhook add URL")?;
        return Ok(Exit::Done);
    }
    let mut table = screen.table(&["WEBHOOK", "STATE", "PROJECT", "PENDING", "DEAD", "EVENTS", "URL"]);
    for row in &rows {
        let state = match (row.enabled, &row.disabled_reason) {
            (true, _) => "on".to_owned(),
            (false, None) => "off".to_owned(),
            (false, Some(reason)) => format!("off: {}", safe_line(reason)),
        };
        table.add_row(vec![
            Cell::new(WebhookId(row.id)),
            Cell::new(state),
            Cell::new(safe_line(row.project.as_deref().unwrap_or("all"))),
            Cell::new(row.pending),
            Cell::new(row.dead),
            Cell::new(row.events.join(" ")),
            Cell::new(safe_line(&row.url)),
        ]);
    }
    keep_whole(&mut table, &[0, 3, 4]);
    screen.print_table(&table)?;
    Ok(Exit::Done)
}

async fn switch(context: &Context, store: &Store, id: WebhookId, on: bool) -> Outcome {
    let screen = context.screen;
    let row = actions::switch_webhook(store, id, on).await?;
    screen.object("webhook", &row)?;
    let what = if on { "is on" } else { "is off" };
    let waits = if !on && row.pending > 0 { format!("; {} wait", pending(row.pending)) } else { String::new() };
    screen.line(&format!("{} {what}{waits}", name(&row)))?;
    Ok(Exit::Done)
}

async fn test(context: &Context, store: &Store, id: WebhookId) -> Outcome {
    let screen = context.screen;
    let timings = context.settings.timings;
    let progress = screen.progress("posting");
    let poster = Poster::new(timings.webhook_timeout);
    let row = actions::test_webhook(store, &poster, timings.webhook_waits(), id).await?;
    drop(progress);
    screen.object("delivery", &row)?;
    if row.state == "delivered" {
        let status = row.last_status.unwrap_or_default();
        screen.line(&format!("{} {id} answered {status}", "✓".style(green())))?;
        return Ok(Exit::Done);
    }
    let why = safe_line(row.last_error.as_deref().unwrap_or("it was not delivered"));
    screen.line(&format!("{} {id}: {why}", "✗".style(red())))?;
    Ok(Exit::Broken)
}

async fn deliveries(context: &Context, store: &Store, arguments: Deliveries) -> Outcome {
    let screen = context.screen;
    let state = arguments.state.map(|state| state.as_str());
    let rows = {
        let of = arguments.webhook.map(|id| id.0);
        let filter = DeliveryFilter { webhook_id: of, state, ..DeliveryFilter::default() };
        actions::deliveries(store, filter, i64::from(arguments.limit))
    }
    .await?;
    for row in &rows {
        screen.object("delivery", row)?;
    }
    if rows.is_empty() {
        screen.line("No deliveries.")?;
        return Ok(Exit::Done);
    }
    let now = Utc::now();
    let mut table = screen.table(&["DELIVERY", "WEBHOOK", "EVENT", "TASK", "STATE", "TRIES", "NOTED", "LAST ANSWER"]);
    for row in &rows {
        table.add_row(vec![
            Cell::new(DeliveryId(row.id)),
            Cell::new(WebhookId(row.webhook_id)),
            Cell::new(safe_line(&row.event)),
            Cell::new(row.task_id.map(|id| TaskId(id).to_string()).unwrap_or_default()),
            Cell::new(match row.state.as_str() {
                "delivered" => row.state.style(green()).to_string(),
                "dead" => row.state.style(red()).to_string(),
                _ => row.state.style(yellow()).to_string(),
            }),
            Cell::new(format!("{} of {MAX_TRIES}", row.tries)),
            Cell::new(ago(row.created_at, now)),
            Cell::new(last_answer(row)),
        ]);
    }
    keep_whole(&mut table, &[0, 1, 4, 5]);
    screen.print_table(&table)?;
    if rows.iter().any(|row| row.state == "dead") {
        screen.note(&format!("{}", "Post them again: millhand webhook retry --dead".style(dim())));
    }
    Ok(Exit::Done)
}

fn last_answer(row: &DeliveryRow) -> String {
    match (&row.last_error, row.last_status) {
        (Some(error), _) => short(error, 100),
        (None, Some(status)) => status.to_string(),
        (None, None) => String::new(),
    }
}

async fn retry(context: &Context, store: &Store, arguments: Retry) -> Outcome {
    let screen = context.screen;
    let again = if arguments.dead { Again::Dead(arguments.webhook) } else { Again::These(arguments.ids) };
    let number = actions::retry_deliveries(store, &again).await?;
    screen.object("retry", &serde_json::json!({ "deliveries": number }))?;
    if number == 0 {
        screen.line("Nothing to post again: none of them was given up.")?;
        return Ok(Exit::Done);
    }
    let what = count(i64::try_from(number).unwrap_or(i64::MAX), "post");
    screen.line(&format!("{what} will be made by the next worker that looks"))?;
    Ok(Exit::Done)
}
