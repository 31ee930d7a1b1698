INSERT INTO millhand.change_sets (session_id, task_id, attempt_id, project, agent, base_commit, commit_id, tree_id,
    patch_sha256, files, additions, deletions, notes)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
RETURNING id
