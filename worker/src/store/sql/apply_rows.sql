-- Applies of a project that are not finished and for a host to finish: its own, and those to a remote of a host that is gone.
-- $1 host, $2 project, $3 seconds without a worker
SELECT a.id, a.change_set_id, a.session_id, a.project_id, a.host_id, a.who, a.remote, a.branch, a.old_commit, a.new_commit,
       a.rebases, a.files, a.state, a.problem, a.created_at, a.ended_at, a.tree_id
FROM millhand.applies a
WHERE a.project_id = $2 AND a.state IN ('begun', 'landed')
  AND (a.host_id = $1 OR (a.remote AND NOT EXISTS (
      SELECT 1 FROM millhand.workers w
      WHERE w.host_id = a.host_id AND greatest(w.heartbeat_at, w.stopped_at) > now() - make_interval(secs => $3))))
ORDER BY a.id
