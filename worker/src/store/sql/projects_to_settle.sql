-- Projects with applies that are not finished and for a host to finish.
-- $1 host, $2 seconds without a worker
SELECT DISTINCT p.name
FROM millhand.applies a JOIN millhand.projects p ON p.id = a.project_id
WHERE a.state IN ('begun', 'landed')
  AND (a.host_id = $1 OR (a.remote AND (p.host_id IS NULL OR p.host_id = $1) AND NOT EXISTS (
      SELECT 1 FROM millhand.workers w
      WHERE w.host_id = a.host_id AND greatest(w.heartbeat_at, w.stopped_at) > now() - make_interval(secs => $2))))
ORDER BY p.name
