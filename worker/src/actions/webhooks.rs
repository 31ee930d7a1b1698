//! Webhooks: registering and listing them, what was posted to them, and posting one delivery.

use secrecy::SecretString;
use uuid::Uuid;

use super::{ActionError, Poster, Result, project_named};
use crate::{
    model::{
        counters::Count,
        ids::{DeliveryId, WebhookId},
        webhook::{Answer, Backoff, Key, Kind, Target, Verdict, decide},
    },
    store::{
        Store, StoreError,
        webhooks::{DeliveryFilter, DeliveryRow, Due, NewWebhook, Posted, WebhookRow},
    },
};

/// A webhook to register.
#[derive(Clone, Debug, Default)]
pub struct WebhookRequest {
    /// Where to.
    pub url: String,
    /// Kinds that it is told; empty: what needs a person.
    pub kinds: Vec<Kind>,
    /// Only of this project.
    pub project: Option<String>,
    /// Addresses of this machine and private networks will do, and so will http.
    pub allow_private: bool,
}

/// Which deliveries to post again.
#[derive(Clone, Debug)]
pub enum Again {
    /// These.
    These(Vec<DeliveryId>),
    /// All that were given up, or those of a webhook.
    Dead(Option<WebhookId>),
}

/// Registers a webhook; returns it with its secret, which is not shown again.
pub async fn add_webhook(store: &Store, request: &WebhookRequest) -> Result<(WebhookRow, SecretString)> {
    let refused = |what| ActionError::Refused {
        what,
        hint: Some("a receiver in a private network, or on this machine: --allow-private".to_owned()),
    };
    let target = Target::parse(&request.url, request.allow_private).map_err(refused)?;
    if let Some(project) = &request.project {
        project_named(store, project).await?;
    }
    let kinds = if request.kinds.is_empty() { &Kind::DEFAULT[..] } else { &request.kinds };
    let events: Vec<_> = kinds.iter().map(|kind| kind.as_str()).collect();
    let secret = SecretString::from(Key::new(rand::random()).secret());
    let new = NewWebhook {
        url: target.url.as_str(),
        secret: &secret,
        events: &events,
        project: request.project.as_deref(),
        allow_private: request.allow_private,
    };
    let id = match store.add_webhook(&new).await {
        Err(StoreError::Refused { constraint: Some(name), .. }) if name == "webhooks_url_key" => {
            return Err(ActionError::Refused {
                what: "this URL is registered already".to_owned(),
                hint: Some("see: millhand webhook ls; to change it, remove it first: millhand webhook rm".to_owned()),
            });
        }
        added => added?,
    };
    Ok((webhook(store, WebhookId(id)).await?, secret))
}

/// All webhooks.
pub async fn webhooks(store: &Store) -> Result<Vec<WebhookRow>> {
    Ok(store.webhooks(None).await?)
}

/// A webhook.
pub async fn webhook(store: &Store, id: WebhookId) -> Result<WebhookRow> {
    store.webhooks(Some(id.0)).await?.pop().ok_or_else(|| no_webhook(id))
}

/// Removes a webhook with its deliveries.
pub async fn remove_webhook(store: &Store, id: WebhookId) -> Result<WebhookRow> {
    let row = webhook(store, id).await?;
    store.remove_webhook(id.0).await?;
    Ok(row)
}

/// Turns a webhook on, for what comes from now on, or off.
pub async fn switch_webhook(store: &Store, id: WebhookId, on: bool) -> Result<WebhookRow> {
    store.switch_webhook(id.0, on).await?;
    webhook(store, id).await
}

/// Posts a delivery that tells nothing, from here, and says what came of it.
pub async fn test_webhook(store: &Store, poster: &Poster, backoff: Backoff, id: WebhookId) -> Result<DeliveryRow> {
    let key = format!("test:{}", Uuid::new_v4().simple());
    let due = store.test_delivery(id.0, &key, poster.lease()).await?.ok_or_else(|| no_webhook(id))?;
    deliver(store, poster, backoff, &due).await?;
    let filter = DeliveryFilter { id: Some(due.id), ..DeliveryFilter::default() };
    store.deliveries(filter, 1).await?.pop().ok_or_else(|| no_webhook(id))
}

/// Deliveries, newest first.
pub async fn deliveries(store: &Store, filter: DeliveryFilter<'_>, at_most: i64) -> Result<Vec<DeliveryRow>> {
    if let Some(id) = filter.webhook_id {
        webhook(store, WebhookId(id)).await?;
    }
    Ok(store.deliveries(filter, at_most).await?)
}

/// Has deliveries posted again that were given up, or that wait. Returns how many.
pub async fn retry_deliveries(store: &Store, again: &Again) -> Result<u64> {
    match again {
        Again::Dead(of) => {
            if let Some(id) = of {
                webhook(store, *id).await?;
            }
            Ok(store.retry_dead_deliveries(of.map(|id| id.0)).await?)
        }
        Again::These(ids) => {
            for id in ids {
                let filter = DeliveryFilter { id: Some(id.0), ..DeliveryFilter::default() };
                if store.deliveries(filter, 1).await?.is_empty() {
                    return Err(ActionError::NotFound {
                        what: format!("there is no delivery {id}"),
                        hint: "see: millhand webhook deliveries".to_owned(),
                    });
                }
            }
            Ok(store.retry_deliveries(&ids.iter().map(|id| id.0).collect::<Vec<_>>()).await?)
        }
    }
}

/// Posts a delivery that is this process's, and notes what came of it.
pub async fn deliver(
    store: &Store,
    poster: &Poster,
    backoff: Backoff,
    due: &Due,
) -> std::result::Result<(), StoreError> {
    let answer = poster.post(due).await;
    let verdict = decide(&answer, due.tries, backoff, rand::random());
    let (status, error) = match &answer {
        Answer::Status { status: status @ 200..=299, .. } => (Some(*status), None),
        Answer::Status { status, says, .. } if says.is_empty() => (Some(*status), Some(format!("answered {status}"))),
        Answer::Status { status, says, .. } => (Some(*status), Some(format!("answered {status}: {says}"))),
        Answer::Nothing { why } => (None, Some(why.clone())),
    };
    let (state, word, wait) = match verdict {
        Verdict::Delivered => ("delivered", "delivered", None),
        Verdict::Again { wait } => ("pending", "failed", Some(wait)),
        Verdict::Dead => ("dead", "dead", None),
        Verdict::Gone => ("dead", "gone", None),
    };
    let posted = Posted {
        id: due.id,
        tries: due.tries,
        state,
        wait: wait.unwrap_or_default(),
        status: status.map(i32::from),
        error: error.as_deref(),
        turn_off: (verdict == Verdict::Gone).then_some("the receiver answered 410 Gone"),
    };
    let is_noted = store.end_delivery(&posted).await?;
    store.counters().add(Count::Posted(word), 1);
    // Not the URL, and not what the receiver said: both may hold secrets of others.
    let (delivery, webhook) = (DeliveryId(due.id), WebhookId(due.webhook_id));
    match verdict {
        Verdict::Delivered => tracing::debug!(%delivery, %webhook, tries = due.tries, is_noted, "delivered"),
        Verdict::Again { wait } => {
            let wait_seconds = wait.as_secs();
            tracing::info!(%delivery, %webhook, tries = due.tries, status, wait_seconds, is_noted, "not delivered; posted again later");
        }
        Verdict::Dead => {
            tracing::warn!(%delivery, %webhook, tries = due.tries, status, is_noted, "not delivered, and given up");
        }
        Verdict::Gone => tracing::warn!(%delivery, %webhook, is_noted, "the receiver is gone: its webhook is off"),
    }
    Ok(())
}

fn no_webhook(id: WebhookId) -> ActionError {
    ActionError::NotFound { what: format!("there is no webhook {id}"), hint: "see: millhand webhook ls".to_owned() }
}
