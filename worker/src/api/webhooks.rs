//! Webhooks, and what was posted to them.

use axum::{Json, extract::State, response::Response};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    extract::{Answer, Asked, At, Body, Delivery, Id, Webhook, created},
    page::{List, Page},
    problem::Problem,
    tasks::words,
};
use crate::{
    actions::{self, Again, Poster, WebhookRequest},
    model::{
        ids::{DeliveryId, WebhookId},
        webhook::Kind,
    },
    store::webhooks::{DeliveryFilter, DeliveryRow, WebhookRow},
};

/// List webhooks, without their secrets.
#[utoipa::path(get, path = "/api/webhooks", tag = "webhooks", responses((status = 200, description = "Webhooks", body = List<WebhookRow>)))]
pub(super) async fn list(State(api): State<Api>) -> Answer<List<WebhookRow>> {
    Ok(Json(List::whole(actions::webhooks(&api.store).await?)))
}

/// Show a webhook, without its secret.
#[utoipa::path(get, path = "/api/webhooks/{id}", tag = "webhooks", params(("id" = String, Path, description = "The webhook: wh3, or 3")),
    responses((status = 200, description = "The webhook", body = WebhookRow)))]
pub(super) async fn show(State(api): State<Api>, At(id): At<Id<Webhook>>) -> Answer<WebhookRow> {
    Ok(Json(actions::webhook(&api.store, WebhookId(id.0)).await?))
}

/// Which deliveries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeliveriesQuery {
    /// Only to this webhook (wh3, or 3).
    #[param(value_type = Option<String>)]
    webhook: Option<Id<Webhook>>,
    /// Only in this state: pending, delivered, dead.
    state: Option<String>,
    /// At most so many; 500 is the most.
    #[param(default = 50, minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The page behind the one that gave this as `next`.
    cursor: Option<String>,
}

/// List deliveries to webhooks, newest first.
#[utoipa::path(get, path = "/api/deliveries", tag = "webhooks", params(DeliveriesQuery),
    responses((status = 200, description = "Deliveries", body = List<DeliveryRow>)))]
pub(super) async fn deliveries(
    State(api): State<Api>,
    Asked(asked): Asked<DeliveriesQuery>,
) -> Answer<List<DeliveryRow>> {
    let page = Page::<i64>::new(asked.limit, asked.cursor.as_deref())?;
    let state = words(asked.state.as_deref(), &["pending", "delivered", "dead"], "state of a delivery")?.pop();
    let filter = DeliveryFilter {
        webhook_id: asked.webhook.map(|id| id.0),
        state: state.as_deref(),
        before: page.after,
        ..DeliveryFilter::default()
    };
    let rows = actions::deliveries(&api.store, filter, page.rows()).await?;
    Ok(Json(page.of(rows, |row| row.id)))
}

/// A webhook to register.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AddWebhookRequest {
    /// Where to post.
    url: String,
    /// What it is told: task.failed, task.blocked, task.needs_you, host.gone, task.completed, change_set.ready; left out: what needs a person.
    #[serde(default)]
    events: Vec<String>,
    /// Only of this project.
    project: Option<String>,
    /// Addresses of the worker's machine and of private networks will do, and so will http.
    #[serde(default)]
    allow_private: bool,
}

/// A new webhook, with what is said once only.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AddedWebhook {
    #[serde(flatten)]
    webhook: WebhookRow,
    /// What its posts are signed with; not shown again.
    secret: String,
}

/// Register a webhook. Its secret is in the answer, and not shown again.
#[utoipa::path(post, path = "/api/webhooks", tag = "webhooks", request_body = AddWebhookRequest,
    responses((status = 201, description = "The webhook", body = AddedWebhook)))]
pub(super) async fn add(State(api): State<Api>, Body(asked): Body<AddWebhookRequest>) -> Result<Response, Problem> {
    let kind = |name: &String| {
        let found = Kind::ALL.into_iter().find(|kind| kind.as_str() == name);
        found.ok_or_else(|| {
            let known = Kind::ALL.map(Kind::as_str).join(", ");
            Problem::bad(format!("\"{name}\" is nothing that webhooks are told; there are: {known}"))
        })
    };
    let request = WebhookRequest {
        kinds: asked.events.iter().map(kind).collect::<Result<_, _>>()?,
        url: asked.url,
        project: asked.project,
        allow_private: asked.allow_private,
    };
    let (webhook, secret) = actions::add_webhook(&api.store, &request).await?;
    let path = format!("/api/webhooks/{}", webhook.id);
    Ok(created(path, AddedWebhook { webhook, secret: secret.expose_secret().to_owned() }))
}

/// What of a webhook is to change.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SetWebhookRequest {
    /// On, for what comes from now on, or off.
    enabled: bool,
}

/// Turn a webhook on or off.
#[utoipa::path(patch, path = "/api/webhooks/{id}", tag = "webhooks", request_body = SetWebhookRequest,
    params(("id" = String, Path, description = "The webhook: wh3, or 3")), responses((status = 200, description = "The webhook", body = WebhookRow)))]
pub(super) async fn switch(
    State(api): State<Api>,
    At(id): At<Id<Webhook>>,
    Body(asked): Body<SetWebhookRequest>,
) -> Answer<WebhookRow> {
    Ok(Json(actions::switch_webhook(&api.store, WebhookId(id.0), asked.enabled).await?))
}

/// Remove a webhook with its deliveries.
#[utoipa::path(delete, path = "/api/webhooks/{id}", tag = "webhooks", params(("id" = String, Path, description = "The webhook: wh3, or 3")),
    responses((status = 200, description = "The webhook as it was", body = WebhookRow)))]
pub(super) async fn remove(State(api): State<Api>, At(id): At<Id<Webhook>>) -> Answer<WebhookRow> {
    Ok(Json(actions::remove_webhook(&api.store, WebhookId(id.0)).await?))
}

/// Post a delivery that tells nothing, and say what came of it.
#[utoipa::path(post, path = "/api/webhooks/{id}/test", tag = "webhooks", params(("id" = String, Path, description = "The webhook: wh3, or 3")),
    responses((status = 200, description = "What came of it", body = DeliveryRow)))]
pub(super) async fn test(State(api): State<Api>, At(id): At<Id<Webhook>>) -> Answer<DeliveryRow> {
    let timings = api.settings.timings;
    let poster = Poster::new(timings.webhook_timeout);
    let row = actions::test_webhook(&api.store, &poster, timings.webhook_waits(), WebhookId(id.0)).await?;
    Ok(Json(row))
}

/// Which deliveries to post again.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PostAgainRequest {
    /// These.
    #[serde(default)]
    #[schema(value_type = Vec<i64>)]
    ids: Vec<Id<Delivery>>,
    /// All that were given up.
    #[serde(default)]
    dead: bool,
    /// With `dead`: only of this webhook.
    #[schema(value_type = Option<i64>)]
    webhook: Option<Id<Webhook>>,
}

/// How many deliveries are posted again.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PostedAgain {
    /// So many.
    deliveries: u64,
}

/// Have deliveries posted again that were given up, or that wait.
#[utoipa::path(post, path = "/api/deliveries/retry", tag = "webhooks", request_body = PostAgainRequest,
    responses((status = 200, description = "How many", body = PostedAgain)))]
pub(super) async fn retry(State(api): State<Api>, Body(asked): Body<PostAgainRequest>) -> Answer<PostedAgain> {
    let again = match (asked.dead, asked.ids.is_empty()) {
        (true, true) => Again::Dead(asked.webhook.map(|id| WebhookId(id.0))),
        (false, false) => Again::These(asked.ids.iter().map(|id| DeliveryId(id.0)).collect()),
        _ => return Err(Problem::bad("name deliveries, or dead")),
    };
    Ok(Json(PostedAgain { deliveries: actions::retry_deliveries(&api.store, &again).await? }))
}
