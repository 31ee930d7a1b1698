-- advance() keeps its plans, and looks at no line in which nothing waits.

CREATE OR REPLACE FUNCTION millhand.advance(at_most int DEFAULT 200) RETURNS int
LANGUAGE plpgsql SET search_path = millhand, pg_catalog SET plan_cache_mode = force_generic_plan AS $$
-- Plans are kept: planning these for each list of sessions anew costs more than all the rest of a claim.
DECLARE
    nudged bigint[];
    promoted int := 0;
BEGIN
    WITH taken AS (
        DELETE FROM nudges WHERE id IN (SELECT id FROM nudges ORDER BY id LIMIT at_most FOR UPDATE SKIP LOCKED)
        RETURNING session_id
    )
    SELECT array_agg(DISTINCT session_id ORDER BY session_id) INTO nudged FROM taken;
    IF nudged IS NULL THEN
        RETURN 0;
    END IF;
    -- One advance() at a time in a session, in an order that cannot deadlock. Inserts of tasks go on: their
    -- foreign keys take KEY SHARE, which this lock allows.
    PERFORM 1 FROM sessions WHERE id = ANY (nudged) ORDER BY id FOR NO KEY UPDATE;
    -- Statements of their own: their snapshots see all that was committed before the locks were taken.
    IF NOT EXISTS (SELECT 1 FROM tasks WHERE session_id = ANY (nudged) AND state = 'waiting') THEN
        RETURN 0;
    END IF;
    -- An older task that was retried goes first, unless the head has begun: then its message is with the agent.
    UPDATE tasks h SET state = 'waiting', lane = NULL
        WHERE h.session_id = ANY (nudged) AND h.state = 'pending' AND h.message_id IS NULL
          AND EXISTS (SELECT 1 FROM tasks w WHERE w.session_id = h.session_id AND w.state = 'waiting' AND w.id < h.id);
    UPDATE tasks t
        SET state = 'pending', lane = lane_of(t.session_id, t.agent)
        FROM (
            SELECT head.id
            FROM unnest(nudged) AS s (session_id)
            CROSS JOIN LATERAL (
                SELECT w.id FROM tasks w
                WHERE w.session_id = s.session_id AND w.state = 'waiting' ORDER BY w.id LIMIT 1
            ) head
            WHERE NOT EXISTS (SELECT 1 FROM tasks h
                              WHERE h.session_id = s.session_id AND h.state IN ('pending', 'running', 'blocked'))
              AND NOT EXISTS (SELECT 1 FROM tasks f
                              WHERE f.session_id = s.session_id AND f.holds_line AND f.id < head.id)
        ) heads
        WHERE t.id = heads.id AND t.state = 'waiting';
    GET DIAGNOSTICS promoted = ROW_COUNT;
    RETURN promoted;
END
$$;
