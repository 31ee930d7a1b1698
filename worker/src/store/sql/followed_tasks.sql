-- How followed tasks stand. $1 tasks, $2 for each: the attempt that is read now (0: none yet).
SELECT t.id AS task_id,
       concat_ws('|', t.state, t.cancel_requested_at, t.run_at, t.holds_line, t.error_class) AS standing,
       t.state IN ('pending', 'waiting') AS waits,
       t.state IN ('completed', 'failed', 'blocked', 'cancelled') AS is_at_rest,
       (SELECT a.ended_at IS NOT NULL FROM millhand.attempts a WHERE a.id = f.attempt_id AND a.task_id = t.id) AS is_ended,
       (SELECT min(a.id) FROM millhand.attempts a WHERE a.task_id = t.id AND a.id > f.attempt_id) AS next_attempt
FROM unnest($1::bigint[], $2::bigint[]) f (task_id, attempt_id)
JOIN millhand.tasks t ON t.id = f.task_id
