-- The branch has moved: what was taken is taken. Once.
-- $1 apply
WITH landed AS (
    UPDATE millhand.applies
    SET state = CASE WHEN rebases THEN 'landed' ELSE 'done' END, ended_at = CASE WHEN rebases THEN NULL ELSE clock_timestamp() END
    WHERE id = $1 AND state = 'begun'
    RETURNING id, change_set_id, who, files, branch, remote, old_commit, new_commit
), taken AS (
    UPDATE millhand.pending_changes p SET state = 'applied', decided_by = l.who, decided_at = now(), apply_id = l.id
    FROM landed l WHERE p.id = ANY (l.files) AND p.change_set_id = l.change_set_id
    RETURNING p.id
), noted AS (
    INSERT INTO millhand.audit_log (action, task_id, project, details)
    SELECT 'apply', c.task_id, c.project,
           jsonb_build_object('change_set_id', c.id, 'apply_id', l.id, 'by', l.who, 'branch', l.branch, 'remote', l.remote,
                              'old_commit', l.old_commit, 'new_commit', l.new_commit,
                              'files', (SELECT count(*) FROM taken))
    FROM landed l JOIN millhand.change_sets c ON c.id = l.change_set_id
)
SELECT change_set_id FROM landed
