-- $1 attempt, $2 seqs, $3 kinds, $4 parts, $5 data, $6 parts that are whole now
WITH dropped AS (
    DELETE FROM millhand.turn_events
    WHERE attempt_id = $1 AND kind IN ('text_delta', 'reasoning_delta') AND part = ANY ($6::text[])
)
INSERT INTO millhand.turn_events (attempt_id, seq, kind, part, data)
SELECT $1, e.seq, e.kind, e.part, e.data
FROM unnest($2::int[], $3::text[], $4::text[], $5::jsonb[]) AS e (seq, kind, part, data)
ON CONFLICT (attempt_id, seq) DO NOTHING
