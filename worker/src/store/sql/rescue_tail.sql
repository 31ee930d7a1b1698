-- After a CTE `lost` (token, task_id, losses: how many losses it counts for, why). $2 is how many losses are allowed.
, gone AS (
    DELETE FROM millhand.leases l USING lost WHERE l.token = lost.token
), ended AS (
    UPDATE millhand.attempts a
    SET ended_at = clock_timestamp(), outcome = 'lost', error_class = 'infrastructure_lost',
        error_message = lost.why
    FROM lost WHERE a.token = lost.token AND a.ended_at IS NULL
    RETURNING a.id
), withdrawn AS (
    -- The attempt that goes on with the turn asks again.
    UPDATE millhand.asks k SET state = 'withdrawn' FROM ended WHERE k.attempt_id = ended.id AND k.state = 'open'
), task AS (
    -- It was due when it was claimed, and keeps its place: the turn that may be adopted is not kept waiting by a backlog.
    UPDATE millhand.tasks t
    SET state = CASE
            WHEN t.cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN t.infra_losses + lost.losses > $2 THEN 'blocked'
            ELSE 'pending'
        END,
        lane = CASE
            WHEN t.cancel_requested_at IS NULL AND t.infra_losses + lost.losses <= $2 THEN millhand.lane_of(t.session_id, t.agent)
        END,
        infra_losses = t.infra_losses + lost.losses,
        error_class = 'infrastructure_lost',
        error_message = lost.why,
        finished_at = CASE
            WHEN t.cancel_requested_at IS NOT NULL OR t.infra_losses + lost.losses > $2 THEN clock_timestamp()
        END
    FROM lost WHERE t.id = lost.task_id AND t.state = 'running'
    RETURNING t.id, t.session_id, t.state
), idle AS (
    -- Whoever takes the session up next says again that it is in use.
    UPDATE millhand.worktrees w SET state = 'ready' FROM task WHERE w.session_id = task.session_id AND w.state = 'in_use'
), nudged AS (
    -- Also where the task keeps its place: an older one may have been retried meanwhile.
    INSERT INTO millhand.nudges (session_id) SELECT session_id FROM task
)
SELECT id, state FROM task
