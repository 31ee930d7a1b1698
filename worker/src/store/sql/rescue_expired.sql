-- $1 lease in seconds, $2 losses allowed, $3 at most. By the database's clock alone; after a restart of the database
-- every lease gets a whole lease's time again, so that it cannot cause a mass rescue.
WITH lost AS MATERIALIZED (
    SELECT token, task_id, 1 AS losses, 'its worker stopped answering' AS why FROM millhand.leases
    WHERE greatest(expires_at, pg_postmaster_start_time() + make_interval(secs => $1)) < clock_timestamp()
    LIMIT $3 FOR UPDATE SKIP LOCKED
)
