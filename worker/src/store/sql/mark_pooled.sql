-- $1 worktree, $2 path in the pool
WITH gone AS (
    UPDATE millhand.worktrees SET state = 'gone', reap_asked_at = NULL, problem = NULL, bytes = NULL
    WHERE id = $1 AND state = 'reaping'
    RETURNING project, project_id, host_id, branch, base_commit, slot
)
INSERT INTO millhand.worktrees (project, project_id, host_id, path, branch, base_commit, state, slot)
SELECT project, project_id, host_id, $2, branch, base_commit, 'pooled', slot FROM gone
