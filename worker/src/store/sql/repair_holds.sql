-- Tasks that hold their line and have not failed.
WITH mended AS (
    UPDATE millhand.tasks t SET holds_line = false WHERE t.holds_line AND t.state <> 'failed'
    RETURNING t.session_id
), nudged AS (
    INSERT INTO millhand.nudges (session_id) SELECT DISTINCT session_id FROM mended
)
SELECT count(*) FROM mended
