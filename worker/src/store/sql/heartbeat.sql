-- $1 tokens, $2 lease in seconds, $3 worker, $4 what it has done so far. A lease that somebody has locked is skipped: locked is not lost.
WITH held AS MATERIALIZED (
    SELECT token FROM millhand.leases WHERE token = ANY ($1) ORDER BY session_id FOR UPDATE SKIP LOCKED
), renewed AS (
    UPDATE millhand.leases l
    SET expires_at = clock_timestamp() + make_interval(secs => $2)
    FROM held WHERE l.token = held.token
    RETURNING l.token
), alive AS (
    UPDATE millhand.workers SET heartbeat_at = clock_timestamp(), counters = $4 WHERE id = $3
)
SELECT l.token, r.token IS NOT NULL AS renewed, t.cancel_requested_at IS NOT NULL AS cancelled
FROM millhand.leases l
JOIN millhand.tasks t ON t.id = l.task_id
LEFT JOIN renewed r ON r.token = l.token
WHERE l.token = ANY ($1)
