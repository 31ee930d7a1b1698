-- Each part is found by an index that holds little else.
SELECT state, count FROM (
    SELECT 'pending' AS state, count(*) AS count FROM millhand.tasks WHERE state = 'pending'
    UNION ALL
    SELECT 'waiting', count(*) FROM millhand.tasks WHERE state = 'waiting'
    UNION ALL
    SELECT 'running', count(*) FROM millhand.leases l JOIN millhand.tasks t ON t.id = l.task_id WHERE t.state = 'running'
    UNION ALL
    SELECT state, count(*) FROM millhand.tasks
    WHERE state IN ('failed', 'blocked', 'cancelled') AND (state = 'blocked' OR finished_at > now() - interval '24 hours')
    GROUP BY state
    UNION ALL
    SELECT 'completed', count(*) FROM millhand.tasks WHERE state = 'completed' AND finished_at > now() - interval '24 hours'
) parts
WHERE count > 0 ORDER BY state
