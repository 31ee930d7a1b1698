INSERT INTO millhand.pending_changes (change_set_id, session_id, task_id, agent, path, path_bytes, old_path, kind,
    old_mode, new_mode, old_blob, new_blob, is_binary, flags, additions, deletions, patch)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
