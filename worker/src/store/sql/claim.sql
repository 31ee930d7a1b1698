-- $1 lanes, $2 worker, $3 lease in seconds, $4 host, $5 at most: written into the text, see Store::claim
WITH picked AS MATERIALIZED (
    SELECT c.id, c.session_id
    FROM unnest($1::text[]) AS l (lane)
    CROSS JOIN LATERAL (
        SELECT t.id, t.session_id, t.priority, t.run_at
        FROM millhand.tasks t
        WHERE t.state = 'pending' AND t.lane = l.lane AND t.run_at <= now()
        ORDER BY t.priority, t.run_at, t.id
        LIMIT $5
        FOR UPDATE SKIP LOCKED
    ) c
    ORDER BY c.priority, c.run_at, c.id
    LIMIT $5
), leased AS (
    INSERT INTO millhand.leases (session_id, task_id, token, worker_id, expires_at)
    SELECT session_id, id, gen_random_uuid(), $2, clock_timestamp() + make_interval(secs => $3)
    FROM picked
    ON CONFLICT DO NOTHING
    RETURNING task_id, token
), claimed AS (
    UPDATE millhand.tasks t
    SET state = 'running', lane = NULL, last_attempt = t.last_attempt + 1, started_at = now(), finished_at = NULL
    FROM leased l
    WHERE t.id = l.task_id
    RETURNING t.*, l.token
), begun AS (
    INSERT INTO millhand.attempts (task_id, number, prompt, worker_id, host_id, token, agent_requested, model_requested)
    SELECT id, last_attempt, prompt, $2, $4, token, agent, model FROM claimed
    RETURNING id, task_id
)
SELECT b.id AS attempt_id, c.id AS task_id, c.last_attempt AS number, c.token, c.session_id, c.chat_id, c.prompt,
       c.agent, c.model, c.variant, c.attempts, c.max_attempts, c.infra_losses, c.message_id, c.merge_commit, c.merge_branch,
       s.title, s.base_branch, s.base_commit, s.home_host,
       p.id AS project_id, p.name AS project, p.source, p.trusted, p.ask_policy, p.env_pass,
       p.resend = 'ask' AND NOT c.resend_allowed AS asks_before_resend,
       p.setup_command IS NOT NULL OR EXISTS (SELECT FROM millhand.project_files f WHERE f.project = p.name) AS has_setup
FROM claimed c
JOIN begun b ON b.task_id = c.id
JOIN millhand.sessions s ON s.id = c.session_id
JOIN millhand.projects p ON p.name = c.project
ORDER BY c.priority, c.run_at, c.id
