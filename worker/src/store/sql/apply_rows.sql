-- Applies of a project on a host that are not finished.
-- $1 host, $2 project
SELECT a.id, a.change_set_id, a.session_id, a.project_id, a.host_id, a.who, a.remote, a.branch, a.old_commit, a.new_commit,
       a.rebases, a.files, a.state, a.problem, a.created_at, a.ended_at
FROM millhand.applies a
WHERE a.host_id = $1 AND a.project_id = $2 AND a.state IN ('begun', 'landed')
ORDER BY a.id
