-- Change sets, newest first. $1 project, $2 session, $3 task, $4 state; each may be null. $5 older than this one, $6 at most.
SELECT c.id, c.session_id, c.task_id, c.attempt_id, c.project, c.agent, c.base_commit, c.commit_id, c.tree_id,
       encode(c.patch_sha256, 'hex') AS patch_sha256, c.files, c.additions, c.deletions, c.notes, c.state, c.created_at
FROM millhand.change_sets c
WHERE c.state <> 'draft' AND c.id < $5 AND ($1::text IS NULL OR c.project = $1)
  AND ($2::bigint IS NULL OR c.session_id = $2) AND ($3::bigint IS NULL OR c.task_id = $3)
  AND ($4::text IS NULL OR c.state = $4)
ORDER BY c.id DESC LIMIT $6
