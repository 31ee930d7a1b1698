-- A transcript behind a place in it. $1 attempt, $2 place, $3 at most. The day of the attempt is the one table that is looked into.
SELECT attempt_id, seq, kind, part, data, created_at
FROM millhand.turn_events
WHERE attempt_id = $1 AND seq > $2
  AND day = (SELECT (started_at AT TIME ZONE 'UTC')::date FROM millhand.attempts WHERE id = $1)
ORDER BY seq LIMIT $3
