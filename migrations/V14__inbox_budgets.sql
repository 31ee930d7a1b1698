-- Tasks that wait for a budget are in the inbox too, up to twenty of each lane.

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
    ), reached AS MATERIALIZED (
        SELECT project, project_id, says FROM millhand.limits_now() WHERE is_over
    ), spent AS (
        SELECT l.lane, b.says FROM lanes l
        CROSS JOIN LATERAL (
            SELECT min(s.says) AS says FROM reached s
            WHERE s.project IS NULL OR s.project_id::text = split_part(l.lane COLLATE "default", '/', 2)
        ) b
        WHERE b.says IS NOT NULL
    )
    SELECT t.id AS task_id, t.project, t.session_id, s.title, t.state, t.error_class, t.error_message,
           t.attempts, t.infra_losses,
           (SELECT count(*) FROM millhand.tasks b WHERE b.session_id = t.session_id AND b.state = 'waiting' AND b.id > t.id)
               AS behind,
           t.prompt, t.finished_at AS since, NULL::bigint AS ask_id, NULL::timestamptz AS deadline_at
    FROM millhand.tasks t JOIN millhand.sessions s ON s.id = t.session_id
    WHERE t.state IN ('failed', 'blocked') AND t.dismissed_at IS NULL
    UNION ALL
    SELECT t.id, t.project, t.session_id, s.title, t.state, 'host_gone',
           'its session''s worktree is on host ' || split_part(a.lane COLLATE "default", '/', 1) || ', which has had no worker'
               || coalesce(' since ' || to_char(a.heard_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC', '')
               || ': start one there; or cancel the task and queue the prompt in a new session',
           t.attempts, t.infra_losses,
           (SELECT count(*) FROM millhand.tasks b WHERE b.session_id = t.session_id AND b.state = 'waiting' AND b.id > t.id),
           t.prompt, a.heard_at, NULL, NULL
    FROM away a
    JOIN millhand.tasks t ON t.state = 'pending' AND t.lane = a.lane AND t.run_at <= now()
    JOIN millhand.sessions s ON s.id = t.session_id
    UNION ALL
    SELECT t.id, t.project, t.session_id, s.title, t.state, k.kind, k.summary, t.attempts, t.infra_losses,
           (SELECT count(*) FROM millhand.tasks b WHERE b.session_id = t.session_id AND b.state = 'waiting' AND b.id > t.id),
           t.prompt, k.asked_at, k.id, k.deadline_at
    FROM millhand.asks k
    JOIN millhand.attempts a ON a.id = k.attempt_id AND a.ended_at IS NULL
    JOIN millhand.tasks t ON t.id = k.task_id
    JOIN millhand.sessions s ON s.id = t.session_id
    WHERE k.state = 'open' AND k.deadline_at > now()
    UNION ALL
    SELECT t.id, t.project, t.session_id, s.title, t.state, 'budget', p.says, t.attempts, t.infra_losses,
           (SELECT count(*) FROM millhand.tasks b WHERE b.session_id = t.session_id AND b.state = 'waiting' AND b.id > t.id),
           t.prompt, t.run_at, NULL, NULL
    FROM spent p
    CROSS JOIN LATERAL (
        SELECT q.id, q.project, q.session_id, q.state, q.attempts, q.infra_losses, q.prompt, q.run_at FROM millhand.tasks q
        WHERE q.state = 'pending' AND q.lane = p.lane AND q.run_at <= now()
        ORDER BY q.priority, q.run_at, q.id LIMIT 20
    ) t
    JOIN millhand.sessions s ON s.id = t.session_id
    ORDER BY since DESC NULLS LAST;
COMMENT ON VIEW millhand.inbox IS 'What needs a person, newest first: retry_task() or dismiss_task() what failed or is blocked; what is pending waits for a host that is gone, or for a budget (the next twenty of each lane are shown); answer_ask() what a running one asks.';
COMMENT ON COLUMN millhand.inbox.since IS 'When it came to rest; for a host that is gone, when that was last heard of; for a budget, since when it is due.';

COMMENT ON COLUMN millhand.audit_log.action IS 'What was done: retry, cancel, dismiss, add_project, remove_project, close_session, reopen_session, restore_worktree, apply, reject, roll_back, rehome_session, answer, set_budget, clear_budget.';
COMMENT ON COLUMN millhand.tasks.error_class IS 'Why the last attempt did not complete: refused, agent_failed, rate_limited, infrastructure_lost, setup_failed, budget.';

-- A worker that knows no budgets would spend past them.
CREATE OR REPLACE FUNCTION millhand.oldest_program() RETURNS int
LANGUAGE sql IMMUTABLE SET search_path = millhand, pg_catalog AS $$ SELECT 14 $$;
