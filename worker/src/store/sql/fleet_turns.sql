-- The turns that run, longest first. $1 at most.
SELECT t.id AS task_id, t.session_id, t.project, t.prompt, a.number, coalesce(a.model_resolved, t.model) AS model, w.hostname,
       a.started_at, u.tokens, u.cost_usd, u.unknown_steps, e.kind AS doing, e.data AS doing_data, e.created_at AS doing_at,
       t.cancel_requested_at IS NOT NULL AS is_cancelled,
       (SELECT k.summary FROM millhand.asks k WHERE k.attempt_id = a.id AND k.state = 'open' ORDER BY k.id LIMIT 1) AS asks
FROM millhand.leases l
JOIN millhand.tasks t ON t.id = l.task_id
JOIN millhand.attempts a ON a.token = l.token
LEFT JOIN millhand.workers w ON w.id = l.worker_id
CROSS JOIN LATERAL (
    SELECT coalesce(sum(input_tokens + output_tokens + reasoning_tokens + cache_read_tokens + cache_write_tokens), 0)::bigint AS tokens,
           coalesce(sum(cost_usd), 0) AS cost_usd, count(*) FILTER (WHERE cost_usd IS NULL) AS unknown_steps
    FROM millhand.usage WHERE task_id = t.id
) u
LEFT JOIN LATERAL (
    SELECT kind, data, created_at FROM millhand.turn_events
    WHERE attempt_id = a.id AND day = (a.started_at AT TIME ZONE 'UTC')::date AND kind <> 'step_finish'
    ORDER BY seq DESC LIMIT 1
) e ON true
ORDER BY a.started_at, t.id LIMIT $1
