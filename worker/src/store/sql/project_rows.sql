-- Projects with what is open in them.
SELECT p.id, p.name, p.source, p.host_id, p.base_branch, p.default_agent, p.default_model, p.trusted, p.ask_policy,
       p.on_failure, p.resend, p.max_attempts, p.env_pass, p.created_at,
       (SELECT count(*) FROM millhand.tasks t WHERE t.project = p.name AND t.state IN ('pending', 'waiting', 'blocked'))
           AS open_tasks,
       (SELECT count(*) FROM millhand.tasks t WHERE t.project = p.name AND t.state = 'running') AS running_tasks,
       (SELECT count(*) FROM millhand.pending_changes c JOIN millhand.sessions s ON s.id = c.session_id
        WHERE s.project = p.name AND c.state = 'pending') AS pending_changes
FROM millhand.projects p
WHERE $1::text IS NULL OR p.name = $1
ORDER BY p.name
