-- Maintenance: lines in order whatever happens, a person asked before a lost turn is sent again.

-- An older task that was retried goes before a head that has not begun, whenever it came to be the head.
CREATE OR REPLACE FUNCTION millhand.advance(at_most int DEFAULT 200) RETURNS int
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
DECLARE
    nudged bigint[];
    promoted int := 0;
BEGIN
    WITH taken AS (
        DELETE FROM nudges WHERE id IN (SELECT id FROM nudges ORDER BY id LIMIT at_most FOR UPDATE SKIP LOCKED)
        RETURNING session_id
    )
    SELECT array_agg(DISTINCT session_id ORDER BY session_id) INTO nudged FROM taken;
    IF nudged IS NULL THEN
        RETURN 0;
    END IF;
    -- One advance() at a time in a session, in an order that cannot deadlock. Inserts of tasks go on: their
    -- foreign keys take KEY SHARE, which this lock allows.
    PERFORM 1 FROM sessions WHERE id = ANY (nudged) ORDER BY id FOR NO KEY UPDATE;
    -- Statements of their own: their snapshots see all that was committed before the locks were taken.
    -- An older task that was retried goes first, unless the head has begun: then its message is with the agent.
    UPDATE tasks h SET state = 'waiting', lane = NULL
        WHERE h.session_id = ANY (nudged) AND h.state = 'pending' AND h.message_id IS NULL
          AND EXISTS (SELECT 1 FROM tasks w WHERE w.session_id = h.session_id AND w.state = 'waiting' AND w.id < h.id);
    UPDATE tasks t
        SET state = 'pending', lane = lane_of(t.session_id, t.agent)
        FROM (
            SELECT head.id
            FROM unnest(nudged) AS s (session_id)
            CROSS JOIN LATERAL (
                SELECT w.id FROM tasks w
                WHERE w.session_id = s.session_id AND w.state = 'waiting' ORDER BY w.id LIMIT 1
            ) head
            WHERE NOT EXISTS (SELECT 1 FROM tasks h
                              WHERE h.session_id = s.session_id AND h.state IN ('pending', 'running', 'blocked'))
              AND NOT EXISTS (SELECT 1 FROM tasks f
                              WHERE f.session_id = s.session_id AND f.holds_line AND f.id < head.id)
        ) heads
        WHERE t.id = heads.id AND t.state = 'waiting';
    GET DIAGNOSTICS promoted = ROW_COUNT;
    RETURN promoted;
END
$$;
COMMENT ON FUNCTION millhand.advance(int) IS 'Works off nudges: makes the lowest waiting task of each nudged session its head where it has none, or none that has begun. The only place that promotes. Returns how many it promoted.';

CREATE OR REPLACE FUNCTION millhand.sweep_lines(at_most int DEFAULT 1000) RETURNS int
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
DECLARE
    found int;
BEGIN
    INSERT INTO nudges (session_id)
        SELECT w.session_id
        FROM (SELECT session_id, min(id) AS id FROM tasks WHERE state = 'waiting' GROUP BY session_id) w
        LEFT JOIN tasks h ON h.session_id = w.session_id AND h.state IN ('pending', 'running', 'blocked')
        WHERE CASE
                WHEN h.id IS NULL THEN
                    NOT EXISTS (SELECT 1 FROM tasks f WHERE f.session_id = w.session_id AND f.holds_line AND f.id < w.id)
                ELSE h.state = 'pending' AND h.message_id IS NULL AND h.id > w.id
              END
          AND NOT EXISTS (SELECT 1 FROM nudges n WHERE n.session_id = w.session_id)
        LIMIT at_most;
    GET DIAGNOSTICS found = ROW_COUNT;
    RETURN found;
END
$$;
COMMENT ON FUNCTION millhand.sweep_lines(int) IS 'Backstop: nudges sessions whose line should move and that nobody nudged. Returns how many; anything but 0 is worth a warning.';

-- Workers are at work meanwhile, and their statements take several of these tables in an order of their own: whoever held two of them for
-- itself would sooner or later stand in a circle with one. So each is changed in a transaction of its own, that can be done again.
ALTER TABLE millhand.projects ADD COLUMN IF NOT EXISTS resend text NOT NULL DEFAULT 'continue'
    CONSTRAINT projects_resend CHECK (resend IN ('continue', 'ask'));
COMMENT ON COLUMN millhand.projects.resend IS 'continue: a turn that was lost is sent again by its ids, which may pay for a step again; ask: one that is neither answered nor under way is blocked until a person retries it.';
COMMIT;
BEGIN;
ALTER TABLE millhand.tasks ADD COLUMN IF NOT EXISTS resend_allowed boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN millhand.tasks.resend_allowed IS 'A person retried it after its turn was lost: its message may be sent once more, also where the project asks first.';

CREATE OR REPLACE FUNCTION millhand.fill_task() RETURNS trigger
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
DECLARE
    its record;
    chat_session bigint;
BEGIN
    IF NEW.prompt IS NULL OR NEW.prompt !~ '[^[:space:]]' THEN
        RAISE EXCEPTION 'the prompt is empty' USING ERRCODE = 'check_violation', CONSTRAINT = 'tasks_prompt_size';
    END IF;
    IF octet_length(NEW.prompt) > 1048576 THEN
        RAISE EXCEPTION 'the prompt has % bytes; at most 1048576 (1 MiB) are taken', octet_length(NEW.prompt)
            USING ERRCODE = 'check_violation', CONSTRAINT = 'tasks_prompt_size',
            HINT = 'Put the long part into a file of the repository and name it in the prompt.';
    END IF;

    IF NEW.chat_id IS NOT NULL THEN
        SELECT session_id INTO chat_session FROM chats WHERE id = NEW.chat_id;
        IF chat_session IS NULL THEN
            RAISE EXCEPTION 'there is no chat c%', NEW.chat_id USING ERRCODE = 'foreign_key_violation',
                CONSTRAINT = 'tasks_chat_id_fkey', HINT = 'Leave chat_id out for the session''s first chat.';
        END IF;
        IF NEW.session_id IS NOT NULL AND NEW.session_id <> chat_session THEN
            RAISE EXCEPTION 'chat c% belongs to session s%, not to s%', NEW.chat_id, chat_session, NEW.session_id
                USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'tasks_chat_id_fkey';
        END IF;
        NEW.session_id := chat_session;
    END IF;

    IF NEW.session_id IS NOT NULL THEN
        -- One look for all of it: a bulk insert does this for every row.
        SELECT s.project, s.state, c.id AS first_chat, p.default_agent, p.default_model, p.max_attempts INTO its
            FROM sessions s JOIN projects p ON p.name = s.project
            LEFT JOIN LATERAL (SELECT id FROM chats WHERE session_id = s.id ORDER BY id LIMIT 1) c ON NEW.chat_id IS NULL
            WHERE s.id = NEW.session_id;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no session s%', NEW.session_id USING ERRCODE = 'foreign_key_violation',
                CONSTRAINT = 'tasks_session_id_fkey', HINT = 'See: millhand ls --sessions. Insert with project to open a new one.';
        END IF;
        IF NEW.project IS NOT NULL AND NEW.project <> its.project THEN
            RAISE EXCEPTION 'session s% belongs to project "%", not to "%"', NEW.session_id, its.project, NEW.project
                USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'tasks_project_fkey';
        END IF;
        IF its.state <> 'open' THEN
            RAISE EXCEPTION 'session s% is closed', NEW.session_id
                USING ERRCODE = 'check_violation', CONSTRAINT = 'sessions_state', HINT = 'Insert with project to open a new one.';
        END IF;
        NEW.project := its.project;
        NEW.chat_id := coalesce(NEW.chat_id, its.first_chat);
        NEW.state := 'waiting';
        IF NEW.chat_id IS NULL THEN
            INSERT INTO chats (session_id) VALUES (NEW.session_id) RETURNING id INTO NEW.chat_id;
        END IF;
    ELSIF NEW.project IS NULL THEN
        RAISE EXCEPTION 'a task needs a project or a session_id' USING ERRCODE = 'not_null_violation',
            HINT = 'INSERT INTO millhand.tasks (project, prompt) VALUES (''acme'', ''...'')';
    ELSE
        SELECT base_branch, default_agent, default_model, max_attempts INTO its FROM projects WHERE name = NEW.project;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'unknown project "%"', NEW.project USING ERRCODE = 'foreign_key_violation',
                CONSTRAINT = 'tasks_project_fkey',
                HINT = 'Register it: millhand project add PATH, or SELECT millhand.add_project(''name'', ''/path/or/url''). See: SELECT name FROM millhand.projects.';
        END IF;
        INSERT INTO sessions (project, title, base_branch)
            VALUES (NEW.project, left(split_part(ltrim(NEW.prompt, E' \t\r\n'), E'\n', 1), 120), its.base_branch)
            RETURNING id INTO NEW.session_id;
        INSERT INTO chats (session_id) VALUES (NEW.session_id) RETURNING id INTO NEW.chat_id;
        -- Nobody else can know this session yet, so the task is its head. Its lane needs the agent, and comes last.
        NEW.state := 'pending';
    END IF;

    NEW.agent := coalesce(NEW.agent, its.default_agent);
    NEW.model := coalesce(NEW.model, its.default_model);
    NEW.max_attempts := coalesce(NEW.max_attempts, its.max_attempts);

    -- What only the queue itself may say.
    NEW.holds_line := false;
    NEW.lane := CASE WHEN NEW.state = 'pending' THEN lane_of(NEW.session_id, NEW.agent) END;
    NEW.attempts := 0;
    NEW.infra_losses := 0;
    NEW.last_attempt := 0;
    NEW.message_id := NULL;
    NEW.resend_allowed := false;
    NEW.cancel_requested_at := NULL;
    NEW.dismissed_at := NULL;
    NEW.output_summary := NULL;
    NEW.error_class := NULL;
    NEW.error_message := NULL;
    NEW.tokens := 0;
    NEW.cost_usd := 0;
    NEW.started_at := NULL;
    NEW.finished_at := NULL;
    RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION millhand.retry_task(task bigint, new_prompt text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
DECLARE
    its_session bigint;
    found tasks%ROWTYPE;
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
    -- It goes first in its line: advance() lets a head behind it that has not begun step back.
    UPDATE tasks SET
        state = 'waiting', lane = NULL, holds_line = false, prompt = coalesce(new_prompt, prompt), run_at = now(),
        attempts = 0, infra_losses = 0,
        message_id = CASE WHEN found.state = 'blocked' AND new_prompt IS NULL THEN message_id END,
        resend_allowed = found.state = 'blocked' AND new_prompt IS NULL AND message_id IS NOT NULL, cancel_requested_at = NULL, dismissed_at = NULL,
        error_class = NULL, error_message = NULL, finished_at = NULL
        WHERE id = task;
    INSERT INTO nudges (session_id) VALUES (its_session);
    INSERT INTO audit_log (action, task_id, project, details)
        VALUES ('retry', task, found.project, jsonb_build_object('was', found.state, 'new_prompt', new_prompt IS NOT NULL));
    NOTIFY tasks_new;
    RETURN true;
END
$$;
COMMENT ON FUNCTION millhand.retry_task(bigint, text) IS 'Runs a failed, blocked or cancelled task again, first in its line, with a new prompt if given; a blocked one without goes on where it was. Does nothing, and returns false, for any other.';
COMMIT;
BEGIN;
ALTER TABLE millhand.workers ADD COLUMN IF NOT EXISTS counters jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN millhand.workers.counters IS 'What it has done since it started, as of its last heartbeat: claimed, finished by outcome, rescued, repaired and so on.';
COMMIT;
BEGIN;

-- The transcripts, by day. The rows that are there are copied to the days of their attempts; who writes meanwhile waits.
ALTER TABLE millhand.turn_events RENAME TO turn_events_before;
ALTER TABLE millhand.turn_events_before RENAME CONSTRAINT turn_events_pkey TO turn_events_before_pkey;
CREATE TABLE millhand.turn_events (
    attempt_id bigint NOT NULL,
    day        date NOT NULL,
    seq        int NOT NULL,
    kind       text NOT NULL,
    part       text,
    data       jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT turn_events_pkey PRIMARY KEY (attempt_id, seq, day)
) PARTITION BY RANGE (day);
COMMENT ON TABLE millhand.turn_events IS 'The transcript of an attempt, in order. A table per day, made by make_event_day(), so that old ones go at once. No foreign key: making and dropping a day would lock the attempts.';
COMMENT ON COLUMN millhand.turn_events.attempt_id IS 'The attempt.';
COMMENT ON COLUMN millhand.turn_events.day IS 'Day (UTC) on which the attempt started: the same for all its rows, so that (attempt, seq) is unique, and readers look into one table.';
COMMENT ON COLUMN millhand.turn_events.seq IS 'Counts up; gaps are deltas that their final part replaced.';
COMMENT ON COLUMN millhand.turn_events.kind IS 'text_delta, text, reasoning_delta, reasoning, tool, step_finish, plan, ask, retry, status, warning, unknown.';
COMMENT ON COLUMN millhand.turn_events.part IS 'The agent''s id of the part, which deltas and the final text share.';
COMMENT ON COLUMN millhand.turn_events.data IS 'The event; its fields depend on the kind.';
COMMENT ON COLUMN millhand.turn_events.created_at IS 'When it was recorded.';

CREATE FUNCTION millhand.make_event_day(of_day date) RETURNS boolean
LANGUAGE plpgsql SET search_path = millhand, pg_catalog SET lock_timeout = '5s' AS $$
DECLARE
    its_name text := 'turn_events_' || to_char(of_day, 'YYYYMMDD');
BEGIN
    -- One at a time: who had to wait finds it made.
    PERFORM pg_advisory_xact_lock(hashtextextended('millhand.turn_events', 0));
    IF to_regclass(format('millhand.%I', its_name)) IS NOT NULL THEN
        RETURN false;
    END IF;
    -- Made alone and attached then: reading and writing of the other days go on meanwhile.
    EXECUTE format('CREATE TABLE millhand.%I (LIKE millhand.turn_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS)', its_name);
    EXECUTE format('COMMENT ON TABLE millhand.%I IS %L', its_name, 'Transcripts of the attempts that started on ' || of_day || '.');
    EXECUTE format('ALTER TABLE millhand.turn_events ATTACH PARTITION millhand.%I FOR VALUES FROM (%L) TO (%L)', its_name, of_day, of_day + 1);
    RETURN true;
END
$$;
COMMENT ON FUNCTION millhand.make_event_day(date) IS 'Makes the table of a day''s transcripts. Returns false if there is one. Workers call it ahead of time, and when it is missing.';

SELECT millhand.make_event_day(day) FROM (
    SELECT DISTINCT (a.started_at AT TIME ZONE 'UTC')::date AS day FROM millhand.attempts a
    WHERE EXISTS (SELECT 1 FROM millhand.turn_events_before e WHERE e.attempt_id = a.id)
) days ORDER BY day;
INSERT INTO millhand.turn_events (attempt_id, day, seq, kind, part, data, created_at)
    SELECT e.attempt_id, (a.started_at AT TIME ZONE 'UTC')::date, e.seq, e.kind, e.part, e.data, e.created_at
    FROM millhand.turn_events_before e JOIN millhand.attempts a ON a.id = e.attempt_id;
DROP TABLE millhand.turn_events_before;
CREATE FUNCTION millhand.forget_events() RETURNS trigger
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
BEGIN
    DELETE FROM turn_events e USING gone g WHERE e.attempt_id = g.id AND e.day = (g.started_at AT TIME ZONE 'UTC')::date;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION millhand.forget_events() IS 'Deletes the transcripts of deleted attempts.';
CREATE TRIGGER attempts_forget_events AFTER DELETE ON millhand.attempts REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION millhand.forget_events();

-- What repairs look for.
CREATE INDEX attempts_open ON millhand.attempts (task_id) WHERE ended_at IS NULL;

CREATE FUNCTION millhand.oldest_program() RETURNS int
LANGUAGE sql IMMUTABLE SET search_path = millhand, pg_catalog AS $$ SELECT 4 $$;
COMMENT ON FUNCTION millhand.oldest_program() IS 'Newest migration that a program must at least know to work with this schema. A worker that knows less lets its turns end and stops.';
