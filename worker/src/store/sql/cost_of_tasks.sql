-- What the newest tasks cost that cost anything, newest first. $1 since (a day, UTC), $2 project, $3 at most
WITH RECURSIVE walk (id, nth) AS (
    -- From one task that has steps to the next: those that only wait are many, and are skipped by the index.
    (SELECT task_id, 1 FROM millhand.usage WHERE task_id IS NOT NULL ORDER BY task_id DESC LIMIT 1)
    UNION ALL
    SELECT (SELECT max(u.task_id) FROM millhand.usage u WHERE u.task_id < w.id), w.nth + 1 FROM walk w WHERE w.id IS NOT NULL AND w.nth < 10000
)
SELECT 't' || w.id AS of, 1::bigint AS tasks, s.*
FROM walk w
CROSS JOIN LATERAL (
    SELECT count(*) AS steps, count(*) FILTER (WHERE u.cost_usd IS NULL) AS unknown_steps,
           coalesce(sum(u.input_tokens), 0)::bigint AS input_tokens, coalesce(sum(u.output_tokens), 0)::bigint AS output_tokens,
           coalesce(sum(u.reasoning_tokens), 0)::bigint AS reasoning_tokens,
           coalesce(sum(u.cache_read_tokens), 0)::bigint AS cache_read_tokens,
           coalesce(sum(u.cache_write_tokens), 0)::bigint AS cache_write_tokens, coalesce(sum(u.cost_usd), 0) AS cost_usd
    FROM millhand.usage u
    WHERE u.task_id = w.id AND ($1::date IS NULL OR u.created_at >= $1::date::timestamp AT TIME ZONE 'UTC')
      AND ($2::text IS NULL OR u.project = $2)
) s
WHERE w.id IS NOT NULL AND s.steps > 0
LIMIT $3
