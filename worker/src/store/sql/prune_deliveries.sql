-- Deliveries that ended long ago. $1 days that they are kept, $2 at most. Not those that the notifier could find anew: its watermark may
-- have stood still.
WITH due AS MATERIALIZED (
    SELECT d.id
    FROM millhand.deliveries d JOIN millhand.webhooks w ON w.id = d.webhook_id
    WHERE d.state <> 'pending' AND d.ended_at < now() - make_interval(days => $1)
      AND (NOT w.enabled OR d.created_at < w.watermark - interval '1 day')
    ORDER BY d.ended_at LIMIT $2
    FOR UPDATE OF d SKIP LOCKED
), gone AS (
    DELETE FROM millhand.deliveries d USING due WHERE d.id = due.id RETURNING d.id
)
SELECT count(*) FROM gone
