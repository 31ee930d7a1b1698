-- Heads that have reached a limit of their own, or of their session: they need a person, or a higher limit.
-- $1 lanes, $2 at most of each: written into the text, see Store::block_over_budget
WITH heads AS MATERIALIZED (
    SELECT c.id
    FROM unnest($1::text[]) AS l (lane)
    CROSS JOIN LATERAL (
        SELECT t.id FROM millhand.tasks t
        WHERE t.state = 'pending' AND t.lane = l.lane AND t.run_at <= now()
        ORDER BY t.priority, t.run_at, t.id
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    ) c
), spent AS MATERIALIZED (
    SELECT id, millhand.over_budget(id) AS says FROM heads
)
UPDATE millhand.tasks t
SET state = 'blocked', lane = NULL, error_class = 'budget', error_message = spent.says, finished_at = clock_timestamp()
FROM spent WHERE t.id = spent.id AND spent.says IS NOT NULL
