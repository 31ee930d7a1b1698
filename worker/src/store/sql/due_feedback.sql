-- Change sets whose failed checks go back to the agent: all checks are over, and the session has nothing else to do.
-- $1 host, $2 at most
SELECT c.id AS change_set_id, coalesce(f.round, 0) + 1 AS round, p.check_resends AS at_most
FROM millhand.change_sets c
JOIN millhand.sessions s ON s.id = c.session_id AND s.home_host = $1 AND s.state = 'open'
JOIN millhand.projects p ON p.name = s.project AND p.check_resends > 0
JOIN millhand.tasks t ON t.id = c.task_id AND t.state = 'completed'
-- It was sent to mend what an earlier change set failed.
LEFT JOIN millhand.check_feedback f ON f.task_id = t.id
WHERE c.state = 'open'
  AND coalesce(f.round, 0) < p.check_resends
  AND EXISTS (SELECT FROM millhand.check_runs r WHERE r.change_set_id = c.id AND r.state IN ('failed', 'timed_out'))
  AND NOT EXISTS (SELECT FROM millhand.check_runs r WHERE r.change_set_id = c.id AND r.state IN ('pending', 'running'))
  AND NOT EXISTS (SELECT FROM millhand.check_feedback g WHERE g.change_set_id = c.id)
  AND NOT EXISTS (SELECT FROM millhand.tasks o WHERE o.session_id = s.id
                  AND o.state IN ('pending', 'waiting', 'running', 'blocked'))
ORDER BY c.id
LIMIT $2
