-- Servers of agents, of workers heard of within the time that a lease lives. $1 that time in seconds
SELECT w.id AS worker_id, w.host_id, w.hostname, s.agent, p.name AS project, s.pid, s.turns, s.worktrees, s.resident_bytes, s.is_leaving,
       s.started_at
FROM millhand.workers w
CROSS JOIN LATERAL jsonb_to_recordset(w.servers) AS s (agent text, project_id bigint, pid bigint, turns bigint, worktrees bigint,
    resident_bytes bigint, is_leaving boolean, started_at timestamptz)
LEFT JOIN millhand.projects p ON p.id = s.project_id
WHERE w.stopped_at IS NULL AND w.heartbeat_at > now() - make_interval(secs => $1)
ORDER BY w.hostname, w.host_id, s.started_at, s.pid
