-- The distinct lanes of pending tasks, by skipping from one to the next in the claim's index.
WITH RECURSIVE found (lane) AS (
    (SELECT lane FROM millhand.tasks WHERE state = 'pending' ORDER BY lane LIMIT 1)
    UNION ALL
    SELECT (SELECT t.lane FROM millhand.tasks t WHERE t.state = 'pending' AND t.lane > f.lane ORDER BY t.lane LIMIT 1)
    FROM found f WHERE f.lane IS NOT NULL
)
SELECT lane FROM found WHERE lane IS NOT NULL
