-- $1 worker, $2 losses allowed, $3 tokens that it holds. A lease of this worker's that it does not know of is one whose claim
-- was answered to nobody: nothing was begun with it, so it counts for nothing.
WITH lost AS MATERIALIZED (
    SELECT token, task_id, 0 AS losses, 'the answer to its claim was lost' AS why FROM millhand.leases
    WHERE worker_id = $1 AND NOT token = ANY ($3)
    FOR UPDATE SKIP LOCKED
)
