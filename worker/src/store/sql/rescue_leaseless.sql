-- Tasks that run without a lease, which nobody would ever rescue. $1 seconds of grace, $2 losses allowed. The grace is looked at again
-- in the row as it is when it is locked: one that was claimed in this moment is left alone.
WITH found AS MATERIALIZED (
    SELECT t.id, t.last_attempt FROM millhand.tasks t
    WHERE t.state = 'running' AND coalesce(t.started_at, '-infinity') < now() - make_interval(secs => $1)
      AND NOT EXISTS (SELECT 1 FROM millhand.leases l WHERE l.task_id = t.id AND l.session_id = t.session_id)
    FOR UPDATE OF t SKIP LOCKED
), lost AS MATERIALIZED (
    SELECT coalesce(a.token, gen_random_uuid()) AS token, f.id AS task_id, 1 AS losses, 'its lease was gone' AS why
    FROM found f LEFT JOIN millhand.attempts a ON a.task_id = f.id AND a.number = f.last_attempt
)
