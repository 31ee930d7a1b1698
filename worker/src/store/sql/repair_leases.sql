-- Leases of tasks that do not run: whoever holds one finds it lost.
WITH stray AS (
    DELETE FROM millhand.leases l
    WHERE NOT EXISTS (SELECT 1 FROM millhand.tasks t WHERE t.id = l.task_id AND t.session_id = l.session_id AND t.state = 'running')
    RETURNING l.token, l.session_id
), ended AS (
    UPDATE millhand.attempts a
    SET ended_at = clock_timestamp(), outcome = 'lost', error_class = 'infrastructure_lost',
        error_message = 'its task did not run any more'
    FROM stray WHERE a.token = stray.token AND a.ended_at IS NULL
), nudged AS (
    INSERT INTO millhand.nudges (session_id) SELECT session_id FROM stray
)
SELECT count(*) FROM stray
