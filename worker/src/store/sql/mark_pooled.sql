-- The folder has a row of its own then; what stays of the session's must not name it. $1 worktree, $2 path in the pool
WITH reaped AS (
    SELECT id, slot FROM millhand.worktrees WHERE id = $1 AND state = 'reaping' FOR UPDATE
), gone AS (
    UPDATE millhand.worktrees w SET state = 'gone', slot = NULL, reap_asked_at = NULL, problem = NULL, bytes = NULL
    FROM reaped WHERE w.id = reaped.id
    RETURNING w.project, w.project_id, w.host_id, w.branch, w.base_commit, reaped.slot
)
INSERT INTO millhand.worktrees (project, project_id, host_id, path, branch, base_commit, state, slot)
SELECT project, project_id, host_id, $2, branch, base_commit, 'pooled', slot FROM gone
