-- Attempts without an end whose task does not run, or has a newer one. $1 seconds of grace.
WITH mended AS (
    UPDATE millhand.attempts a
    SET ended_at = clock_timestamp(), outcome = 'lost', error_class = 'infrastructure_lost',
        error_message = 'its end was never recorded'
    FROM millhand.tasks t
    WHERE t.id = a.task_id AND a.ended_at IS NULL AND a.started_at < now() - make_interval(secs => $1)
      AND (t.last_attempt > a.number OR t.state <> 'running')
    RETURNING a.id
)
SELECT count(*) FROM mended
