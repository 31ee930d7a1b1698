-- $1 token, $2 base branch, $3 base commit, $4 host, $5 worktree, $6 branch
WITH lease AS (
    SELECT session_id FROM millhand.leases WHERE token = $1 FOR SHARE
), settled AS (
    UPDATE millhand.sessions s
    SET base_branch = coalesce(s.base_branch, $2), base_commit = coalesce(s.base_commit, $3), home_host = $4
    FROM lease WHERE s.id = lease.session_id AND (s.base_commit IS NULL OR s.home_host IS DISTINCT FROM $4)
)
INSERT INTO millhand.worktrees (session_id, last_session_id, project, project_id, host_id, path, branch, base_commit, state, let_go_at)
SELECT s.id, s.id, s.project, p.id, $4, $5, $6, $3, 'in_use', CASE WHEN s.state = 'closed' THEN now() END
FROM lease JOIN millhand.sessions s ON s.id = lease.session_id JOIN millhand.projects p ON p.name = s.project
ON CONFLICT (host_id, path) DO UPDATE
    SET state = 'in_use', last_used_at = now(), session_id = excluded.session_id, last_session_id = excluded.last_session_id,
        project = excluded.project, project_id = excluded.project_id, branch = excluded.branch, base_commit = excluded.base_commit,
        let_go_at = excluded.let_go_at, reap_asked_at = NULL, kept = false, reason = NULL, problem = NULL, tried_at = NULL, checkpoint = NULL,
        unrecorded = false, slot = NULL, trashed_at = NULL
RETURNING id
