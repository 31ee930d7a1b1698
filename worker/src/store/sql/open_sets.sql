-- Open change sets of a project whose session is measured against a branch, oldest first. $1 project
SELECT c.id, c.session_id, c.task_id, coalesce(s.base_branch, p.base_branch) AS branch, s.home_host,
       c.files, (SELECT count(*) FROM millhand.pending_changes d WHERE d.change_set_id = c.id AND d.decided_at IS NOT NULL) AS decided
FROM millhand.change_sets c
JOIN millhand.sessions s ON s.id = c.session_id
JOIN millhand.projects p ON p.name = s.project
WHERE c.state = 'open' AND c.project = $1 AND coalesce(s.base_branch, p.base_branch) IS NOT NULL
ORDER BY c.id
LIMIT $2
