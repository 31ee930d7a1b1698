-- Sessions with a task to run whose host has had no worker for a while, and that another host may take over.
-- $1 this host, $2 seconds, $3 agents that this host can run, $4 sessions left out, $5 at most
WITH RECURSIVE lanes (lane) AS (
    (SELECT lane FROM millhand.tasks WHERE state = 'pending' ORDER BY lane LIMIT 1)
    UNION ALL
    SELECT (SELECT t.lane FROM millhand.tasks t WHERE t.state = 'pending' AND t.lane > l.lane ORDER BY t.lane LIMIT 1)
    FROM lanes l WHERE l.lane IS NOT NULL
), away AS (
    SELECT lane, split_part(lane, '/', 1) AS host FROM lanes
    WHERE split_part(lane, '/', 1) NOT IN ('*', $1) AND split_part(lane, '/', 3) = ANY ($3)
      AND NOT EXISTS (
          SELECT 1 FROM millhand.workers w
          WHERE w.host_id = split_part(lane, '/', 1) AND greatest(w.heartbeat_at, w.stopped_at) > now() - make_interval(secs => $2)
      )
)
SELECT s.id AS session_id, p.id AS project_id, s.project, p.source, s.base_branch, s.base_commit, s.home_host
FROM away a
JOIN millhand.tasks t ON t.state = 'pending' AND t.lane = a.lane AND t.run_at <= now()
JOIN millhand.sessions s ON s.id = t.session_id
JOIN millhand.projects p ON p.name = s.project
WHERE s.state = 'open' AND s.home_host = a.host AND s.base_commit IS NOT NULL AND p.host_id IS NULL AND s.id <> ALL ($4)
ORDER BY t.priority, t.id
LIMIT $5
