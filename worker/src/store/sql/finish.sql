-- The only statement that ends an attempt by its own worker. One statement, so one transaction.
-- $1 token, $2 outcome, $3 error class, $4 error message, $5 verdict (completed, again, failed, blocked),
-- $6 wait in seconds, $7 charged, $8 infrastructure loss, $9 keep the message id, $10 summary, $11 host
WITH lease AS (
    DELETE FROM millhand.leases WHERE token = $1 RETURNING task_id, session_id
), ended AS (
    UPDATE millhand.attempts a
    SET ended_at = clock_timestamp(), outcome = $2, error_class = $3, error_message = $4
    FROM lease WHERE a.token = $1
    RETURNING a.id
), decided AS (
    SELECT t.id, t.session_id, t.agent,
           CASE
               WHEN $5 <> 'completed' AND t.cancel_requested_at IS NOT NULL THEN 'cancelled'
               WHEN $5 = 'again' THEN 'pending'
               ELSE $5
           END AS state,
           p.on_failure = 'hold' AS holds,
           u.tokens, u.cost_usd, u.unknown_steps
    FROM lease
    JOIN millhand.tasks t ON t.id = lease.task_id
    JOIN millhand.projects p ON p.name = t.project
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(input_tokens + output_tokens + reasoning_tokens + cache_read_tokens + cache_write_tokens), 0)::bigint
                   AS tokens,
               coalesce(sum(cost_usd), 0) AS cost_usd,
               count(*) FILTER (WHERE cost_usd IS NULL) AS unknown_steps
        FROM millhand.usage WHERE task_id = t.id
    ) u
), task AS (
    UPDATE millhand.tasks t
    SET state = d.state,
        holds_line = d.state = 'failed' AND d.holds,
        lane = CASE WHEN d.state = 'pending' THEN millhand.lane_of(d.session_id, d.agent) END,
        run_at = CASE WHEN d.state = 'pending' THEN now() + make_interval(secs => $6) ELSE t.run_at END,
        attempts = t.attempts + ($7::bool)::int,
        infra_losses = t.infra_losses + ($8::bool)::int,
        message_id = CASE WHEN $9 THEN t.message_id END,
        output_summary = coalesce($10, t.output_summary),
        error_class = CASE WHEN d.state = 'cancelled' THEN NULL ELSE $3 END,
        error_message = CASE WHEN d.state = 'cancelled' THEN NULL ELSE $4 END,
        tokens = d.tokens,
        cost_usd = d.cost_usd,
        unknown_steps = d.unknown_steps,
        finished_at = CASE WHEN d.state = 'pending' THEN NULL ELSE clock_timestamp() END
    FROM decided d WHERE t.id = d.id
    RETURNING t.id, t.session_id, t.state
), mine AS (
    SELECT c.id, task.session_id
    FROM ended JOIN millhand.change_sets c ON c.attempt_id = ended.id AND c.state = 'draft', task
    WHERE task.state <> 'pending'
), superseded AS (
    UPDATE millhand.change_sets c SET state = 'superseded'
    FROM mine WHERE c.session_id = mine.session_id AND c.state = 'open'
    RETURNING c.id
), opened AS (
    UPDATE millhand.change_sets c SET state = 'open' FROM mine WHERE c.id = mine.id
), changes_superseded AS (
    UPDATE millhand.pending_changes p SET state = 'superseded'
    FROM mine WHERE p.session_id = mine.session_id AND p.state = 'pending'
      -- Always true. The change set is locked before its files, as by all who decide about them: else the two wait for each other.
      AND (SELECT count(*) FROM superseded) >= 0
), changes_opened AS (
    UPDATE millhand.pending_changes p SET state = 'pending' FROM mine WHERE p.change_set_id = mine.id
), worktree AS (
    UPDATE millhand.worktrees w SET state = 'ready', last_used_at = now()
    FROM lease WHERE w.session_id = lease.session_id AND w.host_id = $11 AND w.state = 'in_use'
), nudged AS (
    -- Also where the task keeps its place: an older one may have been retried meanwhile.
    INSERT INTO millhand.nudges (session_id) SELECT session_id FROM task
)
SELECT state FROM task
