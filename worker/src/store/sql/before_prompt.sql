-- $1 token, $2 agent, $3 backend, $4 host, $5 external id, $6 config hash, $7 agent resolved, $8 model resolved, $9 message id
-- Nothing is written where a crash of the database undid what the turn had settled before, which had not waited for the disk.
WITH lease AS (
    SELECT l.task_id
    FROM millhand.leases l
    JOIN millhand.sessions s ON s.id = l.session_id AND s.base_commit IS NOT NULL AND s.home_host = $4
    JOIN millhand.worktrees w ON w.session_id = l.session_id AND w.host_id = $4 AND w.state = 'in_use'
    WHERE l.token = $1
    FOR SHARE OF l
), task AS (
    UPDATE millhand.tasks t SET message_id = $9, resend_allowed = false FROM lease WHERE t.id = lease.task_id RETURNING t.chat_id
), attempt AS (
    UPDATE millhand.attempts a SET agent_resolved = $7, model_resolved = $8, agent_session = $5
    FROM lease WHERE a.token = $1
)
INSERT INTO millhand.agent_sessions (chat_id, agent, host_id, backend, external_id, config_hash)
SELECT chat_id, $2, $4, $3, $5, $6 FROM task
ON CONFLICT (chat_id, agent, host_id) DO UPDATE
    SET external_id = excluded.external_id, config_hash = excluded.config_hash, status = 'active', last_active_at = now()
RETURNING id, millhand.over_budget((SELECT task_id FROM lease))
