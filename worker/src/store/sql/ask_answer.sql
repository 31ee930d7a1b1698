-- $1 ask. What is over its deadline becomes a no here, unless somebody answers it first.
WITH over AS (
    UPDATE millhand.asks
    SET state = 'expired', answer = 'reject', answered_at = clock_timestamp()
    WHERE id = $1 AND state = 'open' AND deadline_at <= clock_timestamp()
    RETURNING answer, message, replies, answered_by
)
SELECT answer, message, replies, answered_by FROM over
UNION ALL
SELECT answer, message, replies, answered_by FROM millhand.asks WHERE id = $1 AND state IN ('answered', 'expired')
