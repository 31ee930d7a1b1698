-- Projects, by name; with a name, the one. What is open in them is asked for by itself (open_work.sql): it is counted.
SELECT p.id, p.name, p.source, p.host_id, p.base_branch, p.default_agent, p.default_model, p.trusted, p.ask_policy,
       p.on_failure, p.resend, p.max_attempts, p.env_pass, p.created_at,
       p.setup_command, p.setup_kept, p.check_resends, p.checks_required,
       ARRAY(SELECT f.path FROM millhand.project_files f WHERE f.project = p.name ORDER BY f.path) AS copied_files
FROM millhand.projects p
WHERE $1::text IS NULL OR p.name = $1
ORDER BY p.name
