-- What is known of the worktree that a turn is about to use; a row is made before the folder, so that no folder is ever unknown.
-- $1 token, $2 host, $3 path, $4 branch, $5 base commit
WITH lease AS (
    SELECT session_id FROM millhand.leases WHERE token = $1 FOR SHARE
), begun AS (
    SELECT s.base_commit IS NOT NULL AS has_base FROM lease JOIN millhand.sessions s ON s.id = lease.session_id
), made AS (
    INSERT INTO millhand.worktrees (session_id, last_session_id, project, project_id, host_id, path, branch, base_commit, state,
        let_go_at)
    SELECT s.id, s.id, s.project, p.id, $2, $3, $4, $5, 'in_use', CASE WHEN s.state = 'closed' THEN now() END
    FROM lease JOIN millhand.sessions s ON s.id = lease.session_id JOIN millhand.projects p ON p.name = s.project
    ON CONFLICT (host_id, path) DO NOTHING
    RETURNING id, state, slot, checkpoint
)
SELECT id, state, slot, checkpoint, true AS is_new, has_base FROM made, begun
UNION ALL
SELECT w.id, w.state, w.slot, w.checkpoint, false, has_base
FROM begun JOIN millhand.worktrees w ON w.host_id = $2 AND w.path = $3
LIMIT 1
