//! What is kept for how long: transcripts by day, finished tasks. What was paid is kept for ever.

use chrono::NaiveDate;
use tokio_postgres::error::SqlState;

use super::{Result, Store, StoreError};

/// Key of the advisory lock under which one worker prunes at a time: "prune" in ASCII.
const PRUNES: i64 = 0x70_7275_6e65;

/// What a round of pruning took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Tasks, with their attempts.
    pub tasks: i64,
    /// Sessions that had nothing left.
    pub sessions: i64,
}

/// Whether a transcript could not be written for want of its day's table.
pub(super) fn is_without_day(error: &tokio_postgres::Error) -> bool {
    let Some(error) = error.as_db_error() else { return false };
    *error.code() == SqlState::CHECK_VIOLATION && error.constraint().is_none() && error.table() == Some("turn_events")
}

/// Makes the table that the transcript of an attempt goes into.
pub(super) async fn make_day_of(client: &tokio_postgres::Client, attempt_id: i64) -> Result<()> {
    let sql =
        "SELECT millhand.make_event_day((started_at AT TIME ZONE 'UTC')::date) FROM millhand.attempts WHERE id = $1";
    client.execute(sql, &[&attempt_id]).await?;
    Ok(())
}

impl Store {
    /// Makes the tables for the transcripts of today and the days after it. Returns how many were missing.
    pub async fn make_event_days(&self, ahead: i32) -> Result<i64> {
        let sql = "SELECT count(*) FILTER (WHERE millhand.make_event_day(day::date)) \
                   FROM generate_series((now() AT TIME ZONE 'UTC')::date, (now() AT TIME ZONE 'UTC')::date + $1::int, '1 day') day";
        Ok(self.client().await?.query_one(sql, &[&ahead]).await?.get(0))
    }

    /// Drops the transcripts of attempts that started more than so many days ago. Returns how many days went.
    ///
    /// Each is a DROP of its own that gives up at once where somebody is reading: the next round tries again.
    pub async fn drop_event_days(&self, kept_days: i32) -> Result<u64> {
        let client = self.client().await?;
        let sql = "SELECT to_date(right(c.relname, 8), 'YYYYMMDD') FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
                   WHERE i.inhparent = 'millhand.turn_events'::regclass AND c.relname ~ '^turn_events_[0-9]{8}$' \
                   AND to_date(right(c.relname, 8), 'YYYYMMDD') < (now() AT TIME ZONE 'UTC')::date - $1::int ORDER BY 1";
        let mut dropped = 0;
        for row in client.query(sql, &[&kept_days]).await? {
            let day: NaiveDate = row.get(0);
            match client.query_one("SELECT millhand.drop_event_day($1)", &[&day]).await {
                Ok(row) => dropped += u64::from(row.get::<_, bool>(0)),
                Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                    tracing::debug!(%day, "old transcripts are being read; they go later");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(dropped)
    }

    /// Takes away tasks that came to rest more than so many days ago, and sessions that have nothing left: a batch of each.
    ///
    /// None: another worker is at it.
    pub async fn prune(&self, kept_days: i32, at_most: i64) -> Result<Option<Pruned>> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let row = transaction.query_one("SELECT pg_try_advisory_xact_lock($1)", &[&PRUNES]).await?;
        if !row.get::<_, bool>(0) {
            return Ok(None);
        }
        let mut counts = [0; 2];
        for (count, sql) in
            counts.iter_mut().zip([include_str!("sql/prune_tasks.sql"), include_str!("sql/prune_sessions.sql")])
        {
            let statement = transaction.prepare_cached(sql).await?;
            *count = transaction.query_one(&statement, &[&kept_days, &at_most]).await?.get(0);
        }
        transaction.commit().await.map_err(StoreError::from)?;
        Ok(Some(Pruned { tasks: counts[0], sessions: counts[1] }))
    }
}
