-- $1 host, $2 losses allowed, $3 the worker that now holds the host: its predecessors are dead.
WITH stopped AS (
    UPDATE millhand.workers SET stopped_at = clock_timestamp()
    WHERE host_id = $1 AND id <> $3 AND stopped_at IS NULL
), lost AS MATERIALIZED (
    SELECT l.token, l.task_id, 1 AS losses, 'its worker stopped answering' AS why FROM millhand.leases l JOIN millhand.workers w ON w.id = l.worker_id
    WHERE w.host_id = $1 AND w.id <> $3
    FOR UPDATE OF l SKIP LOCKED
)
