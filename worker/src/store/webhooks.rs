//! Webhooks, and the outbox from which they are posted.
//!
//! Whatever notes items may do so again, at once with others and after a crash: an item has a key, and the key is unique per webhook.

use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;

use super::{Result, Store, seconds, without_nul};

/// A webhook to register.
#[derive(Clone, Debug)]
pub struct NewWebhook<'a> {
    /// Where to.
    pub url: &'a str,
    /// What posts are signed with.
    pub secret: &'a SecretString,
    /// Kinds that it is told.
    pub events: &'a [&'static str],
    /// Only of this project.
    pub project: Option<&'a str>,
    /// Private addresses will do, and so will http.
    pub allow_private: bool,
}

/// A webhook, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of webhooks")]
pub struct WebhookRow {
    pub id: i64,
    pub url: String,
    pub events: Vec<String>,
    pub project: Option<String>,
    pub allow_private: bool,
    pub enabled: bool,
    pub disabled_reason: Option<String>,
    pub created_at: DateTime<Utc>,
    pub pending: i64,
    pub dead: i64,
}

/// A delivery.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of deliveries")]
pub struct DeliveryRow {
    pub id: i64,
    pub webhook_id: i64,
    pub dedupe_key: String,
    pub event: String,
    pub task_id: Option<i64>,
    pub payload: Value,
    pub state: String,
    pub tries: i32,
    pub next_try_at: DateTime<Utc>,
    pub last_status: Option<i32>,
    pub last_error: Option<String>,
    pub created_at: DateTime<Utc>,
    pub tried_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// Which deliveries are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeliveryFilter<'a> {
    /// Of this webhook.
    pub webhook_id: Option<i64>,
    /// In this state.
    pub state: Option<&'a str>,
    /// This one.
    pub id: Option<i64>,
    /// Older than this one.
    pub before: Option<i64>,
}

/// A delivery that is this process's to post, until somebody else may.
#[derive(Clone, Debug)]
pub struct Due {
    /// The delivery.
    pub id: i64,
    /// Its webhook.
    pub webhook_id: i64,
    /// What receivers tell a second one by.
    pub dedupe_key: String,
    /// Posts begun, this one included.
    pub tries: i32,
    /// What to post.
    pub body: String,
    /// Where to.
    pub url: SecretString,
    /// What to sign it with.
    pub secret: SecretString,
    /// Private addresses will do.
    pub allow_private: bool,
}

/// What came of a post.
#[derive(Clone, Copy, Debug)]
pub struct Posted<'a> {
    /// The delivery.
    pub id: i64,
    /// Its tries when it was posted.
    pub tries: i32,
    /// pending, delivered or dead.
    pub state: &'a str,
    /// How long it waits, while pending.
    pub wait: Duration,
    /// HTTP status of the answer.
    pub status: Option<i32>,
    /// What was wrong.
    pub error: Option<&'a str>,
    /// Why its webhook is turned off.
    pub turn_off: Option<&'a str>,
}

/// How far back the notifier looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// The database's clock when the round began.
    pub now: DateTime<Utc>,
    /// The earliest that any webhook may want to be told of.
    pub from: DateTime<Utc>,
    /// Some webhook wants to be told of what needs a person.
    pub inbox: bool,
    /// Some webhook wants to be told of completed tasks.
    pub completed: bool,
    /// Some webhook wants to be told of hosts that are gone.
    pub hosts: bool,
}

/// What one statement noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Items that were not noted when it began. As many as were asked for: there may be more.
    pub found: i64,
    /// Those that nobody else noted meanwhile.
    pub new: i64,
}

fn noted(row: &Row) -> Noted {
    Noted { found: row.get(0), new: row.get(1) }
}

fn due(row: &Row) -> Due {
    Due {
        id: row.get(0),
        webhook_id: row.get(1),
        dedupe_key: row.get(2),
        tries: row.get(3),
        body: row.get(4),
        url: SecretString::from(row.get::<_, String>(5)),
        secret: SecretString::from(row.get::<_, String>(6)),
        allow_private: row.get(7),
    }
}

impl Store {
    /// Registers a webhook; returns its id.
    pub async fn add_webhook(&self, webhook: &NewWebhook<'_>) -> Result<i64> {
        let sql = "INSERT INTO millhand.webhooks (url, secret, events, project, allow_private) \
                   VALUES ($1, $2, $3, $4, $5) RETURNING id";
        let client = self.client().await?;
        let secret = webhook.secret.expose_secret();
        let row = client
            .query_one(sql, &[&webhook.url, &secret, &webhook.events, &webhook.project, &webhook.allow_private])
            .await?;
        Ok(row.get(0))
    }

    /// All webhooks, or one.
    pub async fn webhooks(&self, id: Option<i64>) -> Result<Vec<WebhookRow>> {
        let rows = self.client().await?.query(include_str!("sql/webhook_rows.sql"), &[&id]).await?;
        Ok(rows
            .iter()
            .map(|row| WebhookRow {
                id: row.get(0),
                url: row.get(1),
                events: row.get(2),
                project: row.get(3),
                allow_private: row.get(4),
                enabled: row.get(5),
                disabled_reason: row.get(6),
                created_at: row.get(7),
                pending: row.get(8),
                dead: row.get(9),
            })
            .collect())
    }

    /// Deliveries that were given up, and webhooks that their receivers had turned off.
    pub async fn webhook_trouble(&self) -> Result<(i64, i64)> {
        let sql = "SELECT (SELECT count(*) FROM millhand.deliveries WHERE state = 'dead'), \
                   (SELECT count(*) FROM millhand.webhooks WHERE NOT enabled AND disabled_reason IS NOT NULL)";
        let row = self.client().await?.query_one(sql, &[]).await?;
        Ok((row.get(0), row.get(1)))
    }

    /// Removes a webhook with its deliveries; false if there is none.
    pub async fn remove_webhook(&self, id: i64) -> Result<bool> {
        Ok(self.client().await?.execute("DELETE FROM millhand.webhooks WHERE id = $1", &[&id]).await? > 0)
    }

    /// Turns a webhook on or off; false if there is none. Turned on, it is told what comes from then on.
    pub async fn switch_webhook(&self, id: i64, on: bool) -> Result<bool> {
        let sql = "UPDATE millhand.webhooks SET enabled = $2, disabled_reason = NULL, \
                   enabled_at = CASE WHEN $2 AND NOT enabled THEN now() ELSE enabled_at END, \
                   watermark = CASE WHEN $2 AND NOT enabled THEN now() ELSE watermark END WHERE id = $1";
        let client = self.client().await?;
        let found = client.execute(sql, &[&id, &on]).await? > 0;
        client.batch_execute("NOTIFY webhooks_changed").await?;
        Ok(found)
    }

    /// How far back the notifier has to look; none: nobody wants to be told anything.
    pub async fn outlook(&self, overlap: Duration) -> Result<Option<Outlook>> {
        let sql = "SELECT clock_timestamp(), \
                   min(greatest(enabled_at, least(watermark, clock_timestamp()) - make_interval(secs => $1))), \
                   coalesce(bool_or(events && ARRAY['task.failed', 'task.blocked', 'task.needs_you']), false), \
                   coalesce(bool_or(events && ARRAY['task.completed', 'change_set.ready']), false), \
                   coalesce(bool_or('host.gone' = ANY (events)), false) \
                   FROM millhand.webhooks WHERE enabled";
        let client = self.client().await?;
        let statement = client.prepare_cached(sql).await?;
        let row = client.query_one(&statement, &[&seconds(overlap)]).await?;
        let outlook =
            |from| Outlook { now: row.get(0), from, inbox: row.get(2), completed: row.get(3), hosts: row.get(4) };
        Ok(row.get::<_, Option<_>>(1).map(outlook))
    }

    /// Notes what came into the inbox, as deliveries.
    pub async fn note_inbox(&self, outlook: Outlook, overlap: Duration, at_most: i64) -> Result<Noted> {
        self.note(include_str!("sql/note_inbox.sql"), outlook, overlap, at_most).await
    }

    /// Notes tasks that completed, likewise.
    pub async fn note_completed(&self, outlook: Outlook, overlap: Duration, at_most: i64) -> Result<Noted> {
        self.note(include_str!("sql/note_completed.sql"), outlook, overlap, at_most).await
    }

    /// One statement, sent whole: should this process be stopped, nobody waits for it.
    async fn note(&self, sql: &str, outlook: Outlook, overlap: Duration, at_most: i64) -> Result<Noted> {
        let client = self.client().await?;
        let statement = client.prepare_cached(sql).await?;
        Ok(noted(&client.query_one(&statement, &[&outlook.from, &seconds(overlap), &at_most]).await?))
    }

    /// Notes hosts that are gone and that tasks wait for.
    pub async fn note_hosts(&self, at_most: i64, tasks_counted: i64) -> Result<Noted> {
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/note_hosts.sql")).await?;
        Ok(noted(&client.query_one(&statement, &[&at_most, &tasks_counted]).await?))
    }

    /// All that came to rest well before this has been noted. Moved in steps, and back should the clock have been set back.
    pub async fn move_watermarks(&self, to: DateTime<Utc>, step: Duration) -> Result<()> {
        let sql = "UPDATE millhand.webhooks SET watermark = $1 \
                   WHERE enabled AND (watermark < $1::timestamptz - make_interval(secs => $2) OR watermark > $1)";
        let client = self.client().await?;
        let statement = client.prepare_cached(sql).await?;
        client.execute(&statement, &[&to, &seconds(step)]).await?;
        Ok(())
    }

    /// Takes deliveries that are due; nobody else does within `lease`. `full` are webhooks that have enough under way.
    pub async fn claim_deliveries(&self, each: i64, at_most: i64, lease: Duration, full: &[i64]) -> Result<Vec<Due>> {
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/claim_deliveries.sql")).await?;
        let rows = client.query(&statement, &[&each, &at_most, &seconds(lease), &full]).await?;
        Ok(rows.iter().map(due).collect())
    }

    /// Makes a delivery that tells nothing, and takes it; none: there is no such webhook.
    pub async fn test_delivery(&self, webhook_id: i64, key: &str, lease: Duration) -> Result<Option<Due>> {
        let sql = "WITH made AS ( \
                       INSERT INTO millhand.deliveries (webhook_id, dedupe_key, event, payload, tries, tried_at, next_try_at) \
                       SELECT id, $2, 'webhook.test', jsonb_build_object('v', 1, 'type', 'webhook.test', 'timestamp', \
                              to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), \
                              'data', jsonb_build_object('webhook', 'wh' || id)), 1, now(), now() + make_interval(secs => $3) \
                       FROM millhand.webhooks WHERE id = $1 RETURNING * \
                   ) SELECT d.id, d.webhook_id, d.dedupe_key, d.tries, d.payload::text, w.url, w.secret, w.allow_private \
                     FROM made d JOIN millhand.webhooks w ON w.id = d.webhook_id";
        let client = self.client().await?;
        Ok(client.query_opt(sql, &[&webhook_id, &key, &seconds(lease)]).await?.as_ref().map(due))
    }

    /// Notes what came of a post; false: somebody else has taken the delivery since.
    pub async fn end_delivery(&self, posted: &Posted<'_>) -> Result<bool> {
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/end_delivery.sql")).await?;
        let error = posted.error.map(without_nul);
        let row = client
            .query_opt(
                &statement,
                &[
                    &posted.id,
                    &posted.tries,
                    &posted.state,
                    &seconds(posted.wait),
                    &posted.status,
                    &error.as_deref(),
                    &posted.turn_off,
                ],
            )
            .await?;
        Ok(row.is_some())
    }

    /// Deliveries, newest first.
    pub async fn deliveries(&self, filter: DeliveryFilter<'_>, at_most: i64) -> Result<Vec<DeliveryRow>> {
        let client = self.client().await?;
        let rows = client
            .query(
                include_str!("sql/delivery_rows.sql"),
                &[&filter.webhook_id, &filter.state, &filter.id, &at_most, &filter.before],
            )
            .await?;
        Ok(rows
            .iter()
            .map(|row| DeliveryRow {
                id: row.get(0),
                webhook_id: row.get(1),
                dedupe_key: row.get(2),
                event: row.get(3),
                task_id: row.get(4),
                payload: row.get(5),
                state: row.get(6),
                tries: row.get(7),
                next_try_at: row.get(8),
                last_status: row.get(9),
                last_error: row.get(10),
                created_at: row.get(11),
                tried_at: row.get(12),
                ended_at: row.get(13),
            })
            .collect())
    }

    /// Posts deliveries again that were given up, at once; one that waits for its next try, too. Returns how many.
    pub async fn retry_deliveries(&self, ids: &[i64]) -> Result<u64> {
        let sql = "UPDATE millhand.deliveries SET state = 'pending', tries = 0, next_try_at = now(), ended_at = NULL \
                   WHERE id = ANY ($1) AND (state = 'dead' OR (state = 'pending' AND last_error IS NOT NULL))";
        let client = self.client().await?;
        let count = client.execute(sql, &[&ids]).await?;
        client.batch_execute("NOTIFY webhooks_changed").await?;
        Ok(count)
    }

    /// The same for all that were given up, or those of a webhook.
    pub async fn retry_dead_deliveries(&self, webhook_id: Option<i64>) -> Result<u64> {
        let sql = "UPDATE millhand.deliveries SET state = 'pending', tries = 0, next_try_at = now(), ended_at = NULL \
                   WHERE state = 'dead' AND ($1::bigint IS NULL OR webhook_id = $1)";
        let client = self.client().await?;
        let count = client.execute(sql, &[&webhook_id]).await?;
        client.batch_execute("NOTIFY webhooks_changed").await?;
        Ok(count)
    }

    /// Takes away deliveries that ended more than so many days ago: a batch. Returns how many.
    pub async fn prune_deliveries(&self, kept_days: i32, at_most: i64) -> Result<i64> {
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/prune_deliveries.sql")).await?;
        Ok(client.query_one(&statement, &[&kept_days, &at_most]).await?.get(0))
    }
}
