-- $1 token, $2 the agent's id, $3 kind, $4 what, $5 summary, $6 seconds to answer.
-- Asked again by a turn that was followed before, it is the same ask, with its first deadline and its answer.
WITH mine AS (
    SELECT l.task_id, a.id AS attempt_id
    FROM millhand.leases l JOIN millhand.attempts a ON a.token = l.token
    WHERE l.token = $1 FOR SHARE OF l
)
INSERT INTO millhand.asks AS k (task_id, attempt_id, external_id, kind, what, summary, deadline_at)
SELECT task_id, attempt_id, $2, $3, $4, $5, clock_timestamp() + make_interval(secs => $6) FROM mine
ON CONFLICT (external_id) DO UPDATE
    SET attempt_id = excluded.attempt_id, state = CASE k.state WHEN 'withdrawn' THEN 'open' ELSE k.state END
    WHERE k.task_id = excluded.task_id
RETURNING k.id
