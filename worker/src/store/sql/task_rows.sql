-- Tasks with what tells why they wait. Filters that are null are off.
SELECT t.id, t.project, t.session_id, t.chat_id, t.prompt, t.agent, t.model, t.variant, t.state, t.priority, t.run_at,
       t.attempts, t.max_attempts, t.infra_losses, t.last_attempt, t.idempotency_key, t.parent_task_id,
       t.cancel_requested_at, t.dismissed_at, t.output_summary, t.error_class, t.error_message, t.tokens, t.cost_usd,
       t.created_at, t.started_at, t.finished_at, t.holds_line, t.unknown_steps, t.merge_commit, t.merge_branch,
       coalesce(s.home_host, p.host_id) AS needs_host, head.id AS head_id, head.state AS head_state,
       holder.id AS holder_id, greatest(extract(epoch FROM t.run_at - now()), 0)::float8 AS due_in_seconds
FROM millhand.tasks t
JOIN millhand.sessions s ON s.id = t.session_id
JOIN millhand.projects p ON p.name = t.project
LEFT JOIN LATERAL (
    SELECT h.id, h.state FROM millhand.tasks h
    WHERE h.session_id = t.session_id AND h.state IN ('pending', 'running', 'blocked')
) head ON t.state = 'waiting'
LEFT JOIN LATERAL (
    SELECT f.id FROM millhand.tasks f
    WHERE f.session_id = t.session_id AND f.holds_line AND f.id < t.id ORDER BY f.id DESC LIMIT 1
) holder ON t.state = 'waiting'
WHERE ($1::bigint IS NULL OR t.id = $1)
  AND ($2::text IS NULL OR (t.project >= $2 AND t.project <= $2))
  AND ($3::bigint IS NULL OR t.session_id = $3)
  AND ($4::text[] IS NULL OR t.state = ANY ($4))
  AND t.id < coalesce($6, 9223372036854775807)
ORDER BY t.id DESC
LIMIT $5
