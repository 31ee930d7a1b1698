-- The attempts of a task with what each cost, in order.
SELECT a.id, a.task_id, a.number, a.host_id, a.agent_requested, a.agent_resolved, a.model_requested, a.model_resolved,
       a.agent_session, a.started_at, a.ended_at, a.outcome, a.error_class, a.error_message,
       coalesce(u.tokens, 0)::bigint AS tokens, coalesce(u.cost_usd, 0) AS cost_usd,
       coalesce(u.unknown_steps, 0)::bigint AS unknown_steps
FROM millhand.attempts a
LEFT JOIN LATERAL (
    SELECT sum(input_tokens + output_tokens + reasoning_tokens + cache_read_tokens + cache_write_tokens) AS tokens,
           sum(cost_usd) AS cost_usd, count(*) FILTER (WHERE cost_usd IS NULL) AS unknown_steps
    FROM millhand.usage WHERE attempt_id = a.id
) u ON true
WHERE a.task_id = $1
ORDER BY a.number
