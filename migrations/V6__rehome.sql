-- Several hosts: a session whose host is gone is moved to another one, or shown to a person.

CREATE OR REPLACE VIEW millhand.inbox AS
    WITH RECURSIVE lanes (lane) AS (
        (SELECT lane FROM millhand.tasks WHERE state = 'pending' ORDER BY lane LIMIT 1)
        UNION ALL
        SELECT (SELECT t.lane FROM millhand.tasks t WHERE t.state = 'pending' AND t.lane > l.lane ORDER BY t.lane LIMIT 1)
        FROM lanes l WHERE l.lane IS NOT NULL
    ), away AS (
        SELECT l.lane, w.heard_at FROM lanes l
        LEFT JOIN LATERAL (
            SELECT max(greatest(w.heartbeat_at, w.stopped_at)) AS heard_at
            FROM millhand.workers w WHERE w.host_id = split_part(l.lane, '/', 1)
        ) w ON true
        WHERE l.lane NOT LIKE '*/%' AND (w.heard_at IS NULL OR w.heard_at < now() - interval '10 minutes')
    )
    SELECT t.id AS task_id, t.project, t.session_id, s.title, t.state, t.error_class, t.error_message,
           t.attempts, t.infra_losses,
           (SELECT count(*) FROM millhand.tasks b WHERE b.session_id = t.session_id AND b.state = 'waiting' AND b.id > t.id)
               AS behind,
           t.prompt, t.finished_at AS since
    FROM millhand.tasks t JOIN millhand.sessions s ON s.id = t.session_id
    WHERE t.state IN ('failed', 'blocked') AND t.dismissed_at IS NULL
    UNION ALL
    SELECT t.id, t.project, t.session_id, s.title, t.state, 'host_gone',
           'its session''s worktree is on host ' || split_part(a.lane COLLATE "default", '/', 1) || ', which has had no worker'
               || coalesce(' since ' || to_char(a.heard_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC', '')
               || ': start one there; or cancel the task and queue the prompt in a new session',
           t.attempts, t.infra_losses,
           (SELECT count(*) FROM millhand.tasks b WHERE b.session_id = t.session_id AND b.state = 'waiting' AND b.id > t.id),
           t.prompt, a.heard_at
    FROM away a
    JOIN millhand.tasks t ON t.state = 'pending' AND t.lane = a.lane AND t.run_at <= now()
    JOIN millhand.sessions s ON s.id = t.session_id
    ORDER BY since DESC NULLS LAST;
COMMENT ON VIEW millhand.inbox IS 'What needs a person, newest first: retry_task() or dismiss_task() what failed or is blocked; what is pending waits for a host that is gone.';
COMMENT ON COLUMN millhand.inbox.since IS 'When it came to rest; for a host that is gone, when that was last heard of.';
COMMENT ON COLUMN millhand.audit_log.action IS 'What was done: retry, cancel, dismiss, add_project, remove_project, close_session, reopen_session, restore_worktree, apply, reject, roll_back, rehome_session.';
