-- What came of a post, noted by the one who is still at it. $1 id, $2 tries, $3 state, $4 seconds to the next try, $5 status, $6 error,
-- $7 why its webhook is to be turned off.
WITH ended AS (
    UPDATE millhand.deliveries
    SET state = $3, next_try_at = now() + make_interval(secs => $4), last_status = $5, last_error = $6,
        ended_at = CASE WHEN $3 <> 'pending' THEN now() END
    WHERE id = $1 AND tries = $2 AND state = 'pending'
    RETURNING webhook_id
), turned_off AS (
    UPDATE millhand.webhooks w SET enabled = false, disabled_reason = $7
    FROM ended WHERE w.id = ended.webhook_id AND $7::text IS NOT NULL
)
SELECT webhook_id FROM ended
