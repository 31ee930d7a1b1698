-- The life of a worktree: closing a session lets it go; it is moved to the trash or the pool, restored, gone in the end.

ALTER TABLE millhand.worktrees
    ADD COLUMN project_id      bigint,
    ADD COLUMN last_session_id bigint,
    ADD COLUMN let_go_at       timestamptz,
    ADD COLUMN reap_asked_at   timestamptz,
    ADD COLUMN kept            boolean NOT NULL DEFAULT false,
    ADD COLUMN reason          text,
    ADD COLUMN problem         text,
    ADD COLUMN tried_at        timestamptz,
    ADD COLUMN checkpoint      text,
    ADD COLUMN unrecorded      boolean NOT NULL DEFAULT false,
    ADD COLUMN slot            text,
    ADD COLUMN trashed_at      timestamptz,
    ADD COLUMN bytes           bigint,
    ADD COLUMN measured_at     timestamptz;
ALTER TABLE millhand.worktrees DROP CONSTRAINT worktrees_state;
ALTER TABLE millhand.worktrees ADD CONSTRAINT worktrees_state
    CHECK (state IN ('ready', 'in_use', 'reaping', 'pooled', 'trashed', 'gone'));

-- Where it lies says whose it is: $MILLHAND_HOME/agents/<project id>/worktrees/s<session id>.
UPDATE millhand.worktrees w SET
    project_id = substring(w.path FROM '/agents/([0-9]+)/worktrees/s[0-9]+$')::bigint,
    last_session_id = coalesce(w.session_id, substring(w.path FROM '/worktrees/s([0-9]+)$')::bigint),
    let_go_at = CASE WHEN NOT EXISTS (SELECT 1 FROM millhand.sessions s WHERE s.id = w.session_id AND s.state = 'open') THEN now() END;

CREATE INDEX worktrees_by_session ON millhand.worktrees (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX worktrees_let_go ON millhand.worktrees (host_id, let_go_at)
    WHERE state IN ('ready', 'in_use') AND let_go_at IS NOT NULL;
CREATE INDEX worktrees_trashed ON millhand.worktrees (host_id, trashed_at) WHERE state = 'trashed';
CREATE INDEX worktrees_unsettled ON millhand.worktrees (host_id, id) WHERE state = 'reaping' OR reap_asked_at IS NOT NULL;
CREATE INDEX worktrees_pooled ON millhand.worktrees (host_id, project_id, id) WHERE state = 'pooled';

COMMENT ON COLUMN millhand.worktrees.path IS 'Absolute path on that host; where it belongs, while it lies in the trash.';
COMMENT ON COLUMN millhand.worktrees.state IS 'ready; in_use by an attempt; reaping: on its way to the trash or the pool; pooled: reset, for the next session of the project; trashed: moved aside, restorable; gone: its work is in the checkpoint.';
COMMENT ON COLUMN millhand.worktrees.project_id IS 'Key of the project, by value: names the mirror that has the checkpoint, also when the project is deleted.';
COMMENT ON COLUMN millhand.worktrees.last_session_id IS 'The session, by value: stays when its row is deleted.';
COMMENT ON COLUMN millhand.worktrees.let_go_at IS 'When its session was closed or deleted; it is reaped a while after.';
COMMENT ON COLUMN millhand.worktrees.reap_asked_at IS 'A person asked to reap it now.';
COMMENT ON COLUMN millhand.worktrees.kept IS 'A person restored it although its session cannot come back: it is left alone until somebody asks to reap it.';
COMMENT ON COLUMN millhand.worktrees.reason IS 'Why it was reaped: session_closed, session_deleted, quota, asked.';
COMMENT ON COLUMN millhand.worktrees.problem IS 'Why it could not be reaped when that was last tried.';
COMMENT ON COLUMN millhand.worktrees.tried_at IS 'When that was.';
COMMENT ON COLUMN millhand.worktrees.checkpoint IS 'Commit in the mirror with all its files but the ignored ones, made before it was reaped.';
COMMENT ON COLUMN millhand.worktrees.unrecorded IS 'Whether that checkpoint has changes that no turn''s change set has.';
COMMENT ON COLUMN millhand.worktrees.slot IS 'Name of its folder in the trash or the pool.';
COMMENT ON COLUMN millhand.worktrees.trashed_at IS 'When it was moved to the trash.';
COMMENT ON COLUMN millhand.worktrees.bytes IS 'Disk space that it took when last measured.';
COMMENT ON COLUMN millhand.worktrees.measured_at IS 'When it was last measured.';
COMMENT ON COLUMN millhand.audit_log.action IS 'What was done: retry, cancel, dismiss, add_project, remove_project, close_session, reopen_session, restore_worktree.';

-- However a session goes (function, plain UPDATE, DELETE of the session or its project), its worktrees know when.
CREATE FUNCTION millhand.note_session_state() RETURNS trigger
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
BEGIN
    UPDATE worktrees SET
        let_go_at = CASE WHEN NEW.state = 'closed' THEN coalesce(let_go_at, now()) END,
        reap_asked_at = CASE WHEN NEW.state = 'closed' THEN reap_asked_at END
        WHERE session_id = NEW.id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION millhand.note_session_state() IS 'Notes on its worktrees that a session was closed or opened again.';
CREATE TRIGGER sessions_state AFTER UPDATE OF state ON millhand.sessions
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION millhand.note_session_state();

CREATE FUNCTION millhand.note_session_gone() RETURNS trigger
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
BEGIN
    NEW.let_go_at := coalesce(NEW.let_go_at, now());
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION millhand.note_session_gone() IS 'Notes on a worktree when the row of its session was deleted.';
CREATE TRIGGER worktrees_session_gone BEFORE UPDATE OF session_id ON millhand.worktrees
    FOR EACH ROW WHEN (OLD.session_id IS NOT NULL AND NEW.session_id IS NULL) EXECUTE FUNCTION millhand.note_session_gone();

CREATE OR REPLACE FUNCTION millhand.announce_tasks() RETURNS trigger
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
DECLARE
    closed bigint;
BEGIN
    -- The foreign keys have locked the sessions by now, so one that was closed meanwhile is seen here, and one that is being closed
    -- waits for us.
    SELECT s.id INTO closed FROM sessions s
        WHERE s.id IN (SELECT session_id FROM new_tasks WHERE state = 'waiting') AND s.state <> 'open' LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'session s% is closed', closed USING ERRCODE = 'check_violation', CONSTRAINT = 'sessions_state',
            HINT = 'Open it again: millhand reopen, or SELECT millhand.reopen_session(id). Or insert with project to open a new one.';
    END IF;
    INSERT INTO nudges (session_id) SELECT DISTINCT session_id FROM new_tasks WHERE state = 'waiting';
    IF FOUND OR EXISTS (SELECT 1 FROM new_tasks) THEN
        NOTIFY tasks_new;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION millhand.announce_tasks() IS 'After an insert: refuses tasks for closed sessions, nudges the sessions that were continued, and wakes the workers once.';

CREATE FUNCTION millhand.close_session(session bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
DECLARE
    found sessions%ROWTYPE;
    open_task bigint;
BEGIN
    -- Stronger than what a claim and an insert of a task take on it: none of them can slip in.
    SELECT * INTO found FROM sessions WHERE id = session FOR UPDATE;
    IF found.id IS NULL THEN
        RAISE EXCEPTION 'there is no session s%', session USING ERRCODE = 'no_data_found', HINT = 'See: millhand ls --sessions';
    END IF;
    IF found.state = 'closed' THEN
        RETURN false;
    END IF;
    SELECT id INTO open_task FROM tasks
        WHERE session_id = session AND state IN ('pending', 'waiting', 'running', 'blocked') ORDER BY id LIMIT 1;
    IF open_task IS NOT NULL THEN
        RAISE EXCEPTION 'session s% has open tasks, such as t%', session, open_task
            USING ERRCODE = 'check_violation', CONSTRAINT = 'sessions_state',
            HINT = 'Cancel them first: millhand cancel, or SELECT millhand.cancel_task(id).';
    END IF;
    UPDATE sessions SET state = 'closed' WHERE id = session;
    INSERT INTO audit_log (action, project, details)
        VALUES ('close_session', found.project, jsonb_build_object('session_id', session));
    NOTIFY worktrees_changed;
    RETURN true;
END
$$;
COMMENT ON FUNCTION millhand.close_session(bigint) IS 'Closes a session: it takes no more tasks, and its worktree goes to the trash or the pool a while later. Refused while it has open tasks. Returns false if it was closed already.';

CREATE FUNCTION millhand.reopen_session(session bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
DECLARE
    found sessions%ROWTYPE;
BEGIN
    SELECT * INTO found FROM sessions WHERE id = session FOR NO KEY UPDATE;
    IF found.id IS NULL THEN
        RAISE EXCEPTION 'there is no session s%', session USING ERRCODE = 'no_data_found', HINT = 'See: millhand ls --sessions';
    END IF;
    IF found.state = 'open' THEN
        RETURN false;
    END IF;
    UPDATE sessions SET state = 'open' WHERE id = session;
    INSERT INTO audit_log (action, project, details)
        VALUES ('reopen_session', found.project, jsonb_build_object('session_id', session));
    RETURN true;
END
$$;
COMMENT ON FUNCTION millhand.reopen_session(bigint) IS 'Opens a closed session again; its next turn brings its worktree back. Returns false if it was open.';
