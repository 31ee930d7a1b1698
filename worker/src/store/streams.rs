//! What streams read: many followed tasks by two queries, and what is new in the whole.

use std::collections::HashMap;

use serde::Serialize;

use super::{
    Result, Store,
    reads_turns::{TurnEventRow, turn_event},
};

/// How a followed task stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The task.
    pub task_id: i64,
    /// Another text: something of it has changed.
    pub standing: String,
    /// It does not run yet.
    pub waits: bool,
    /// It runs no more, unless somebody retries it.
    pub is_at_rest: bool,
    /// The attempt that is read is over; none: it has no such attempt.
    pub is_ended: Option<bool>,
    /// The attempt behind that one.
    pub next_attempt: Option<i64>,
}

/// Something new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct News {
    /// task, audit, ask, apply, comment.
    pub kind: String,
    /// Its key.
    pub id: i64,
    /// The task that it is about.
    pub task_id: Option<i64>,
    /// The session that it is about.
    pub session_id: Option<i64>,
    /// Of the audit log: what was done.
    pub action: Option<String>,
    /// The project that it is about.
    pub project: Option<String>,
}

impl Store {
    /// How tasks stand that are followed; each with the attempt that is read (0: none yet).
    pub async fn standings(&self, followed: &[(i64, i64)]) -> Result<Vec<Standing>> {
        let (tasks, attempts): (Vec<i64>, Vec<i64>) = followed.iter().copied().unzip();
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/followed_tasks.sql")).await?;
        let rows = client.query(&statement, &[&tasks, &attempts]).await?;
        Ok(rows
            .iter()
            .map(|row| Standing {
                task_id: row.get("task_id"),
                standing: row.get("standing"),
                waits: row.get("waits"),
                is_at_rest: row.get("is_at_rest"),
                is_ended: row.get("is_ended"),
                next_attempt: row.get("next_attempt"),
            })
            .collect())
    }

    /// The transcripts of attempts behind places in them, by attempt.
    pub async fn events_behind(&self, places: &[(i64, i32)], at_most: i64) -> Result<HashMap<i64, Vec<TurnEventRow>>> {
        let (attempts, seqs): (Vec<i64>, Vec<i32>) = places.iter().copied().unzip();
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/followed_events.sql")).await?;
        let mut found: HashMap<i64, Vec<TurnEventRow>> = HashMap::new();
        for row in client.query(&statement, &[&attempts, &seqs, &at_most]).await? {
            let event = turn_event(&row);
            found.entry(event.attempt_id).or_default().push(event);
        }
        Ok(found)
    }

    /// Where the transcript of a task is now: its newest attempt, and the last place in it.
    pub async fn end_of_transcript(&self, task_id: i64) -> Result<Option<(i64, i32)>> {
        let sql = "SELECT a.id, coalesce((SELECT max(e.seq) FROM millhand.turn_events e WHERE e.attempt_id = a.id \
                   AND e.day = (a.started_at AT TIME ZONE 'UTC')::date), 0) \
                   FROM millhand.attempts a WHERE a.task_id = $1 ORDER BY a.number DESC LIMIT 1";
        let row = self.client().await?.query_opt(sql, &[&task_id]).await?;
        Ok(row.map(|row| (row.get(0), row.get(1))))
    }

    /// What is new behind these keys of tasks, audit log, asks, applies and comments.
    pub async fn news(&self, behind: [i64; 5], at_most: i64) -> Result<Vec<News>> {
        let client = self.client().await?;
        let statement = client.prepare_cached(include_str!("sql/news.sql")).await?;
        let [tasks, audit, asks, applies, comments] = behind;
        let rows = client.query(&statement, &[&tasks, &audit, &asks, &applies, &comments, &at_most]).await?;
        Ok(rows
            .iter()
            .map(|row| News {
                kind: row.get(0),
                id: row.get(1),
                task_id: row.get(2),
                session_id: row.get(3),
                action: row.get(4),
                project: row.get(5),
            })
            .collect())
    }
}
