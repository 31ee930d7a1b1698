-- What the sessions cost whose tasks were the newest that cost anything, newest session first. $1 since (a day, UTC), $2 project, $3 at most
WITH RECURSIVE walk (id, nth) AS (
    (SELECT task_id, 1 FROM millhand.usage WHERE task_id IS NOT NULL ORDER BY task_id DESC LIMIT 1)
    UNION ALL
    SELECT (SELECT max(u.task_id) FROM millhand.usage u WHERE u.task_id < w.id), w.nth + 1 FROM walk w WHERE w.id IS NOT NULL AND w.nth < 10 * $3::bigint
), found AS (
    SELECT DISTINCT t.session_id AS id FROM walk w JOIN millhand.tasks t ON t.id = w.id
    WHERE $2::text IS NULL OR t.project = $2
    ORDER BY 1 DESC LIMIT $3::bigint
)
SELECT 's' || f.id AS of, s.*
FROM found f
CROSS JOIN LATERAL (
    SELECT count(DISTINCT u.task_id) AS tasks, count(*) AS steps, count(*) FILTER (WHERE u.cost_usd IS NULL) AS unknown_steps,
           coalesce(sum(u.input_tokens), 0)::bigint AS input_tokens, coalesce(sum(u.output_tokens), 0)::bigint AS output_tokens,
           coalesce(sum(u.reasoning_tokens), 0)::bigint AS reasoning_tokens,
           coalesce(sum(u.cache_read_tokens), 0)::bigint AS cache_read_tokens,
           coalesce(sum(u.cache_write_tokens), 0)::bigint AS cache_write_tokens, coalesce(sum(u.cost_usd), 0) AS cost_usd
    FROM millhand.tasks t JOIN millhand.usage u ON u.task_id = t.id
    WHERE t.session_id = f.id AND ($1::date IS NULL OR u.created_at >= $1::date::timestamp AT TIME ZONE 'UTC')
) s
WHERE s.steps > 0
ORDER BY f.id DESC
