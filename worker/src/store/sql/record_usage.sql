-- $1 attempt, $2 task, $3 project, $4 agent, then one array per column
INSERT INTO millhand.usage AS u (attempt_id, task_id, project, agent, model, agent_session, message_id, input_tokens,
    output_tokens, reasoning_tokens, cache_read_tokens, cache_write_tokens, cost_usd)
SELECT $1, $2, $3, $4, s.*
FROM unnest($5::text[], $6::text[], $7::text[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[],
            $13::numeric[]) AS s (model, agent_session, message_id, input, output, reasoning, cache_read, cache_write, cost)
-- In one order: two statements that record several models must not wait for one another's sums.
ORDER BY s.model, s.agent_session, s.message_id
ON CONFLICT (agent_session, message_id) DO UPDATE
    SET input_tokens = greatest(u.input_tokens, excluded.input_tokens),
        output_tokens = greatest(u.output_tokens, excluded.output_tokens),
        reasoning_tokens = greatest(u.reasoning_tokens, excluded.reasoning_tokens),
        cache_read_tokens = greatest(u.cache_read_tokens, excluded.cache_read_tokens),
        cache_write_tokens = greatest(u.cache_write_tokens, excluded.cache_write_tokens),
        cost_usd = greatest(u.cost_usd, excluded.cost_usd)
