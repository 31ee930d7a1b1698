//! What agents ask of people, and what those answer.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::{Result, Store, seconds, turns::scrub, without_nul};
use crate::model::ask::{Answer, AnsweredBy, Decision, OpenAsk};

/// Longest line that is kept of what is asked.
const SUMMARY_CHARS: usize = 1_000;

/// An ask, as it is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[expect(missing_docs, reason = "columns of millhand.asks, which schema.sql comments on")]
pub struct AskRow {
    pub id: i64,
    pub task_id: i64,
    pub kind: String,
    pub what: serde_json::Value,
    pub summary: String,
    pub state: String,
    pub answer: Option<String>,
    pub message: Option<String>,
    pub replies: Option<serde_json::Value>,
    pub answered_by: Option<String>,
    pub asked_at: DateTime<Utc>,
    pub deadline_at: DateTime<Utc>,
    pub answered_at: Option<DateTime<Utc>>,
}

pub(super) fn ask(row: &tokio_postgres::Row) -> AskRow {
    AskRow {
        id: row.get(0),
        task_id: row.get(1),
        kind: row.get(2),
        what: row.get(3),
        summary: row.get(4),
        state: row.get(5),
        answer: row.get(6),
        message: row.get(7),
        replies: row.get(8),
        answered_by: row.get(9),
        asked_at: row.get(10),
        deadline_at: row.get(11),
        answered_at: row.get(12),
    }
}

impl Store {
    /// Puts an ask of a running turn before people. Returns its id; none if the lease is not held any more, or the ask is one that
    /// another task's turn left behind.
    pub async fn open_ask(&self, token: Uuid, ask: &OpenAsk, deadline: Duration) -> Result<Option<i64>> {
        let mut what = ask.what();
        scrub(&mut what);
        let summary: String = without_nul(&ask.summary()).chars().take(SUMMARY_CHARS).collect();
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/open_ask.sql")).await?;
        let row = client
            .query_opt(&statement, &[&token, &ask.id, &ask.kind(), &Json(&what), &summary, &seconds(deadline)])
            .await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// The answer, once there is one: a person's, or no as nobody gave one in time.
    pub async fn ask_answer(&self, id: i64) -> Result<Option<Decision>> {
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/ask_answer.sql")).await?;
        let Some(row) = client.query_opt(&statement, &[&id]).await? else { return Ok(None) };
        let answer = match row.get::<_, &str>("answer") {
            "once" => Answer::Once,
            "always" => Answer::Always,
            "reply" => {
                let Json(replies) = row.get::<_, Json<Vec<Vec<String>>>>("replies");
                Answer::Replies(replies)
            }
            _ => Answer::Reject { message: row.get("message") },
        };
        let by = row.get::<_, Option<String>>("answered_by").map_or(AnsweredBy::Deadline, AnsweredBy::Person);
        Ok(Some(Decision { answer, by }))
    }

    /// The turn of an attempt is over: what it asked needs no answer any more.
    pub async fn withdraw_asks(&self, attempt_id: i64) -> Result<()> {
        let sql = "UPDATE millhand.asks SET state = 'withdrawn' WHERE attempt_id = $1 AND state = 'open'";
        self.client().await?.execute(sql, &[&attempt_id]).await?;
        Ok(())
    }

    /// Answers an ask. False if nobody waits for the answer any more.
    pub async fn answer_ask(
        &self,
        id: i64,
        answer: &str,
        message: Option<&str>,
        replies: Option<&[Vec<String>]>,
    ) -> Result<bool> {
        let client = self.client().await?;
        let sql = "SELECT millhand.answer_ask($1, $2, $3, $4)";
        Ok(client.query_one(sql, &[&id, &answer, &message, &replies.map(Json)]).await?.get(0))
    }

    /// An ask.
    pub async fn ask(&self, id: i64) -> Result<Option<AskRow>> {
        let sql = "SELECT id, task_id, kind, what, summary, state, answer, message, replies, answered_by, asked_at, deadline_at, \
                   answered_at FROM millhand.asks WHERE id = $1";
        let row = self.client().await?.query_opt(sql, &[&id]).await?;
        Ok(row.as_ref().map(ask))
    }
}
