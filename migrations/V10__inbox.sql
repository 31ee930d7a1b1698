-- Asks and questions that people answer from the inbox, and retries with another model or agent.

ALTER TABLE millhand.projects DROP CONSTRAINT projects_ask_policy;
ALTER TABLE millhand.projects ADD CONSTRAINT projects_ask_policy CHECK (ask_policy IN ('reject', 'allow', 'inbox'));
COMMENT ON COLUMN millhand.projects.ask_policy IS 'What answers what an agent asks: reject (with a visible warning), allow (permissions only), or inbox (a person, by answer_ask(); the running turn waits).';

CREATE TABLE millhand.asks (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id     bigint NOT NULL CONSTRAINT asks_task_id_fkey REFERENCES millhand.tasks (id) ON DELETE CASCADE,
    attempt_id  bigint NOT NULL CONSTRAINT asks_attempt_id_fkey REFERENCES millhand.attempts (id) ON DELETE CASCADE,
    external_id text NOT NULL CONSTRAINT asks_external_id_key UNIQUE,
    kind        text NOT NULL CONSTRAINT asks_kind CHECK (kind IN ('permission', 'question')),
    what        jsonb NOT NULL,
    summary     text NOT NULL,
    state       text NOT NULL DEFAULT 'open' CONSTRAINT asks_state CHECK (state IN ('open', 'answered', 'expired', 'withdrawn')),
    answer      text CONSTRAINT asks_answer CHECK (answer IN ('once', 'always', 'reject', 'reply')),
    message     text,
    replies     jsonb,
    answered_by text,
    asked_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    deadline_at timestamptz NOT NULL,
    answered_at timestamptz
);
CREATE INDEX asks_open ON millhand.asks (asked_at) WHERE state = 'open';
CREATE INDEX asks_task ON millhand.asks (task_id);
CREATE INDEX asks_attempt ON millhand.asks (attempt_id);
COMMENT ON TABLE millhand.asks IS 'What agents asked of people, in projects whose ask_policy is inbox. The turn waits, with its lease alive.';
COMMENT ON COLUMN millhand.asks.id IS 'Shown as a12.';
COMMENT ON COLUMN millhand.asks.task_id IS 'The task whose turn asks.';
COMMENT ON COLUMN millhand.asks.attempt_id IS 'The attempt that waits for the answer.';
COMMENT ON COLUMN millhand.asks.external_id IS 'The agent''s own id of it.';
COMMENT ON COLUMN millhand.asks.kind IS 'permission: may it? question: something that it wants to know.';
COMMENT ON COLUMN millhand.asks.what IS 'A permission with its patterns, or questions, each with the answers that are proposed.';
COMMENT ON COLUMN millhand.asks.summary IS 'One line for people.';
COMMENT ON COLUMN millhand.asks.state IS 'open: waits; answered: by a person; expired: nobody answered in time; withdrawn: its turn ended first.';
COMMENT ON COLUMN millhand.asks.answer IS 'once, always (in this worktree) or reject for a permission, reply or reject for a question.';
COMMENT ON COLUMN millhand.asks.message IS 'What a person said with a no; the agent goes on with it. Without one, its turn stops.';
COMMENT ON COLUMN millhand.asks.replies IS 'For each question the list of answers to it.';
COMMENT ON COLUMN millhand.asks.answered_by IS 'Database role that answered.';
COMMENT ON COLUMN millhand.asks.asked_at IS 'When it was first asked.';
COMMENT ON COLUMN millhand.asks.deadline_at IS 'When it becomes a no.';
COMMENT ON COLUMN millhand.asks.answered_at IS 'When it was answered, or became a no.';

COMMENT ON COLUMN millhand.audit_log.action IS 'What was done: retry, cancel, dismiss, add_project, remove_project, close_session, reopen_session, restore_worktree, apply, reject, roll_back, rehome_session, answer.';

DROP FUNCTION millhand.retry_task(bigint, text);
CREATE FUNCTION millhand.retry_task(task bigint, new_prompt text DEFAULT NULL, new_model text DEFAULT NULL, new_agent text DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
DECLARE
    its_session bigint;
    found tasks%ROWTYPE;
    goes_on boolean;
BEGIN
    SELECT session_id INTO its_session FROM tasks WHERE id = task;
    IF its_session IS NULL THEN
        RAISE EXCEPTION 'there is no task t%', task USING ERRCODE = 'no_data_found';
    END IF;
    IF new_prompt IS NOT NULL AND (new_prompt !~ '[^[:space:]]' OR octet_length(new_prompt) > 1048576) THEN
        RAISE EXCEPTION 'the new prompt is empty or longer than 1 MiB'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'tasks_prompt_size';
    END IF;
    PERFORM 1 FROM sessions WHERE id = its_session FOR NO KEY UPDATE;
    SELECT * INTO found FROM tasks WHERE id = task FOR UPDATE;
    IF found.state NOT IN ('failed', 'blocked', 'cancelled') THEN
        RETURN false;
    END IF;
    IF EXISTS (SELECT 1 FROM sessions WHERE id = its_session AND state <> 'open') THEN
        RAISE EXCEPTION 'session s% is closed', its_session
            USING ERRCODE = 'check_violation', CONSTRAINT = 'sessions_state', HINT = 'Queue the prompt again in a new session.';
    END IF;
    -- Where a blocked one is asked the same of the same, it goes on where it was.
    goes_on := found.state = 'blocked' AND new_prompt IS NULL AND new_model IS NULL AND new_agent IS NULL;
    -- It goes first in its line: advance() lets a head behind it that has not begun step back.
    UPDATE tasks SET
        state = 'waiting', lane = NULL, holds_line = false, prompt = coalesce(new_prompt, prompt),
        model = coalesce(new_model, model), agent = coalesce(new_agent, agent), run_at = now(),
        attempts = 0, infra_losses = 0,
        message_id = CASE WHEN goes_on THEN message_id END,
        resend_allowed = goes_on AND message_id IS NOT NULL, cancel_requested_at = NULL, dismissed_at = NULL,
        error_class = NULL, error_message = NULL, finished_at = NULL
        WHERE id = task;
    INSERT INTO nudges (session_id) VALUES (its_session);
    INSERT INTO audit_log (action, task_id, project, details)
        VALUES ('retry', task, found.project, jsonb_strip_nulls(jsonb_build_object('was', found.state, 'new_prompt', new_prompt IS NOT NULL,
            'new_model', new_model, 'new_agent', new_agent)));
    NOTIFY tasks_new;
    RETURN true;
END
$$;
COMMENT ON FUNCTION millhand.retry_task(bigint, text, text, text) IS 'Runs a failed, blocked or cancelled task again, first in its line, with another prompt, model or agent if given; a blocked one without goes on where it was. Does nothing, and returns false, for any other.';

CREATE FUNCTION millhand.answer_ask(ask bigint, answer text, message text DEFAULT NULL, replies jsonb DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
#variable_conflict use_column
DECLARE
    found asks%ROWTYPE;
    wanted int;
BEGIN
    SELECT * INTO found FROM asks WHERE id = ask FOR UPDATE;
    IF found.id IS NULL THEN
        RAISE EXCEPTION 'there is no ask a%', ask USING ERRCODE = 'no_data_found';
    END IF;
    IF answer_ask.answer IS NULL OR NOT answer_ask.answer = ANY (CASE found.kind WHEN 'permission' THEN ARRAY['once', 'always', 'reject'] ELSE ARRAY['reply', 'reject'] END) THEN
        RAISE EXCEPTION 'a% is a %, which "%" does not answer', ask, found.kind, answer_ask.answer
            USING ERRCODE = 'check_violation', CONSTRAINT = 'asks_answer',
            HINT = CASE found.kind WHEN 'permission' THEN 'Answer once, always or reject.' ELSE 'Answer reply, with replies, or reject.' END;
    END IF;
    IF answer_ask.answer = 'reply' THEN
        wanted := jsonb_array_length(found.what -> 'questions');
        IF replies IS NULL OR jsonb_typeof(replies) <> 'array' OR jsonb_array_length(replies) <> wanted
            OR EXISTS (SELECT 1 FROM jsonb_array_elements(replies) r (labels)
                       WHERE jsonb_typeof(labels) <> 'array' OR jsonb_array_length(labels) = 0
                          OR EXISTS (SELECT 1 FROM jsonb_array_elements(labels) l (label) WHERE jsonb_typeof(label) <> 'string'))
        THEN
            RAISE EXCEPTION 'a% asks % question(s): each needs a list of answers', ask, wanted
                USING ERRCODE = 'check_violation', CONSTRAINT = 'asks_replies', HINT = 'Such as [["first answer"], ["second answer"]].';
        END IF;
    END IF;
    IF found.state <> 'open' OR found.deadline_at <= clock_timestamp()
        OR EXISTS (SELECT 1 FROM attempts a WHERE a.id = found.attempt_id AND a.ended_at IS NOT NULL) THEN
        RETURN false;
    END IF;
    UPDATE asks a SET
        state = 'answered', answer = answer_ask.answer,
        message = CASE WHEN answer_ask.answer = 'reject' THEN nullif(btrim(answer_ask.message), '') END,
        replies = CASE WHEN answer_ask.answer = 'reply' THEN answer_ask.replies END,
        answered_by = session_user, answered_at = clock_timestamp()
        WHERE a.id = found.id;
    INSERT INTO audit_log (action, task_id, project, details)
        SELECT 'answer', t.id, t.project, jsonb_build_object('ask', found.id, 'answer', answer_ask.answer)
        FROM tasks t WHERE t.id = found.task_id;
    RETURN true;
END
$$;
COMMENT ON FUNCTION millhand.answer_ask(bigint, text, text, jsonb) IS 'Answers what an agent asked: once, always or reject a permission; reply to questions, with a list of answers for each, or reject. A message with a reject tells the agent what to do instead. Returns false if nobody waits for the answer any more.';

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
    ORDER BY since DESC NULLS LAST;
COMMENT ON VIEW millhand.inbox IS 'What needs a person, newest first: retry_task() or dismiss_task() what failed or is blocked; what is pending waits for a host that is gone; answer_ask() what a running one asks.';
COMMENT ON COLUMN millhand.inbox.behind IS 'Tasks of the session that wait behind it.';
COMMENT ON COLUMN millhand.inbox.since IS 'When it came to rest; for a host that is gone, when that was last heard of.';
COMMENT ON COLUMN millhand.inbox.ask_id IS 'The ask or question that a running turn waits with; its kind is in error_class.';
COMMENT ON COLUMN millhand.inbox.deadline_at IS 'When that becomes a no.';
