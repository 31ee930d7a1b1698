-- $1 token, $2 base branch, $3 base commit, $4 host, $5 worktree, $6 branch
WITH lease AS (
    SELECT session_id FROM millhand.leases WHERE token = $1 FOR SHARE
), settled AS (
    UPDATE millhand.sessions s
    SET base_branch = coalesce(s.base_branch, $2), base_commit = coalesce(s.base_commit, $3), home_host = $4
    FROM lease WHERE s.id = lease.session_id AND (s.base_commit IS NULL OR s.home_host IS DISTINCT FROM $4)
)
INSERT INTO millhand.worktrees (session_id, project, host_id, path, branch, base_commit, state)
SELECT s.id, s.project, $4, $5, $6, $3, 'in_use'
FROM lease JOIN millhand.sessions s ON s.id = lease.session_id
ON CONFLICT (host_id, path) DO UPDATE
    SET state = 'in_use', last_used_at = now(), session_id = excluded.session_id, project = excluded.project,
        branch = excluded.branch, base_commit = excluded.base_commit
RETURNING id
