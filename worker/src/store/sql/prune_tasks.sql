-- Tasks that nobody will ask for again, with what is recorded of them but their costs. $1 days that they are kept, $2 at most.
-- Kept are: what an open session has, what is in the inbox, and what changed files that nobody has decided on.
WITH due AS MATERIALIZED (
    SELECT t.id
    FROM millhand.tasks t JOIN millhand.sessions s ON s.id = t.session_id
    WHERE s.state = 'closed' AND t.finished_at < now() - make_interval(days => $1)
      AND (t.state IN ('completed', 'cancelled') OR (t.state = 'failed' AND t.dismissed_at IS NOT NULL))
      AND NOT EXISTS (SELECT 1 FROM millhand.change_sets c
                      WHERE c.task_id = t.id AND c.files > 0 AND c.state NOT IN ('draft', 'superseded', 'applied', 'rejected'))
    ORDER BY t.id LIMIT $2
    FOR UPDATE OF t SKIP LOCKED FOR SHARE OF s SKIP LOCKED
), undone AS (
    -- What a later turn has replaced, and what no turn has won with.
    DELETE FROM millhand.change_sets c USING due
    WHERE c.task_id = due.id AND (c.files = 0 OR c.state IN ('draft', 'superseded'))
), gone AS (
    DELETE FROM millhand.tasks t USING due WHERE t.id = due.id RETURNING t.id
)
SELECT count(*) FROM gone
