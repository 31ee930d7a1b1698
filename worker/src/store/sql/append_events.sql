-- $1 attempt, $2 seqs, $3 kinds, $4 parts, $5 data, $6 parts that are whole now. The attempt is locked as a foreign key would lock it.
WITH attempt AS MATERIALIZED (
    SELECT id, (started_at AT TIME ZONE 'UTC')::date AS day FROM millhand.attempts WHERE id = $1 FOR KEY SHARE
), dropped AS (
    DELETE FROM millhand.turn_events
    WHERE $6::text[] <> '{}' AND attempt_id = $1 AND day = (SELECT day FROM attempt)
      AND kind IN ('text_delta', 'reasoning_delta') AND part = ANY ($6)
)
INSERT INTO millhand.turn_events (attempt_id, day, seq, kind, part, data)
SELECT a.id, a.day, e.seq, e.kind, e.part, e.data
FROM attempt a, unnest($2::int[], $3::text[], $4::text[], $5::jsonb[]) AS e (seq, kind, part, data)
ON CONFLICT (attempt_id, seq, day) DO NOTHING
