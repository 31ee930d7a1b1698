-- Closed sessions that have nothing left. $1 days that they are kept, $2 at most.
WITH due AS MATERIALIZED (
    SELECT s.id FROM millhand.sessions s
    WHERE s.state = 'closed' AND s.created_at < now() - make_interval(days => $1)
      AND NOT EXISTS (SELECT 1 FROM millhand.tasks t WHERE t.session_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM millhand.leases l WHERE l.session_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM millhand.worktrees w WHERE w.session_id = s.id AND w.state <> 'gone')
      AND NOT EXISTS (SELECT 1 FROM millhand.change_sets c
                      WHERE c.session_id = s.id AND c.files > 0 AND c.state NOT IN ('draft', 'superseded', 'applied', 'rejected'))
    ORDER BY s.id LIMIT $2
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM millhand.sessions s USING due WHERE s.id = due.id RETURNING s.id
)
SELECT count(*) FROM gone
