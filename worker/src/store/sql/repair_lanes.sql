-- Heads that nobody could claim, as they are in no lane.
WITH mended AS (
    UPDATE millhand.tasks t SET lane = millhand.lane_of(t.session_id, t.agent)
    WHERE t.state = 'pending' AND t.lane IS NULL
    RETURNING t.id
)
SELECT count(*) FROM mended
