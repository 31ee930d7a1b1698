-- Deliveries, newest first. $1 of this webhook, $2 in this state, $3 this one; each may be null. $4 at most. $5 older than this one; may be null.
SELECT id, webhook_id, dedupe_key, event, task_id, payload, state, tries, next_try_at, last_status, last_error,
       created_at, tried_at, ended_at
FROM millhand.deliveries
WHERE ($1::bigint IS NULL OR webhook_id = $1) AND ($2::text IS NULL OR state = $2) AND ($3::bigint IS NULL OR id = $3)
  AND id < coalesce($5, 9223372036854775807)
ORDER BY id DESC
LIMIT $4
