-- Setting up new worktrees, and checks of what turns changed.

-- A program that does not know this would start turns in worktrees that are not set up, and keep copied secrets in checkpoints.
CREATE OR REPLACE FUNCTION millhand.oldest_program() RETURNS int
LANGUAGE sql IMMUTABLE SET search_path = millhand, pg_catalog AS $$ SELECT 8 $$;

ALTER TABLE millhand.projects
    ADD COLUMN setup_command   text CONSTRAINT projects_setup_command
                               CHECK (setup_command ~ '[^[:space:]]' AND octet_length(setup_command) <= 65536),
    ADD COLUMN setup_kept      boolean NOT NULL DEFAULT false,
    ADD COLUMN check_resends   int NOT NULL DEFAULT 0 CONSTRAINT projects_check_resends CHECK (check_resends BETWEEN 0 AND 20),
    ADD COLUMN checks_required boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN millhand.projects.setup_command IS 'Shell command that is run once in each new worktree, in the sandbox, before its first turn; null: none. audit_log has who changed it (change_setup).';
COMMENT ON COLUMN millhand.projects.setup_kept IS 'Worktrees that wait in the pool keep ignored files, such as installed dependencies, for the next session; an earlier agent could have changed them.';
COMMENT ON COLUMN millhand.projects.check_resends IS 'How often in a row failed checks are sent back to the agent as the next prompt.';
COMMENT ON COLUMN millhand.projects.checks_required IS 'Changes whose checks have not all passed are not applied.';

CREATE TABLE millhand.project_files (
    project text NOT NULL CONSTRAINT project_files_project_fkey
            REFERENCES millhand.projects (name) ON UPDATE CASCADE ON DELETE CASCADE,
    path    text NOT NULL CONSTRAINT project_files_path
            CHECK (path !~ '(^|/)[.]{0,2}(/|$)' AND path !~* '(^|/)[.]git(/|$)' AND octet_length(path) <= 1024),
    source  text NOT NULL CONSTRAINT project_files_source CHECK (source ~ '^/' AND octet_length(source) <= 4096),
    CONSTRAINT project_files_pkey PRIMARY KEY (project, path)
);
COMMENT ON TABLE millhand.project_files IS 'Files of the operator''s, such as .env, that are copied into each new worktree. They are never part of a change set.';
COMMENT ON COLUMN millhand.project_files.project IS 'The project.';
COMMENT ON COLUMN millhand.project_files.path IS 'Where in the worktree.';
COMMENT ON COLUMN millhand.project_files.source IS 'Absolute path of the file on the hosts that run the project; no part of it a link, and nowhere that agents can write.';

CREATE TABLE millhand.checks (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project       text NOT NULL CONSTRAINT checks_project_fkey
                  REFERENCES millhand.projects (name) ON UPDATE CASCADE ON DELETE CASCADE,
    name          text NOT NULL CONSTRAINT checks_name_form CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
    command       text NOT NULL CONSTRAINT checks_command
                  CHECK (command ~ '[^[:space:]]' AND octet_length(command) <= 65536),
    limit_seconds int CONSTRAINT checks_limit CHECK (limit_seconds > 0),
    created_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT checks_project_name_key UNIQUE (project, name)
);
COMMENT ON TABLE millhand.checks IS 'Commands of the operator''s, such as tests, that are run on what each turn of a project left. Agents cannot reach them. audit_log has who changed them (add_check, remove_check).';
COMMENT ON COLUMN millhand.checks.id IS 'Key; the order in which they run.';
COMMENT ON COLUMN millhand.checks.project IS 'The project.';
COMMENT ON COLUMN millhand.checks.name IS 'What people call it.';
COMMENT ON COLUMN millhand.checks.command IS 'As a shell reads it.';
COMMENT ON COLUMN millhand.checks.limit_seconds IS 'How long it may take; null: timings.check of the host.';
COMMENT ON COLUMN millhand.checks.created_at IS 'When it was added.';

CREATE TABLE millhand.check_runs (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    change_set_id bigint NOT NULL CONSTRAINT check_runs_change_set_id_fkey
                  REFERENCES millhand.change_sets (id) ON DELETE CASCADE,
    name          text NOT NULL,
    command       text NOT NULL,
    limit_seconds int,
    state         text NOT NULL DEFAULT 'pending' CONSTRAINT check_runs_state
                  CHECK (state IN ('pending', 'running', 'passed', 'failed', 'timed_out', 'error', 'skipped')),
    host_id       text,
    token         uuid,
    tries         int NOT NULL DEFAULT 0,
    exit_code     int,
    problem       text,
    output        text,
    duration_ms   bigint,
    created_at    timestamptz NOT NULL DEFAULT now(),
    started_at    timestamptz,
    ended_at      timestamptz,
    CONSTRAINT check_runs_name_key UNIQUE (change_set_id, name)
);
CREATE INDEX check_runs_open ON millhand.check_runs (id) WHERE state IN ('pending', 'running');
CREATE INDEX check_runs_failed ON millhand.check_runs (change_set_id) WHERE state IN ('failed', 'timed_out');
COMMENT ON TABLE millhand.check_runs IS 'What the checks said of a change set. Made with it, in one transaction.';
COMMENT ON COLUMN millhand.check_runs.id IS 'Key; the order in which they run.';
COMMENT ON COLUMN millhand.check_runs.change_set_id IS 'The change set.';
COMMENT ON COLUMN millhand.check_runs.name IS 'The check, by name: it stays when the check is removed.';
COMMENT ON COLUMN millhand.check_runs.command IS 'The command as it was then.';
COMMENT ON COLUMN millhand.check_runs.limit_seconds IS 'How long it may take; null: timings.check of the host.';
COMMENT ON COLUMN millhand.check_runs.state IS 'pending; running; passed: exit code 0; failed: another one, a signal, or too many processes; timed_out; error: it could not be run; skipped: the change set was superseded or decided before it ran.';
COMMENT ON COLUMN millhand.check_runs.host_id IS 'The host that runs or ran it.';
COMMENT ON COLUMN millhand.check_runs.token IS 'Proof of running it: whoever has another one may not record what came of it.';
COMMENT ON COLUMN millhand.check_runs.tries IS 'How often it was begun; more than once where a worker died.';
COMMENT ON COLUMN millhand.check_runs.exit_code IS 'Of the command, where it ended by itself.';
COMMENT ON COLUMN millhand.check_runs.problem IS 'How it ended otherwise, in words.';
COMMENT ON COLUMN millhand.check_runs.output IS 'The end of what it printed.';
COMMENT ON COLUMN millhand.check_runs.duration_ms IS 'How long it took.';
COMMENT ON COLUMN millhand.check_runs.created_at IS 'When it was asked for.';
COMMENT ON COLUMN millhand.check_runs.started_at IS 'When it was last begun.';
COMMENT ON COLUMN millhand.check_runs.ended_at IS 'When it came to rest.';

CREATE TABLE millhand.check_feedback (
    change_set_id bigint PRIMARY KEY CONSTRAINT check_feedback_change_set_id_fkey
                  REFERENCES millhand.change_sets (id) ON DELETE CASCADE,
    task_id       bigint CONSTRAINT check_feedback_task_id_fkey REFERENCES millhand.tasks (id) ON DELETE SET NULL,
    round         int NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX check_feedback_task ON millhand.check_feedback (task_id);
COMMENT ON TABLE millhand.check_feedback IS 'Change sets whose failed checks were sent back to the agent: each once.';
COMMENT ON COLUMN millhand.check_feedback.change_set_id IS 'The change set.';
COMMENT ON COLUMN millhand.check_feedback.task_id IS 'The task that asks the agent to see to it; null when its row was deleted.';
COMMENT ON COLUMN millhand.check_feedback.round IS 'The how manieth in a row it is; a prompt of a person''s begins anew.';
COMMENT ON COLUMN millhand.check_feedback.created_at IS 'When.';

CREATE FUNCTION millhand.ask_for_checks() RETURNS trigger
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
BEGIN
    INSERT INTO check_runs (change_set_id, name, command, limit_seconds)
        SELECT NEW.id, k.name, k.command, k.limit_seconds
        FROM sessions s JOIN checks k ON k.project = s.project WHERE s.id = NEW.session_id ORDER BY k.id
        ON CONFLICT (change_set_id, name) DO NOTHING;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION millhand.ask_for_checks() IS 'Has a new change set checked by the checks that its project has then.';
CREATE TRIGGER change_sets_checks AFTER UPDATE OF state ON millhand.change_sets
    FOR EACH ROW WHEN (OLD.state = 'draft' AND NEW.state = 'open' AND NEW.files > 0) EXECUTE FUNCTION millhand.ask_for_checks();

COMMENT ON COLUMN millhand.tasks.error_class IS 'Why the last attempt did not complete: refused, agent_failed, rate_limited, infrastructure_lost, setup_failed.';
