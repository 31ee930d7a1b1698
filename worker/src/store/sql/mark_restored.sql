-- $1 worktree, $2 its session, if there is one
WITH logged AS (
    INSERT INTO millhand.audit_log (action, project, details)
    SELECT 'restore_worktree', project, jsonb_build_object('worktree_id', id, 'session_id', last_session_id)
    FROM millhand.worktrees WHERE id = $1
)
UPDATE millhand.worktrees
SET state = 'ready', session_id = $2, let_go_at = CASE WHEN $2::bigint IS NULL THEN now() END, kept = $2::bigint IS NULL,
    reap_asked_at = NULL, reason = NULL, problem = NULL, tried_at = NULL, slot = NULL, trashed_at = NULL, last_used_at = now()
WHERE id = $1
