-- Takes deliveries that are due, of each webhook a few. $1 at most of each, $2 at most, $3 seconds until somebody else may take them,
-- $4 webhooks that have enough under way.
WITH due AS MATERIALIZED (
    SELECT d.id
    FROM millhand.webhooks w
    CROSS JOIN LATERAL (
        SELECT id FROM millhand.deliveries
        WHERE webhook_id = w.id AND state = 'pending' AND next_try_at <= now()
        ORDER BY next_try_at LIMIT $1 FOR UPDATE SKIP LOCKED
    ) d
    WHERE w.enabled AND w.id <> ALL ($4::bigint[])
    LIMIT $2
)
UPDATE millhand.deliveries d
SET tries = d.tries + 1, tried_at = now(), next_try_at = now() + make_interval(secs => $3)
FROM due, millhand.webhooks w
WHERE d.id = due.id AND w.id = d.webhook_id
RETURNING d.id, d.webhook_id, d.dedupe_key, d.tries, d.payload::text, w.url, w.secret, w.allow_private
