-- The newest result of a task, or of a session: the winning attempt's, never a draft. After a rollback an older one of the session is open,
-- and counts as its newest when it is decided, too.
SELECT c.id, c.session_id, c.task_id, c.attempt_id, c.project, c.agent, c.base_commit, c.commit_id, c.tree_id,
       encode(c.patch_sha256, 'hex') AS patch_sha256, c.files, c.additions, c.deletions, c.notes, c.state, c.created_at
FROM millhand.change_sets c
WHERE c.state <> 'draft' AND ($1::bigint IS NULL OR c.task_id = $1) AND ($2::bigint IS NULL OR c.session_id = $2)
ORDER BY ($2::bigint IS NOT NULL AND c.state = 'open') DESC, ($2::bigint IS NOT NULL AND c.state <> 'superseded') DESC, c.id DESC
LIMIT 1
