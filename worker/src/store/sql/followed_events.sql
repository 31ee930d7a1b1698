-- Transcripts of several attempts, each behind a place in it. $1 attempts, $2 places, $3 at most of each.
SELECT e.attempt_id, e.seq, e.kind, e.part, e.data, e.created_at
FROM unnest($1::bigint[], $2::int[]) f (attempt_id, seq)
JOIN millhand.attempts a ON a.id = f.attempt_id
CROSS JOIN LATERAL (
    SELECT * FROM millhand.turn_events t
    WHERE t.attempt_id = f.attempt_id AND t.seq > f.seq AND t.day = (a.started_at AT TIME ZONE 'UTC')::date
    ORDER BY t.seq LIMIT $3
) e
ORDER BY e.attempt_id, e.seq
