-- Millhand's whole database schema. Read this first.
--
-- Everything lives in the schema `millhand`. The files in migrations/ hold the steps that lead here;
-- a test proves that their sum equals this file. Floor: PostgreSQL 15.
--
-- This is a public interface: people insert rows, call the functions and read the views from any language.
--
--   INSERT INTO millhand.tasks (project, prompt) VALUES ('acme', 'Add a --json flag to the ls command');
--   INSERT INTO millhand.tasks (session_id, prompt) VALUES (7, 'Now add tests for it');
--   SELECT * FROM millhand.inbox;
--   SELECT millhand.retry_task(42);
--
-- Functions that say SECURITY DEFINER are what roles of little privilege act by (ops/roles.sql); all functions have a fixed search_path,
-- with pg_temp last.
--
-- Bulk inserts: use one INSERT with many rows. Each statement that makes a task claimable sends one
-- NOTIFY, and NOTIFY serialises commits.

CREATE SCHEMA IF NOT EXISTS millhand;
COMMENT ON SCHEMA millhand IS 'The queue, the sessions and the results of Millhand, a worker for coding agents.';

CREATE FUNCTION millhand.oldest_program() RETURNS int
LANGUAGE sql IMMUTABLE SET search_path = millhand, pg_catalog, pg_temp AS $$ SELECT 20 $$;
COMMENT ON FUNCTION millhand.oldest_program() IS 'Newest migration that a program must at least know to work with this schema. A worker that knows less lets its turns end and stops.';

-- ---------------------------------------------------------------------------------------------
-- Projects, sessions, chats
-- ---------------------------------------------------------------------------------------------

CREATE TABLE millhand.projects (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text NOT NULL CONSTRAINT projects_name_key UNIQUE
                  CONSTRAINT projects_name_form CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
    source        text NOT NULL CONSTRAINT projects_source_form
                  CHECK (source <> '' AND source !~ '^-' AND source !~ '[[:cntrl:]]'),
    host_id       text,
    base_branch   text CONSTRAINT projects_base_branch_form CHECK (base_branch <> '' AND base_branch !~ '^-'),
    default_agent text NOT NULL DEFAULT 'opencode' CONSTRAINT projects_default_agent_form CHECK (default_agent <> ''),
    default_model text CONSTRAINT projects_default_model_form CHECK (default_model <> ''),
    trusted       boolean NOT NULL DEFAULT false,
    ask_policy    text NOT NULL DEFAULT 'reject'
                  CONSTRAINT projects_ask_policy CHECK (ask_policy IN ('reject', 'allow', 'inbox')),
    on_failure    text NOT NULL DEFAULT 'hold'
                  CONSTRAINT projects_on_failure CHECK (on_failure IN ('hold', 'continue')),
    resend        text NOT NULL DEFAULT 'continue'
                  CONSTRAINT projects_resend CHECK (resend IN ('continue', 'ask')),
    max_attempts  int NOT NULL DEFAULT 3 CONSTRAINT projects_max_attempts CHECK (max_attempts BETWEEN 1 AND 100),
    env_pass      text[] NOT NULL DEFAULT '{}',
    created_at    timestamptz NOT NULL DEFAULT now(),
    setup_command   text CONSTRAINT projects_setup_command
                    CHECK (setup_command ~ '[^[:space:]]' AND octet_length(setup_command) <= 65536),
    setup_kept      boolean NOT NULL DEFAULT false,
    check_resends   int NOT NULL DEFAULT 0 CONSTRAINT projects_check_resends CHECK (check_resends BETWEEN 0 AND 20),
    checks_required boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE millhand.projects IS 'A git repository that tasks may work on, registered by name.';
COMMENT ON COLUMN millhand.projects.id IS 'Names the mirror and the folders on disk; never shown to people.';
COMMENT ON COLUMN millhand.projects.name IS 'What people call it; may be changed, tasks follow.';
COMMENT ON COLUMN millhand.projects.source IS 'Absolute path of the repository on host_id, or a URL that git can clone.';
COMMENT ON COLUMN millhand.projects.host_id IS 'The host whose disk holds the path; null for a URL, which any host may clone.';
COMMENT ON COLUMN millhand.projects.base_branch IS 'Branch that new sessions start from; null: the branch checked out in the source when the session starts.';
COMMENT ON COLUMN millhand.projects.default_agent IS 'Agent of tasks that name none.';
COMMENT ON COLUMN millhand.projects.default_model IS 'Model (provider/model) of tasks that name none; null: the agent''s own default.';
COMMENT ON COLUMN millhand.projects.trusted IS 'Whether the repository''s own agent configuration (which is code) is loaded.';
COMMENT ON COLUMN millhand.projects.ask_policy IS 'What answers what an agent asks: reject (with a visible warning), allow (permissions only), or inbox (a person, by answer_ask(); the running turn waits).';
COMMENT ON COLUMN millhand.projects.on_failure IS 'hold: a failed task holds its session''s line until a person acts; continue: the next one runs.';
COMMENT ON COLUMN millhand.projects.resend IS 'continue: a turn that was lost is sent again by its ids, which may pay for a step again; ask: one that is neither answered nor under way is blocked until a person retries it.';
COMMENT ON COLUMN millhand.projects.max_attempts IS 'Charged attempts that a new task gets, unless it says otherwise.';
COMMENT ON COLUMN millhand.projects.env_pass IS 'Names of environment variables of the worker that the project''s agents may see.';
COMMENT ON COLUMN millhand.projects.created_at IS 'When it was registered.';
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

CREATE TABLE millhand.sessions (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project     text NOT NULL CONSTRAINT sessions_project_fkey
                REFERENCES millhand.projects (name) ON UPDATE CASCADE ON DELETE CASCADE,
    title       text NOT NULL DEFAULT '',
    base_branch text,
    base_commit text,
    home_host   text,
    state       text NOT NULL DEFAULT 'open' CONSTRAINT sessions_state CHECK (state IN ('open', 'closed')),
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX sessions_project ON millhand.sessions (project, id);
CREATE INDEX sessions_state ON millhand.sessions (state, id);
COMMENT ON TABLE millhand.sessions IS 'One line of work in a project: one worktree, one base commit, its tasks run one after another.';
COMMENT ON COLUMN millhand.sessions.id IS 'Shown as s7.';
COMMENT ON COLUMN millhand.sessions.project IS 'The project.';
COMMENT ON COLUMN millhand.sessions.title IS 'For people; taken from the first prompt.';
COMMENT ON COLUMN millhand.sessions.base_branch IS 'Branch asked for at the start, or the one resolved by the first turn.';
COMMENT ON COLUMN millhand.sessions.base_commit IS 'Commit that changes are measured against; set by the first turn.';
COMMENT ON COLUMN millhand.sessions.home_host IS 'Host that has the worktree; null until the first turn has made it.';
COMMENT ON COLUMN millhand.sessions.state IS 'open: takes tasks; closed: its worktree may go.';
COMMENT ON COLUMN millhand.sessions.created_at IS 'When it was opened.';

CREATE TABLE millhand.chats (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session_id bigint NOT NULL CONSTRAINT chats_session_id_fkey REFERENCES millhand.sessions (id) ON DELETE CASCADE,
    title      text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX chats_session ON millhand.chats (session_id, id);
COMMENT ON TABLE millhand.chats IS 'One agent context in a session; the chats of a session share its worktree and its line.';
COMMENT ON COLUMN millhand.chats.id IS 'Shown as c9.';
COMMENT ON COLUMN millhand.chats.session_id IS 'The session.';
COMMENT ON COLUMN millhand.chats.title IS 'For people.';
COMMENT ON COLUMN millhand.chats.created_at IS 'When it was opened.';

-- ---------------------------------------------------------------------------------------------
-- Tasks: the queue
-- ---------------------------------------------------------------------------------------------

CREATE TABLE millhand.tasks (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project             text NOT NULL CONSTRAINT tasks_project_fkey
                        REFERENCES millhand.projects (name) ON UPDATE CASCADE ON DELETE CASCADE,
    session_id          bigint NOT NULL CONSTRAINT tasks_session_id_fkey
                        REFERENCES millhand.sessions (id) ON DELETE CASCADE,
    chat_id             bigint NOT NULL CONSTRAINT tasks_chat_id_fkey
                        REFERENCES millhand.chats (id) ON DELETE CASCADE,
    prompt              text NOT NULL CONSTRAINT tasks_prompt_size
                        CHECK (prompt ~ '[^[:space:]]' AND octet_length(prompt) <= 1048576),
    agent               text NOT NULL CONSTRAINT tasks_agent_form CHECK (agent <> ''),
    model               text CONSTRAINT tasks_model_form CHECK (model <> ''),
    variant             text CONSTRAINT tasks_variant_form CHECK (variant <> ''),
    state               text NOT NULL DEFAULT 'waiting' CONSTRAINT tasks_state CHECK
                        (state IN ('pending', 'waiting', 'running', 'blocked', 'completed', 'failed', 'cancelled')),
    holds_line          boolean NOT NULL DEFAULT false,
    priority            int NOT NULL DEFAULT 0,
    run_at              timestamptz NOT NULL DEFAULT now(),
    lane                text COLLATE "C",
    attempts            int NOT NULL DEFAULT 0,
    max_attempts        int NOT NULL CONSTRAINT tasks_max_attempts CHECK (max_attempts BETWEEN 1 AND 100),
    infra_losses        int NOT NULL DEFAULT 0,
    last_attempt        int NOT NULL DEFAULT 0,
    idempotency_key     text CONSTRAINT tasks_idempotency_key UNIQUE,
    parent_task_id      bigint CONSTRAINT tasks_parent_task_id_fkey REFERENCES millhand.tasks (id) ON DELETE SET NULL,
    message_id          text,
    resend_allowed      boolean NOT NULL DEFAULT false,
    cancel_requested_at timestamptz,
    dismissed_at        timestamptz,
    output_summary      text,
    error_class         text,
    error_message       text,
    tokens              bigint NOT NULL DEFAULT 0,
    cost_usd            numeric(18, 9) NOT NULL DEFAULT 0,
    created_at          timestamptz NOT NULL DEFAULT now(),
    started_at          timestamptz,
    finished_at         timestamptz,
    unknown_steps       bigint NOT NULL DEFAULT 0,
    merge_commit        text CONSTRAINT tasks_merge_commit CHECK (merge_commit ~ '^[0-9a-f]{40}$'),
    merge_branch        text
);
CREATE UNIQUE INDEX tasks_one_head ON millhand.tasks (session_id) WHERE state IN ('pending', 'running', 'blocked');
CREATE INDEX tasks_claim ON millhand.tasks (lane, priority, run_at, id) WHERE state = 'pending';
CREATE INDEX tasks_wake ON millhand.tasks (run_at) WHERE state = 'pending';
CREATE INDEX tasks_waiting ON millhand.tasks (session_id, id) WHERE state = 'waiting';
CREATE INDEX tasks_holding ON millhand.tasks (session_id, id) WHERE holds_line;
CREATE INDEX tasks_session ON millhand.tasks (session_id, id);
CREATE INDEX tasks_chat ON millhand.tasks (chat_id);
CREATE INDEX tasks_project ON millhand.tasks (project, id);
CREATE INDEX tasks_parent ON millhand.tasks (parent_task_id) WHERE parent_task_id IS NOT NULL;
CREATE INDEX tasks_inbox ON millhand.tasks (finished_at) WHERE state IN ('failed', 'blocked') AND dismissed_at IS NULL;
CREATE INDEX tasks_not_completed ON millhand.tasks (id) WHERE state IN ('failed', 'blocked', 'cancelled');
CREATE INDEX tasks_completed ON millhand.tasks (finished_at) WHERE state = 'completed';
CREATE INDEX tasks_open ON millhand.tasks (project) WHERE state IN ('pending', 'running', 'blocked', 'waiting');
CREATE INDEX tasks_done ON millhand.tasks (id) WHERE state IN ('completed', 'failed', 'blocked', 'cancelled');
CREATE INDEX tasks_running ON millhand.tasks (id) WHERE state = 'running';
CREATE INDEX tasks_over_budget ON millhand.tasks (id) WHERE state = 'blocked' AND error_class = 'budget';
COMMENT ON TABLE millhand.tasks IS 'The queue: one row is one prompt for one chat. Insert (project, prompt) to open a session, or (session_id, prompt) to continue one.';
COMMENT ON COLUMN millhand.tasks.id IS 'Shown as t42. The order within a session.';
COMMENT ON COLUMN millhand.tasks.project IS 'Name of the project; filled from the session where that is given.';
COMMENT ON COLUMN millhand.tasks.session_id IS 'The session; left out, the insert opens a new one.';
COMMENT ON COLUMN millhand.tasks.chat_id IS 'The chat; left out, the session''s first one.';
COMMENT ON COLUMN millhand.tasks.prompt IS 'What the agent is asked; at most 1 MiB.';
COMMENT ON COLUMN millhand.tasks.agent IS 'Who does it: an agent name, with a mode of its own behind a slash where wanted (opencode, opencode/plan).';
COMMENT ON COLUMN millhand.tasks.model IS 'Model as asked for (provider/model); null: the project''s, else the agent''s default.';
COMMENT ON COLUMN millhand.tasks.variant IS 'Variant of the model (such as its reasoning effort), by the agent''s name for it.';
COMMENT ON COLUMN millhand.tasks.state IS 'pending: head of its line, may be claimed; waiting: behind the head; running; blocked: needs a person; completed; failed; cancelled.';
COMMENT ON COLUMN millhand.tasks.holds_line IS 'Failed, and what is behind it in the session waits until it is retried or dismissed.';
COMMENT ON COLUMN millhand.tasks.priority IS 'Lower runs first, among heads of different sessions.';
COMMENT ON COLUMN millhand.tasks.run_at IS 'Not claimed before this time; moved by backoff and rate limits.';
COMMENT ON COLUMN millhand.tasks.lane IS 'host/project id/agent: what a worker filters by before it claims. Host is * until the session has a home. Set while pending.';
COMMENT ON COLUMN millhand.tasks.attempts IS 'Attempts that were charged: those the agent itself completed or failed.';
COMMENT ON COLUMN millhand.tasks.max_attempts IS 'Charged attempts after which it has failed.';
COMMENT ON COLUMN millhand.tasks.infra_losses IS 'Attempts lost to infrastructure (worker, server, disk); not charged, but bounded.';
COMMENT ON COLUMN millhand.tasks.last_attempt IS 'Number of the newest attempt; always counts up.';
COMMENT ON COLUMN millhand.tasks.idempotency_key IS 'Inserting the same key twice is refused, so that a client can safely try again.';
COMMENT ON COLUMN millhand.tasks.parent_task_id IS 'Task that this one follows from.';
COMMENT ON COLUMN millhand.tasks.message_id IS 'Id of the prompt''s message in the agent, stored before it is sent; kept while an attempt may be continued.';
COMMENT ON COLUMN millhand.tasks.resend_allowed IS 'A person retried it after its turn was lost: its message may be sent once more, also where the project asks first.';
COMMENT ON COLUMN millhand.tasks.cancel_requested_at IS 'A person asked to cancel it while it ran.';
COMMENT ON COLUMN millhand.tasks.dismissed_at IS 'A person took it out of the inbox.';
COMMENT ON COLUMN millhand.tasks.output_summary IS 'The agent''s last words, shortened.';
COMMENT ON COLUMN millhand.tasks.error_class IS 'Why the last attempt did not complete: refused, agent_failed, rate_limited, infrastructure_lost, setup_failed, budget.';
COMMENT ON COLUMN millhand.tasks.error_message IS 'The same in words, with what to do.';
COMMENT ON COLUMN millhand.tasks.tokens IS 'All tokens of all its attempts.';
COMMENT ON COLUMN millhand.tasks.cost_usd IS 'Cost of all its attempts in USD.';
COMMENT ON COLUMN millhand.tasks.created_at IS 'When it was inserted.';
COMMENT ON COLUMN millhand.tasks.started_at IS 'When its newest attempt was claimed.';
COMMENT ON COLUMN millhand.tasks.finished_at IS 'When it came to rest: completed, failed, blocked or cancelled.';
COMMENT ON COLUMN millhand.tasks.unknown_steps IS 'Steps of all its attempts whose cost nobody knows, which cost_usd therefore lacks.';
COMMENT ON COLUMN millhand.tasks.merge_commit IS 'Commit that is merged into the worktree before the turn, conflicts and all, and that the session is measured against from then on; null: none.';
COMMENT ON COLUMN millhand.tasks.merge_branch IS 'Branch that merge_commit is of; null: the one that the session started from.';

CREATE TABLE millhand.nudges (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session_id bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000);
COMMENT ON TABLE millhand.nudges IS 'Sessions whose line may have a new head. advance() works them off. Not unique on purpose: a row that an uncommitted advance() is deleting must not swallow a new one.';
COMMENT ON COLUMN millhand.nudges.id IS 'Order of arrival.';
COMMENT ON COLUMN millhand.nudges.session_id IS 'The session; no foreign key, it may be gone by then.';

-- ---------------------------------------------------------------------------------------------
-- Workers, leases, attempts
-- ---------------------------------------------------------------------------------------------

CREATE TABLE millhand.workers (
    id           uuid PRIMARY KEY,
    host_id      text NOT NULL,
    hostname     text NOT NULL,
    version      text NOT NULL,
    capacity     int NOT NULL,
    draining     boolean NOT NULL DEFAULT false,
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    stopped_at   timestamptz,
    counters     jsonb NOT NULL DEFAULT '{}',
    servers      jsonb NOT NULL DEFAULT '[]'
);
CREATE INDEX workers_host ON millhand.workers (host_id) WHERE stopped_at IS NULL;
COMMENT ON TABLE millhand.workers IS 'One row per start of a worker process.';
COMMENT ON COLUMN millhand.workers.id IS 'Random, new at each start.';
COMMENT ON COLUMN millhand.workers.host_id IS 'The MILLHAND_HOME that it holds; stable over restarts.';
COMMENT ON COLUMN millhand.workers.hostname IS 'For people.';
COMMENT ON COLUMN millhand.workers.version IS 'Version of millhand.';
COMMENT ON COLUMN millhand.workers.capacity IS 'Turns that it runs at once.';
COMMENT ON COLUMN millhand.workers.draining IS 'It finishes what it runs and claims no more.';
COMMENT ON COLUMN millhand.workers.started_at IS 'When it started.';
COMMENT ON COLUMN millhand.workers.heartbeat_at IS 'When it was last heard of.';
COMMENT ON COLUMN millhand.workers.stopped_at IS 'When it stopped in order, or was found dead.';
COMMENT ON COLUMN millhand.workers.counters IS 'What it has done since it started, as of its last heartbeat: claimed, finished by outcome, rescued, repaired and so on.';
COMMENT ON COLUMN millhand.workers.servers IS 'Servers of agents that run in it now, as it told last: agent, project_id, pid, turns, worktrees, resident_bytes, is_leaving, started_at. Of a worker that is gone: not to be believed.';

CREATE TABLE millhand.leases (
    session_id bigint PRIMARY KEY CONSTRAINT leases_session_id_fkey REFERENCES millhand.sessions (id) ON DELETE CASCADE,
    task_id    bigint NOT NULL,
    token      uuid NOT NULL CONSTRAINT leases_token_key UNIQUE,
    worker_id  uuid NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000);
COMMENT ON TABLE millhand.leases IS 'One row per running attempt. One per session: mutual exclusion is its primary key. Heartbeats change expires_at only, which no index holds.';
COMMENT ON COLUMN millhand.leases.session_id IS 'The session, which nobody else may work in.';
COMMENT ON COLUMN millhand.leases.task_id IS 'The running task.';
COMMENT ON COLUMN millhand.leases.token IS 'Proof of holding it; every write that matters is fenced by it.';
COMMENT ON COLUMN millhand.leases.worker_id IS 'Who holds it.';
COMMENT ON COLUMN millhand.leases.expires_at IS 'By the database''s clock; past it, anyone may give the task to another worker.';

CREATE TABLE millhand.attempts (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id         bigint NOT NULL CONSTRAINT attempts_task_id_fkey REFERENCES millhand.tasks (id) ON DELETE CASCADE,
    number          int NOT NULL,
    prompt          text NOT NULL,
    worker_id       uuid NOT NULL,
    host_id         text NOT NULL,
    token           uuid NOT NULL CONSTRAINT attempts_token_key UNIQUE,
    agent_requested text NOT NULL,
    agent_resolved  text,
    model_requested text,
    model_resolved  text,
    agent_session   text,
    started_at      timestamptz NOT NULL DEFAULT now(),
    ended_at        timestamptz,
    outcome         text,
    error_class     text,
    error_message   text,
    CONSTRAINT attempts_number_key UNIQUE (task_id, number)
);
CREATE INDEX attempts_open ON millhand.attempts (task_id) WHERE ended_at IS NULL;
COMMENT ON TABLE millhand.attempts IS 'One claimed run of a task.';
COMMENT ON COLUMN millhand.attempts.id IS 'Key of the transcript and of the change set.';
COMMENT ON COLUMN millhand.attempts.task_id IS 'The task.';
COMMENT ON COLUMN millhand.attempts.number IS 'Counts up from 1 within the task.';
COMMENT ON COLUMN millhand.attempts.prompt IS 'The prompt as it was when claimed.';
COMMENT ON COLUMN millhand.attempts.worker_id IS 'Who ran it.';
COMMENT ON COLUMN millhand.attempts.host_id IS 'Where it ran.';
COMMENT ON COLUMN millhand.attempts.token IS 'Token of its lease: tells, after a lost reply, whether a commit went through.';
COMMENT ON COLUMN millhand.attempts.agent_requested IS 'Agent as the task named it.';
COMMENT ON COLUMN millhand.attempts.agent_resolved IS 'Agent that ran.';
COMMENT ON COLUMN millhand.attempts.model_requested IS 'Model as the task or project named it.';
COMMENT ON COLUMN millhand.attempts.model_resolved IS 'Model that ran.';
COMMENT ON COLUMN millhand.attempts.agent_session IS 'The agent''s own id of the conversation.';
COMMENT ON COLUMN millhand.attempts.started_at IS 'When it was claimed.';
COMMENT ON COLUMN millhand.attempts.ended_at IS 'When its result was recorded.';
COMMENT ON COLUMN millhand.attempts.outcome IS 'How it ended: completed, or a name for what happened instead; null while it runs.';
COMMENT ON COLUMN millhand.attempts.error_class IS 'As in tasks.error_class.';
COMMENT ON COLUMN millhand.attempts.error_message IS 'As in tasks.error_message.';

CREATE TABLE millhand.agent_sessions (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chat_id        bigint NOT NULL CONSTRAINT agent_sessions_chat_id_fkey REFERENCES millhand.chats (id) ON DELETE CASCADE,
    agent          text NOT NULL,
    host_id        text NOT NULL,
    backend        text NOT NULL,
    external_id    text NOT NULL,
    config_hash    text NOT NULL,
    status         text NOT NULL DEFAULT 'active'
                   CONSTRAINT agent_sessions_status CHECK (status IN ('active', 'crashed')),
    tokens         bigint NOT NULL DEFAULT 0,
    cost_usd       numeric(18, 9) NOT NULL DEFAULT 0,
    created_at     timestamptz NOT NULL DEFAULT now(),
    last_active_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agent_sessions_key UNIQUE (chat_id, agent, host_id)
);
COMMENT ON TABLE millhand.agent_sessions IS 'The agent''s own conversation, for a chat, on a host.';
COMMENT ON COLUMN millhand.agent_sessions.id IS 'Key.';
COMMENT ON COLUMN millhand.agent_sessions.chat_id IS 'The chat.';
COMMENT ON COLUMN millhand.agent_sessions.agent IS 'The agent, without its mode.';
COMMENT ON COLUMN millhand.agent_sessions.host_id IS 'Where the agent keeps it.';
COMMENT ON COLUMN millhand.agent_sessions.backend IS 'How the agent is talked to.';
COMMENT ON COLUMN millhand.agent_sessions.external_id IS 'The agent''s id for it.';
COMMENT ON COLUMN millhand.agent_sessions.config_hash IS 'Hash of the configuration it was made under; another one makes a new conversation.';
COMMENT ON COLUMN millhand.agent_sessions.status IS 'active: the next turn resumes it; crashed: the next turn starts anew.';
COMMENT ON COLUMN millhand.agent_sessions.tokens IS 'All its tokens.';
COMMENT ON COLUMN millhand.agent_sessions.cost_usd IS 'Its cost in USD.';
COMMENT ON COLUMN millhand.agent_sessions.created_at IS 'When it was made.';
COMMENT ON COLUMN millhand.agent_sessions.last_active_at IS 'When a turn last used it.';

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
LANGUAGE plpgsql SECURITY DEFINER SET search_path = millhand, pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
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

CREATE FUNCTION millhand.drop_event_day(of_day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = millhand, pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    its_name text := 'turn_events_' || to_char(of_day, 'YYYYMMDD');
BEGIN
    IF to_regclass(format('millhand.%I', its_name)) IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE millhand.%I', its_name);
    RETURN true;
END
$$;
COMMENT ON FUNCTION millhand.drop_event_day(date) IS 'Drops the table of a day''s transcripts; an error where somebody reads it for longer than a moment. Returns false if there is none. Workers call it when retention.events_days are over.';
REVOKE EXECUTE ON FUNCTION millhand.drop_event_day(date) FROM PUBLIC;

CREATE FUNCTION millhand.forget_events() RETURNS trigger
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM turn_events e USING gone g WHERE e.attempt_id = g.id AND e.day = (g.started_at AT TIME ZONE 'UTC')::date;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION millhand.forget_events() IS 'Deletes the transcripts of deleted attempts.';
CREATE TRIGGER attempts_forget_events AFTER DELETE ON millhand.attempts REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION millhand.forget_events();

CREATE TABLE millhand.prices (
    model       text PRIMARY KEY CONSTRAINT prices_model_form CHECK (model ~ '[^[:space:]*]' AND position('*' IN left(model, -1)) = 0),
    input       numeric(18, 9) NOT NULL CONSTRAINT prices_input CHECK (input >= 0),
    output      numeric(18, 9) NOT NULL CONSTRAINT prices_output CHECK (output >= 0),
    reasoning   numeric(18, 9) CONSTRAINT prices_reasoning CHECK (reasoning >= 0),
    cache_read  numeric(18, 9) CONSTRAINT prices_cache_read CHECK (cache_read >= 0),
    cache_write numeric(18, 9) CONSTRAINT prices_cache_write CHECK (cache_write >= 0),
    overrides   boolean NOT NULL DEFAULT false,
    set_by      text NOT NULL DEFAULT session_user,
    set_at      timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE millhand.prices IS 'What models cost, in USD per million tokens, where their agent does not say what a step cost. For an operator to fill; it holds for steps recorded from then on.';
COMMENT ON COLUMN millhand.prices.model IS 'provider/model; with a * at the end all that begin so. The whole name wins over a beginning, a longer beginning over a shorter one.';
COMMENT ON COLUMN millhand.prices.input IS 'Input that was not cached. A model that costs nothing has 0 here and below.';
COMMENT ON COLUMN millhand.prices.output IS 'Output.';
COMMENT ON COLUMN millhand.prices.reasoning IS 'Reasoning; null: as output.';
COMMENT ON COLUMN millhand.prices.cache_read IS 'Input read from the cache; null: as input.';
COMMENT ON COLUMN millhand.prices.cache_write IS 'Input written to the cache; null: as input.';
COMMENT ON COLUMN millhand.prices.overrides IS 'Also where the agent says what a step cost.';
COMMENT ON COLUMN millhand.prices.set_by IS 'Database role that set it.';
COMMENT ON COLUMN millhand.prices.set_at IS 'When.';

CREATE TABLE millhand.usage (
    id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    attempt_id         bigint CONSTRAINT usage_attempt_id_fkey REFERENCES millhand.attempts (id) ON DELETE SET NULL,
    task_id            bigint CONSTRAINT usage_task_id_fkey REFERENCES millhand.tasks (id) ON DELETE SET NULL,
    project            text NOT NULL,
    agent              text NOT NULL,
    model              text NOT NULL,
    agent_session      text NOT NULL,
    message_id         text NOT NULL,
    input_tokens       bigint NOT NULL DEFAULT 0,
    output_tokens      bigint NOT NULL DEFAULT 0,
    reasoning_tokens   bigint NOT NULL DEFAULT 0,
    cache_read_tokens  bigint NOT NULL DEFAULT 0,
    cache_write_tokens bigint NOT NULL DEFAULT 0,
    cost_usd           numeric(18, 9),
    created_at         timestamptz NOT NULL DEFAULT now(),
    project_id         bigint,
    CONSTRAINT usage_step_key UNIQUE (agent_session, message_id)
);
CREATE INDEX usage_attempt ON millhand.usage (attempt_id);
CREATE INDEX usage_task ON millhand.usage (task_id);
COMMENT ON TABLE millhand.usage IS 'What each step (one model call) cost. Project, agent and model are values, so that deleting a session or a project never changes costs.';
COMMENT ON COLUMN millhand.usage.id IS 'Key.';
COMMENT ON COLUMN millhand.usage.attempt_id IS 'Attempt that paid it.';
COMMENT ON COLUMN millhand.usage.task_id IS 'Task that paid it.';
COMMENT ON COLUMN millhand.usage.project IS 'Name of the project at the time.';
COMMENT ON COLUMN millhand.usage.agent IS 'Agent that ran.';
COMMENT ON COLUMN millhand.usage.model IS 'Model that ran, provider/model.';
COMMENT ON COLUMN millhand.usage.agent_session IS 'The agent''s conversation, a subagent''s own included.';
COMMENT ON COLUMN millhand.usage.message_id IS 'The agent''s message, which is one step.';
COMMENT ON COLUMN millhand.usage.input_tokens IS 'Input tokens that were not read from a cache.';
COMMENT ON COLUMN millhand.usage.output_tokens IS 'Output tokens without reasoning.';
COMMENT ON COLUMN millhand.usage.reasoning_tokens IS 'Reasoning tokens.';
COMMENT ON COLUMN millhand.usage.cache_read_tokens IS 'Input tokens read from the provider''s cache.';
COMMENT ON COLUMN millhand.usage.cache_write_tokens IS 'Input tokens written to the provider''s cache.';
COMMENT ON COLUMN millhand.usage.cost_usd IS 'In USD: the agent''s own figure, else by the table prices; null: nobody knows.';
COMMENT ON COLUMN millhand.usage.created_at IS 'When the step was recorded.';
COMMENT ON COLUMN millhand.usage.project_id IS 'Key of the project, by value: tells who pays, also when its name changes.';

CREATE TABLE millhand.spending (
    day                date NOT NULL,
    project_id         bigint NOT NULL,
    project            text NOT NULL,
    agent              text NOT NULL,
    model              text NOT NULL,
    tasks              bigint NOT NULL DEFAULT 0,
    steps              bigint NOT NULL DEFAULT 0,
    unknown_steps      bigint NOT NULL DEFAULT 0,
    input_tokens       bigint NOT NULL DEFAULT 0,
    output_tokens      bigint NOT NULL DEFAULT 0,
    reasoning_tokens   bigint NOT NULL DEFAULT 0,
    cache_read_tokens  bigint NOT NULL DEFAULT 0,
    cache_write_tokens bigint NOT NULL DEFAULT 0,
    cost_usd           numeric(18, 9) NOT NULL DEFAULT 0,
    CONSTRAINT spending_pkey PRIMARY KEY (day, project_id, project, agent, model)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX spending_project ON millhand.spending (project_id, day);
COMMENT ON TABLE millhand.spending IS 'The sums of usage by day, project, agent and model, kept by its triggers in the same transaction: limits and statistics need not read millions of steps. After changing usage by hand in ways that triggers do not see: rebuild_spending().';
COMMENT ON COLUMN millhand.spending.day IS 'Day (UTC) on which the steps were recorded.';
COMMENT ON COLUMN millhand.spending.project_id IS 'Key of the project that pays; 0: not known.';
COMMENT ON COLUMN millhand.spending.project IS 'Its name at the time.';
COMMENT ON COLUMN millhand.spending.agent IS 'Agent that ran.';
COMMENT ON COLUMN millhand.spending.model IS 'Model that ran, provider/model.';
COMMENT ON COLUMN millhand.spending.tasks IS 'Tasks whose first step is among these: each task is counted once, so that sums over days, agents and models are right.';
COMMENT ON COLUMN millhand.spending.steps IS 'Steps.';
COMMENT ON COLUMN millhand.spending.unknown_steps IS 'Those whose cost nobody knows.';
COMMENT ON COLUMN millhand.spending.input_tokens IS 'As in usage.';
COMMENT ON COLUMN millhand.spending.output_tokens IS 'As in usage.';
COMMENT ON COLUMN millhand.spending.reasoning_tokens IS 'As in usage.';
COMMENT ON COLUMN millhand.spending.cache_read_tokens IS 'As in usage.';
COMMENT ON COLUMN millhand.spending.cache_write_tokens IS 'As in usage.';
COMMENT ON COLUMN millhand.spending.cost_usd IS 'What is known of the cost, in USD.';

CREATE FUNCTION millhand.price_step() RETURNS trigger
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
DECLARE
    its prices%ROWTYPE;
    tokens bigint := NEW.input_tokens + NEW.output_tokens + NEW.reasoning_tokens + NEW.cache_read_tokens + NEW.cache_write_tokens;
BEGIN
    IF NEW.project_id IS NULL THEN
        SELECT id INTO NEW.project_id FROM projects WHERE name = NEW.project;
    END IF;
    SELECT * INTO its FROM prices p
        WHERE p.model = NEW.model OR (right(p.model, 1) = '*' AND starts_with(NEW.model, left(p.model, -1)))
        ORDER BY p.model = NEW.model DESC, length(p.model) DESC LIMIT 1;
    IF NOT FOUND OR (NEW.cost_usd IS NOT NULL AND NOT its.overrides) THEN
        RETURN NEW;
    END IF;
    -- A step without a count of tokens costs nothing only where nothing costs anything.
    IF tokens > 0 OR greatest(its.input, its.output, its.reasoning, its.cache_read, its.cache_write) = 0 THEN
        NEW.cost_usd := (NEW.input_tokens * its.input + NEW.output_tokens * its.output
            + NEW.reasoning_tokens * coalesce(its.reasoning, its.output)
            + NEW.cache_read_tokens * coalesce(its.cache_read, its.input)
            + NEW.cache_write_tokens * coalesce(its.cache_write, its.input)) / 1000000;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION millhand.price_step() IS 'Completes a step that is recorded: whose project it is, and what it cost by the table prices where its agent does not say.';
CREATE TRIGGER usage_price BEFORE INSERT ON millhand.usage FOR EACH ROW EXECUTE FUNCTION millhand.price_step();

CREATE FUNCTION millhand.sum_step() RETURNS trigger
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
DECLARE
    is_first boolean := false;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        UPDATE spending SET
            steps = steps - 1,
            unknown_steps = unknown_steps - (OLD.cost_usd IS NULL)::int,
            input_tokens = input_tokens - OLD.input_tokens,
            output_tokens = output_tokens - OLD.output_tokens,
            reasoning_tokens = reasoning_tokens - OLD.reasoning_tokens,
            cache_read_tokens = cache_read_tokens - OLD.cache_read_tokens,
            cache_write_tokens = cache_write_tokens - OLD.cache_write_tokens,
            cost_usd = cost_usd - coalesce(OLD.cost_usd, 0)
            WHERE day = (OLD.created_at AT TIME ZONE 'UTC')::date AND project_id = coalesce(OLD.project_id, 0)
              AND project = OLD.project AND agent = OLD.agent AND model = OLD.model;
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' AND NEW.task_id IS NOT NULL
       AND NOT EXISTS (SELECT 1 FROM usage WHERE task_id = NEW.task_id AND id < NEW.id) THEN
        -- Another transaction may be recording the task's first step at this moment: one after the other.
        PERFORM 1 FROM tasks WHERE id = NEW.task_id FOR NO KEY UPDATE;
        is_first := NOT EXISTS (SELECT 1 FROM usage u WHERE u.task_id = NEW.task_id
                                AND (u.id < NEW.id OR u.xmin <> pg_current_xact_id()::xid));
    END IF;
    INSERT INTO spending AS s (day, project_id, project, agent, model, tasks, steps, unknown_steps, input_tokens, output_tokens,
                               reasoning_tokens, cache_read_tokens, cache_write_tokens, cost_usd)
        VALUES ((NEW.created_at AT TIME ZONE 'UTC')::date, coalesce(NEW.project_id, 0), NEW.project, NEW.agent, NEW.model, is_first::int, 1,
                (NEW.cost_usd IS NULL)::int, NEW.input_tokens, NEW.output_tokens, NEW.reasoning_tokens, NEW.cache_read_tokens,
                NEW.cache_write_tokens, coalesce(NEW.cost_usd, 0))
        ON CONFLICT ON CONSTRAINT spending_pkey DO UPDATE SET
            tasks = s.tasks + excluded.tasks,
            steps = s.steps + 1,
            unknown_steps = s.unknown_steps + excluded.unknown_steps,
            input_tokens = s.input_tokens + excluded.input_tokens,
            output_tokens = s.output_tokens + excluded.output_tokens,
            reasoning_tokens = s.reasoning_tokens + excluded.reasoning_tokens,
            cache_read_tokens = s.cache_read_tokens + excluded.cache_read_tokens,
            cache_write_tokens = s.cache_write_tokens + excluded.cache_write_tokens,
            cost_usd = s.cost_usd + excluded.cost_usd;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION millhand.sum_step() IS 'Keeps the sums in spending as steps are recorded, brought up to date and deleted.';
CREATE TRIGGER usage_sum AFTER INSERT OR DELETE ON millhand.usage FOR EACH ROW EXECUTE FUNCTION millhand.sum_step();
CREATE TRIGGER usage_sum_anew
    AFTER UPDATE OF project_id, project, agent, model, input_tokens, output_tokens, reasoning_tokens, cache_read_tokens, cache_write_tokens,
        cost_usd, created_at ON millhand.usage
    FOR EACH ROW WHEN ((OLD.project_id, OLD.project, OLD.agent, OLD.model, OLD.input_tokens, OLD.output_tokens, OLD.reasoning_tokens,
        OLD.cache_read_tokens, OLD.cache_write_tokens, OLD.cost_usd, OLD.created_at)
        IS DISTINCT FROM (NEW.project_id, NEW.project, NEW.agent, NEW.model, NEW.input_tokens, NEW.output_tokens, NEW.reasoning_tokens,
        NEW.cache_read_tokens, NEW.cache_write_tokens, NEW.cost_usd, NEW.created_at))
    EXECUTE FUNCTION millhand.sum_step();

CREATE FUNCTION millhand.rebuild_spending() RETURNS void
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE usage, spending IN SHARE ROW EXCLUSIVE MODE;
    DELETE FROM spending;
    INSERT INTO spending (day, project_id, project, agent, model, tasks, steps, unknown_steps, input_tokens, output_tokens,
                          reasoning_tokens, cache_read_tokens, cache_write_tokens, cost_usd)
        SELECT (u.created_at AT TIME ZONE 'UTC')::date, coalesce(u.project_id, 0), u.project, u.agent, u.model,
               count(*) FILTER (WHERE u.id = f.id), count(*), count(*) FILTER (WHERE u.cost_usd IS NULL), sum(u.input_tokens),
               sum(u.output_tokens), sum(u.reasoning_tokens), sum(u.cache_read_tokens), sum(u.cache_write_tokens), coalesce(sum(u.cost_usd), 0)
        FROM usage u
        LEFT JOIN (SELECT task_id, min(id) AS id FROM usage WHERE task_id IS NOT NULL GROUP BY task_id) f ON f.task_id = u.task_id
        GROUP BY 1, 2, 3, 4, 5;
END
$$;
COMMENT ON FUNCTION millhand.rebuild_spending() IS 'Sums up all of usage anew. Recording waits meanwhile.';


-- ---------------------------------------------------------------------------------------------
-- Worktrees and changes
-- ---------------------------------------------------------------------------------------------

CREATE TABLE millhand.worktrees (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session_id   bigint CONSTRAINT worktrees_session_id_fkey REFERENCES millhand.sessions (id) ON DELETE SET NULL,
    project      text NOT NULL,
    host_id      text NOT NULL,
    path         text NOT NULL,
    branch       text NOT NULL,
    base_commit  text NOT NULL,
    state        text NOT NULL DEFAULT 'ready' CONSTRAINT worktrees_state
                 CHECK (state IN ('ready', 'in_use', 'reaping', 'pooled', 'trashed', 'gone')),
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz NOT NULL DEFAULT now(),
    project_id      bigint,
    last_session_id bigint,
    let_go_at       timestamptz,
    reap_asked_at   timestamptz,
    kept            boolean NOT NULL DEFAULT false,
    reason          text,
    problem         text,
    tried_at        timestamptz,
    checkpoint      text,
    unrecorded      boolean NOT NULL DEFAULT false,
    slot            text,
    trashed_at      timestamptz,
    bytes           bigint,
    measured_at     timestamptz,
    CONSTRAINT worktrees_path_key UNIQUE (host_id, path)
);
CREATE UNIQUE INDEX worktrees_session ON millhand.worktrees (session_id, host_id) WHERE state IN ('ready', 'in_use');
CREATE INDEX worktrees_by_session ON millhand.worktrees (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX worktrees_last_session ON millhand.worktrees (last_session_id, id);
CREATE INDEX worktrees_let_go ON millhand.worktrees (host_id, let_go_at)
    WHERE state IN ('ready', 'in_use') AND let_go_at IS NOT NULL;
CREATE INDEX worktrees_trashed ON millhand.worktrees (host_id, trashed_at) WHERE state = 'trashed';
CREATE INDEX worktrees_unsettled ON millhand.worktrees (host_id, id) WHERE state = 'reaping' OR reap_asked_at IS NOT NULL;
CREATE INDEX worktrees_pooled ON millhand.worktrees (host_id, project_id, id) WHERE state = 'pooled';
COMMENT ON TABLE millhand.worktrees IS 'What is on a host''s disk for a session; outlives the session''s row.';
COMMENT ON COLUMN millhand.worktrees.id IS 'Key.';
COMMENT ON COLUMN millhand.worktrees.session_id IS 'The session; null when its row was deleted.';
COMMENT ON COLUMN millhand.worktrees.project IS 'Name of the project at the time.';
COMMENT ON COLUMN millhand.worktrees.host_id IS 'The host.';
COMMENT ON COLUMN millhand.worktrees.path IS 'Absolute path on that host; where it belongs, while it lies in the trash.';
COMMENT ON COLUMN millhand.worktrees.branch IS 'Branch checked out in the agent''s repository.';
COMMENT ON COLUMN millhand.worktrees.base_commit IS 'Commit that it started from.';
COMMENT ON COLUMN millhand.worktrees.state IS 'ready; in_use by an attempt; reaping: on its way to the trash or the pool; pooled: reset, for the next session of the project; trashed: moved aside, restorable; gone: its work is in the checkpoint.';
COMMENT ON COLUMN millhand.worktrees.created_at IS 'When it was made.';
COMMENT ON COLUMN millhand.worktrees.last_used_at IS 'When a turn last used it.';
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

-- However a session goes (function, plain UPDATE, DELETE of the session or its project), its worktrees know when.
CREATE FUNCTION millhand.note_session_state() RETURNS trigger
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
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
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
BEGIN
    NEW.let_go_at := coalesce(NEW.let_go_at, now());
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION millhand.note_session_gone() IS 'Notes on a worktree when the row of its session was deleted.';
CREATE TRIGGER worktrees_session_gone BEFORE UPDATE OF session_id ON millhand.worktrees
    FOR EACH ROW WHEN (OLD.session_id IS NOT NULL AND NEW.session_id IS NULL) EXECUTE FUNCTION millhand.note_session_gone();

CREATE TABLE millhand.change_sets (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session_id    bigint CONSTRAINT change_sets_session_id_fkey REFERENCES millhand.sessions (id) ON DELETE SET NULL,
    task_id       bigint CONSTRAINT change_sets_task_id_fkey REFERENCES millhand.tasks (id) ON DELETE SET NULL,
    attempt_id    bigint CONSTRAINT change_sets_attempt_id_fkey REFERENCES millhand.attempts (id) ON DELETE SET NULL
                  CONSTRAINT change_sets_attempt_id_key UNIQUE,
    project       text NOT NULL,
    agent         text NOT NULL,
    base_commit   text NOT NULL,
    commit_id     text NOT NULL,
    tree_id       text NOT NULL,
    patch_sha256  bytea NOT NULL,
    files         int NOT NULL,
    additions     int NOT NULL,
    deletions     int NOT NULL,
    notes         jsonb NOT NULL DEFAULT '[]',
    state         text NOT NULL DEFAULT 'draft'
                  CONSTRAINT change_sets_state CHECK (state IN ('draft', 'open', 'superseded', 'applied', 'rejected')),
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX change_sets_session ON millhand.change_sets (session_id, id);
CREATE INDEX change_sets_task ON millhand.change_sets (task_id);
CREATE INDEX change_sets_open ON millhand.change_sets (project, id) WHERE state = 'open';
COMMENT ON TABLE millhand.change_sets IS 'The immutable result of a turn: all that differs between the session''s base and the worktree.';
COMMENT ON COLUMN millhand.change_sets.id IS 'Key.';
COMMENT ON COLUMN millhand.change_sets.session_id IS 'The session; null when its row was deleted.';
COMMENT ON COLUMN millhand.change_sets.task_id IS 'The task; null when its row was deleted.';
COMMENT ON COLUMN millhand.change_sets.attempt_id IS 'The attempt whose turn made it.';
COMMENT ON COLUMN millhand.change_sets.project IS 'Name of the project at the time.';
COMMENT ON COLUMN millhand.change_sets.agent IS 'Agent that ran.';
COMMENT ON COLUMN millhand.change_sets.base_commit IS 'Commit it is measured against.';
COMMENT ON COLUMN millhand.change_sets.commit_id IS 'The checkpoint: a commit in the mirror on refs/millhand/sessions/<session>/<task>.';
COMMENT ON COLUMN millhand.change_sets.tree_id IS 'Tree of the checkpoint; applying the patch to the base gives exactly this tree.';
COMMENT ON COLUMN millhand.change_sets.patch_sha256 IS 'SHA-256 of the whole patch: what a reviewer approves.';
COMMENT ON COLUMN millhand.change_sets.files IS 'Files changed.';
COMMENT ON COLUMN millhand.change_sets.additions IS 'Lines added.';
COMMENT ON COLUMN millhand.change_sets.deletions IS 'Lines removed.';
COMMENT ON COLUMN millhand.change_sets.notes IS 'What a reviewer should know: paths skipped, nested repositories, changed ignore rules.';
COMMENT ON COLUMN millhand.change_sets.state IS 'draft: its attempt has not won; open: ready for review; superseded: a later turn of the session replaced it; applied: all files are decided, and some were taken; rejected: all were refused.';
COMMENT ON COLUMN millhand.change_sets.created_at IS 'When it was recorded.';

CREATE TABLE millhand.pending_changes (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    change_set_id bigint NOT NULL CONSTRAINT pending_changes_change_set_id_fkey
                  REFERENCES millhand.change_sets (id) ON DELETE CASCADE,
    session_id    bigint CONSTRAINT pending_changes_session_id_fkey REFERENCES millhand.sessions (id) ON DELETE SET NULL,
    task_id       bigint CONSTRAINT pending_changes_task_id_fkey REFERENCES millhand.tasks (id) ON DELETE SET NULL,
    agent         text NOT NULL,
    path          text NOT NULL,
    path_bytes    bytea,
    old_path      text,
    kind          text NOT NULL CONSTRAINT pending_changes_kind
                  CHECK (kind IN ('added', 'modified', 'deleted', 'renamed', 'type_changed')),
    old_mode      int NOT NULL,
    new_mode      int NOT NULL,
    old_blob      text,
    new_blob      text,
    is_binary     boolean NOT NULL DEFAULT false,
    flags         text[] NOT NULL DEFAULT '{}',
    additions     int NOT NULL DEFAULT 0,
    deletions     int NOT NULL DEFAULT 0,
    patch         bytea NOT NULL,
    state         text NOT NULL DEFAULT 'draft'
                  CONSTRAINT pending_changes_state CHECK (state IN ('draft', 'pending', 'superseded', 'applied', 'rejected')),
    created_at    timestamptz NOT NULL DEFAULT now(),
    decided_by    text,
    decided_at    timestamptz,
    apply_id      bigint
);
CREATE INDEX pending_changes_change_set ON millhand.pending_changes (change_set_id, id);
CREATE INDEX pending_changes_session ON millhand.pending_changes (session_id) WHERE state = 'pending';
CREATE INDEX pending_changes_of_session ON millhand.pending_changes (session_id);
CREATE INDEX pending_changes_task ON millhand.pending_changes (task_id);
CREATE INDEX pending_changes_decided ON millhand.pending_changes (change_set_id) WHERE decided_at IS NOT NULL;
COMMENT ON TABLE millhand.pending_changes IS 'One file of a change set, waiting for a person.';
COMMENT ON COLUMN millhand.pending_changes.id IS 'Key; the order of the files in the patch.';
COMMENT ON COLUMN millhand.pending_changes.change_set_id IS 'The change set.';
COMMENT ON COLUMN millhand.pending_changes.session_id IS 'The session; null when its row was deleted.';
COMMENT ON COLUMN millhand.pending_changes.task_id IS 'The task; null when its row was deleted.';
COMMENT ON COLUMN millhand.pending_changes.agent IS 'Agent that made the change.';
COMMENT ON COLUMN millhand.pending_changes.path IS 'Path in the repository; bytes that are not UTF-8 are shown as U+FFFD.';
COMMENT ON COLUMN millhand.pending_changes.path_bytes IS 'The exact path where it is not UTF-8, else null.';
COMMENT ON COLUMN millhand.pending_changes.old_path IS 'Where it was renamed from.';
COMMENT ON COLUMN millhand.pending_changes.kind IS 'added, modified, deleted, renamed, type_changed.';
COMMENT ON COLUMN millhand.pending_changes.old_mode IS 'git file mode before, 0 if absent.';
COMMENT ON COLUMN millhand.pending_changes.new_mode IS 'git file mode after, 0 if absent.';
COMMENT ON COLUMN millhand.pending_changes.old_blob IS 'git object id before.';
COMMENT ON COLUMN millhand.pending_changes.new_blob IS 'git object id after.';
COMMENT ON COLUMN millhand.pending_changes.is_binary IS 'The patch is a binary one.';
COMMENT ON COLUMN millhand.pending_changes.flags IS 'What a reviewer should look at twice, such as executes (runs on the reviewer''s machine), conflict_markers, ignore_rules, lfs, submodule, encoding.';
COMMENT ON COLUMN millhand.pending_changes.additions IS 'Lines added.';
COMMENT ON COLUMN millhand.pending_changes.deletions IS 'Lines removed.';
COMMENT ON COLUMN millhand.pending_changes.patch IS 'The file''s part of the patch as git apply reads it; bytes, as patches are not always UTF-8.';
COMMENT ON COLUMN millhand.pending_changes.state IS 'draft: its attempt has not won; pending: waits for a person; superseded; applied; rejected.';
COMMENT ON COLUMN millhand.pending_changes.created_at IS 'When it was recorded.';
COMMENT ON COLUMN millhand.pending_changes.decided_by IS 'Who applied or rejected it.';
COMMENT ON COLUMN millhand.pending_changes.decided_at IS 'When.';
COMMENT ON COLUMN millhand.pending_changes.apply_id IS 'The apply that took it.';

CREATE TABLE millhand.applies (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    change_set_id bigint NOT NULL CONSTRAINT applies_change_set_id_fkey
                  REFERENCES millhand.change_sets (id) ON DELETE CASCADE,
    session_id    bigint,
    project_id    bigint NOT NULL,
    host_id       text NOT NULL,
    who           text NOT NULL,
    remote        boolean NOT NULL,
    branch        text NOT NULL,
    old_commit    text,
    new_commit    text NOT NULL,
    rebases       boolean NOT NULL,
    files         bigint[] NOT NULL,
    state         text NOT NULL DEFAULT 'begun' CONSTRAINT applies_state CHECK (state IN ('begun', 'landed', 'done', 'undone')),
    problem       text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    ended_at      timestamptz,
    tree_id       text
);
CREATE UNIQUE INDEX applies_one_begun ON millhand.applies (change_set_id) WHERE state = 'begun';
CREATE INDEX applies_change_set ON millhand.applies (change_set_id, id);
CREATE INDEX applies_session ON millhand.applies (session_id, id);
CREATE INDEX applies_unfinished ON millhand.applies (host_id, project_id, id) WHERE state IN ('begun', 'landed');
COMMENT ON TABLE millhand.applies IS 'The journal of applies: written before a branch moves, so that after a kill it can be told what was done. A change set has at most one that is begun.';
COMMENT ON COLUMN millhand.applies.id IS 'Key.';
COMMENT ON COLUMN millhand.applies.change_set_id IS 'What is applied.';
COMMENT ON COLUMN millhand.applies.session_id IS 'Its session, by value.';
COMMENT ON COLUMN millhand.applies.project_id IS 'Key of the project, by value: names the mirror that has the commit.';
COMMENT ON COLUMN millhand.applies.host_id IS 'The host that applies.';
COMMENT ON COLUMN millhand.applies.who IS 'Who asked for it.';
COMMENT ON COLUMN millhand.applies.remote IS 'Pushed to the project''s remote; false: written to the repository on the host.';
COMMENT ON COLUMN millhand.applies.branch IS 'The branch that moves.';
COMMENT ON COLUMN millhand.applies.old_commit IS 'Where it must be; null: it must not exist.';
COMMENT ON COLUMN millhand.applies.new_commit IS 'Where it moves to.';
COMMENT ON COLUMN millhand.applies.rebases IS 'The session is measured against the new commit afterwards.';
COMMENT ON COLUMN millhand.applies.files IS 'Keys of the pending changes that are taken.';
COMMENT ON COLUMN millhand.applies.state IS 'begun: the branch may or may not have moved; landed: it has, and the session is still to be re-based; done; undone: nothing was changed.';
COMMENT ON COLUMN millhand.applies.problem IS 'Why it was undone, or why the session stays on its old base.';
COMMENT ON COLUMN millhand.applies.created_at IS 'When it was begun.';
COMMENT ON COLUMN millhand.applies.ended_at IS 'When it was done or undone.';
COMMENT ON COLUMN millhand.applies.tree_id IS 'The tree that was merged: what the next apply to the same branch is measured against. Null: unknown.';

CREATE TABLE millhand.forecasts (
    change_set_id bigint CONSTRAINT forecasts_pkey PRIMARY KEY CONSTRAINT forecasts_change_set_id_fkey
                  REFERENCES millhand.change_sets (id) ON DELETE CASCADE,
    branch        text NOT NULL,
    target_commit text,
    verdict       text NOT NULL CONSTRAINT forecasts_verdict CHECK (verdict IN ('clean', 'conflicts', 'unknown')),
    conflicts     jsonb NOT NULL DEFAULT '[]',
    others        jsonb NOT NULL DEFAULT '[]',
    place         int,
    problem       text,
    made_at       timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE millhand.forecasts IS 'What would come of applying an open change set to its session''s base branch now; kept current by the host that has the session while a worker runs there.';
COMMENT ON COLUMN millhand.forecasts.change_set_id IS 'The change set.';
COMMENT ON COLUMN millhand.forecasts.branch IS 'The branch that would take it.';
COMMENT ON COLUMN millhand.forecasts.target_commit IS 'Where that branch was; null: it did not exist.';
COMMENT ON COLUMN millhand.forecasts.verdict IS 'clean: it merges with the branch as that is; conflicts: it does not; unknown: see problem.';
COMMENT ON COLUMN millhand.forecasts.conflicts IS 'Paths that conflict with the branch, and git''s words on each: [{"path", "message"}].';
COMMENT ON COLUMN millhand.forecasts.others IS 'Open change sets for the same branch that it conflicts with: [{"change_set_id", "session_id", "paths"}].';
COMMENT ON COLUMN millhand.forecasts.place IS 'Its place in an order in which all that have a place apply without a conflict, from 1; null: it has none.';
COMMENT ON COLUMN millhand.forecasts.problem IS 'Why nothing can be said of it.';
COMMENT ON COLUMN millhand.forecasts.made_at IS 'When it was found out.';

-- A project with changes that nobody has reviewed is not deleted by mistake, whoever deletes it.
CREATE FUNCTION millhand.keep_unreviewed() RETURNS trigger
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('millhand.force', true) IS DISTINCT FROM 'on' AND EXISTS (
        SELECT 1 FROM sessions s JOIN pending_changes p ON p.session_id = s.id WHERE s.project = OLD.name AND p.state = 'pending')
    THEN
        RAISE EXCEPTION 'project "%" has changes that nobody has reviewed; they would be lost', OLD.name
            USING ERRCODE = 'restrict_violation', HINT = 'Apply or reject them (millhand review), or: SET millhand.force = ''on''.';
    END IF;
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION millhand.keep_unreviewed() IS 'Refuses to delete a project with changes that nobody has reviewed, unless millhand.force is on.';
CREATE TRIGGER projects_keep_unreviewed BEFORE DELETE ON millhand.projects
    FOR EACH ROW EXECUTE FUNCTION millhand.keep_unreviewed();

CREATE TABLE millhand.review_comments (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    change_set_id bigint NOT NULL CONSTRAINT review_comments_change_set_id_fkey
                  REFERENCES millhand.change_sets (id) ON DELETE CASCADE,
    session_id    bigint CONSTRAINT review_comments_session_id_fkey REFERENCES millhand.sessions (id) ON DELETE SET NULL,
    path          text NOT NULL,
    line          int CONSTRAINT review_comments_line CHECK (line > 0),
    body          text NOT NULL CONSTRAINT review_comments_body CHECK (body ~ '[^[:space:]]' AND octet_length(body) <= 65536),
    who           text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    task_id       bigint CONSTRAINT review_comments_task_id_fkey REFERENCES millhand.tasks (id) ON DELETE SET NULL
);
CREATE INDEX review_comments_change_set ON millhand.review_comments (change_set_id, id);
CREATE INDEX review_comments_unsent ON millhand.review_comments (session_id, id) WHERE task_id IS NULL;
CREATE INDEX review_comments_session ON millhand.review_comments (session_id);
CREATE INDEX review_comments_task ON millhand.review_comments (task_id) WHERE task_id IS NOT NULL;
COMMENT ON TABLE millhand.review_comments IS 'What reviewers say about files and lines; it becomes the session''s next prompt.';
COMMENT ON COLUMN millhand.review_comments.id IS 'Key; the order in which it was said.';
COMMENT ON COLUMN millhand.review_comments.change_set_id IS 'The change set that was looked at.';
COMMENT ON COLUMN millhand.review_comments.session_id IS 'The session; null when its row was deleted.';
COMMENT ON COLUMN millhand.review_comments.path IS 'The file.';
COMMENT ON COLUMN millhand.review_comments.line IS 'The line, counted in the file as the change set has it; null: the whole file.';
COMMENT ON COLUMN millhand.review_comments.body IS 'What is said.';
COMMENT ON COLUMN millhand.review_comments.who IS 'Who says it.';
COMMENT ON COLUMN millhand.review_comments.created_at IS 'When.';
COMMENT ON COLUMN millhand.review_comments.task_id IS 'The task whose prompt it is in; null: not sent yet.';

CREATE TABLE millhand.review_looks (
    session_id    bigint NOT NULL CONSTRAINT review_looks_session_id_fkey REFERENCES millhand.sessions (id) ON DELETE CASCADE,
    who           text NOT NULL,
    change_set_id bigint NOT NULL CONSTRAINT review_looks_change_set_id_fkey
                  REFERENCES millhand.change_sets (id) ON DELETE CASCADE,
    at            timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT review_looks_pkey PRIMARY KEY (session_id, who)
);
CREATE INDEX review_looks_change_set ON millhand.review_looks (change_set_id);
COMMENT ON TABLE millhand.review_looks IS 'Which change set of a session a person has looked at last, so that the next look can show what has changed since.';
COMMENT ON COLUMN millhand.review_looks.session_id IS 'The session.';
COMMENT ON COLUMN millhand.review_looks.who IS 'Who looked.';
COMMENT ON COLUMN millhand.review_looks.change_set_id IS 'At what.';
COMMENT ON COLUMN millhand.review_looks.at IS 'When.';

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
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
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

-- ---------------------------------------------------------------------------------------------
-- What hosts can run, and who did what
-- ---------------------------------------------------------------------------------------------

CREATE TABLE millhand.agents (
    host_id   text NOT NULL,
    agent     text NOT NULL,
    backend   text NOT NULL,
    installed boolean NOT NULL,
    version   text,
    problem   text,
    models    jsonb NOT NULL DEFAULT '[]',
    probed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agents_pkey PRIMARY KEY (host_id, agent)
);
COMMENT ON TABLE millhand.agents IS 'What each host can run.';
COMMENT ON COLUMN millhand.agents.host_id IS 'The host.';
COMMENT ON COLUMN millhand.agents.agent IS 'Name of the agent.';
COMMENT ON COLUMN millhand.agents.backend IS 'How it is talked to.';
COMMENT ON COLUMN millhand.agents.installed IS 'Whether it was found in a supported version.';
COMMENT ON COLUMN millhand.agents.version IS 'Version found.';
COMMENT ON COLUMN millhand.agents.problem IS 'Why it cannot run, in words.';
COMMENT ON COLUMN millhand.agents.models IS 'Models that it offered when last asked, as provider/model.';
COMMENT ON COLUMN millhand.agents.probed_at IS 'When it was looked for.';

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

CREATE TABLE millhand.audit_log (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    who        text NOT NULL DEFAULT session_user,
    action     text NOT NULL,
    task_id    bigint,
    project    text,
    details    jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_log_roll_back ON millhand.audit_log (at) WHERE action = 'roll_back';
COMMENT ON TABLE millhand.audit_log IS 'Who did what; append-only.';
COMMENT ON COLUMN millhand.audit_log.id IS 'Key.';
COMMENT ON COLUMN millhand.audit_log.at IS 'When.';
COMMENT ON COLUMN millhand.audit_log.who IS 'Database role that did it; for a call of the HTTP API, the name of the token or browser.';
COMMENT ON COLUMN millhand.audit_log.action IS 'What was done: retry, cancel, dismiss, add_project, remove_project, close_session, reopen_session, restore_worktree, apply, reject, roll_back, rehome_session, answer, set_budget, clear_budget, add_webhook, change_webhook, remove_webhook, add_token, change_token, remove_token, login, api_call.';
COMMENT ON COLUMN millhand.audit_log.task_id IS 'To which task.';
COMMENT ON COLUMN millhand.audit_log.project IS 'To which project.';
COMMENT ON COLUMN millhand.audit_log.details IS 'What is worth keeping of it.';

CREATE FUNCTION millhand.forget_roll_back(entry bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = millhand, pg_catalog, pg_temp AS $$
    DELETE FROM audit_log WHERE id = entry AND action = 'roll_back'
$$;
COMMENT ON FUNCTION millhand.forget_roll_back(bigint) IS 'Takes an entry back that was made ahead of a roll-back which did not happen. Nothing else goes from the audit log.';
REVOKE EXECUTE ON FUNCTION millhand.forget_roll_back(bigint) FROM PUBLIC;

-- ---------------------------------------------------------------------------------------------
-- Webhooks
-- ---------------------------------------------------------------------------------------------

CREATE TABLE millhand.webhooks (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    url             text NOT NULL CONSTRAINT webhooks_url_form CHECK (url ~ '^https?://' AND octet_length(url) <= 2048),
    secret          text NOT NULL CONSTRAINT webhooks_secret_form CHECK (secret ~ '^whsec_[A-Za-z0-9+/]{32,86}={0,2}$'),
    events          text[] NOT NULL DEFAULT ARRAY['task.failed', 'task.blocked', 'task.needs_you', 'host.gone']
                    CONSTRAINT webhooks_events CHECK (cardinality(events) > 0 AND events <@ ARRAY[
                        'task.failed', 'task.blocked', 'task.needs_you', 'host.gone', 'task.completed', 'change_set.ready']),
    project         text CONSTRAINT webhooks_project_fkey
                    REFERENCES millhand.projects (name) ON UPDATE CASCADE ON DELETE CASCADE,
    allow_private   boolean NOT NULL DEFAULT false,
    enabled         boolean NOT NULL DEFAULT true,
    disabled_reason text,
    enabled_at      timestamptz NOT NULL DEFAULT now(),
    watermark       timestamptz NOT NULL DEFAULT now(),
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT webhooks_url_key UNIQUE NULLS NOT DISTINCT (url, project),
    CONSTRAINT webhooks_encrypted CHECK (allow_private OR url LIKE 'https://%')
);
COMMENT ON TABLE millhand.webhooks IS 'Who is told of what needs a person: each new item is posted to the URL, signed. See deliveries.';
COMMENT ON COLUMN millhand.webhooks.id IS 'Shown as wh3.';
COMMENT ON COLUMN millhand.webhooks.url IS 'Where to; https, unless allow_private. It may hold a secret of the receiver''s, and is not logged.';
COMMENT ON COLUMN millhand.webhooks.secret IS 'whsec_ and the key in base64, with which each post is signed (Standard Webhooks, HMAC-SHA256).';
COMMENT ON COLUMN millhand.webhooks.events IS 'Kinds that it is told: task.failed, task.blocked, task.needs_you (whatever else is in the inbox), host.gone; if asked for, task.completed and change_set.ready.';
COMMENT ON COLUMN millhand.webhooks.project IS 'Only of this project; null: of all.';
COMMENT ON COLUMN millhand.webhooks.allow_private IS 'It may be posted to addresses of this machine or a private network, and without TLS.';
COMMENT ON COLUMN millhand.webhooks.enabled IS 'Off: nothing new is noted for it, and what is pending waits.';
COMMENT ON COLUMN millhand.webhooks.disabled_reason IS 'Why it is off, where the receiver asked for it.';
COMMENT ON COLUMN millhand.webhooks.enabled_at IS 'What came to rest before is not told.';
COMMENT ON COLUMN millhand.webhooks.watermark IS 'What came to rest well before has been noted as a delivery; moved by the notifier.';
COMMENT ON COLUMN millhand.webhooks.created_at IS 'When it was registered.';

CREATE FUNCTION millhand.note_webhook() RETURNS trigger
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
DECLARE
    its webhooks%ROWTYPE;
BEGIN
    IF TG_OP = 'DELETE' THEN
        its := OLD;
    ELSE
        its := NEW;
    END IF;
    -- Not the whole URL, nor the key: both may be secrets.
    INSERT INTO audit_log (action, project, details) VALUES (
        CASE TG_OP WHEN 'INSERT' THEN 'add_webhook' WHEN 'UPDATE' THEN 'change_webhook' ELSE 'remove_webhook' END, its.project,
        jsonb_build_object('webhook', its.id, 'host', substring(its.url from '^https?://(?:[^/?#@]*@)?([^/?#@]*)'), 'events', its.events,
            'allow_private', its.allow_private, 'enabled', its.enabled));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION millhand.note_webhook() IS 'Notes in the audit log who registered, changed or removed a webhook.';
CREATE TRIGGER webhooks_note AFTER INSERT OR DELETE ON millhand.webhooks FOR EACH ROW EXECUTE FUNCTION millhand.note_webhook();
CREATE TRIGGER webhooks_note_change
    AFTER UPDATE OF url, secret, events, project, allow_private, enabled ON millhand.webhooks
    FOR EACH ROW WHEN ((OLD.url, OLD.secret, OLD.events, OLD.project, OLD.allow_private, OLD.enabled)
        IS DISTINCT FROM (NEW.url, NEW.secret, NEW.events, NEW.project, NEW.allow_private, NEW.enabled))
    EXECUTE FUNCTION millhand.note_webhook();

CREATE TABLE millhand.deliveries (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    webhook_id  bigint NOT NULL CONSTRAINT deliveries_webhook_id_fkey REFERENCES millhand.webhooks (id) ON DELETE CASCADE,
    dedupe_key  text NOT NULL,
    event       text NOT NULL,
    task_id     bigint,
    payload     jsonb NOT NULL,
    state       text NOT NULL DEFAULT 'pending' CONSTRAINT deliveries_state CHECK (state IN ('pending', 'delivered', 'dead')),
    tries       int NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL DEFAULT now(),
    last_status int,
    last_error  text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    tried_at    timestamptz,
    ended_at    timestamptz,
    CONSTRAINT deliveries_key UNIQUE (webhook_id, dedupe_key)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX deliveries_due ON millhand.deliveries (webhook_id, next_try_at) WHERE state = 'pending';
CREATE INDEX deliveries_dead ON millhand.deliveries (webhook_id, id) WHERE state = 'dead';
CREATE INDEX deliveries_ended ON millhand.deliveries (ended_at) WHERE state <> 'pending';
COMMENT ON TABLE millhand.deliveries IS 'The outbox of the webhooks: one row per webhook and item, posted at least once. Kept for retention.deliveries_days after its end.';
COMMENT ON COLUMN millhand.deliveries.id IS 'Shown as d17.';
COMMENT ON COLUMN millhand.deliveries.webhook_id IS 'To which webhook.';
COMMENT ON COLUMN millhand.deliveries.dedupe_key IS 'What it tells, the same however often it is found; sent as webhook-id, so that receivers can drop a second one.';
COMMENT ON COLUMN millhand.deliveries.event IS 'Kind, as in webhooks.events; webhook.test for a trial.';
COMMENT ON COLUMN millhand.deliveries.task_id IS 'The task that it is about; no foreign key, it may be gone by then.';
COMMENT ON COLUMN millhand.deliveries.payload IS 'What is posted; the same at every try.';
COMMENT ON COLUMN millhand.deliveries.state IS 'pending: to be posted; delivered: the receiver answered with a 2xx; dead: given up, until it is retried.';
COMMENT ON COLUMN millhand.deliveries.tries IS 'Posts begun. With the id, the token of the one who is at it.';
COMMENT ON COLUMN millhand.deliveries.next_try_at IS 'Not posted before; while a post is under way, when another worker may take it up.';
COMMENT ON COLUMN millhand.deliveries.last_status IS 'HTTP status of the last answer; null: there was none.';
COMMENT ON COLUMN millhand.deliveries.last_error IS 'What was wrong with the last post.';
COMMENT ON COLUMN millhand.deliveries.created_at IS 'When the item was noted.';
COMMENT ON COLUMN millhand.deliveries.tried_at IS 'When the last post began.';
COMMENT ON COLUMN millhand.deliveries.ended_at IS 'When it was delivered, or given up.';

-- ---------------------------------------------------------------------------------------------
-- Who may use the HTTP API
-- ---------------------------------------------------------------------------------------------

CREATE TABLE millhand.api_tokens (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text NOT NULL CONSTRAINT api_tokens_kind CHECK (kind IN ('token', 'browser')),
    name         text NOT NULL CONSTRAINT api_tokens_name_form CHECK (name ~ '^[^[:cntrl:]]{1,100}$'),
    sha256       bytea NOT NULL CONSTRAINT api_tokens_sha256_key UNIQUE
                 CONSTRAINT api_tokens_sha256_size CHECK (octet_length(sha256) = 32),
    scopes       text[] NOT NULL CONSTRAINT api_tokens_scopes
                 CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['enqueue', 'read', 'review', 'admin']),
    created_by   text NOT NULL DEFAULT session_user,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz,
    CONSTRAINT api_tokens_browser_expires CHECK (kind = 'token' OR expires_at IS NOT NULL)
);
CREATE UNIQUE INDEX api_tokens_name ON millhand.api_tokens (name) WHERE kind = 'token' AND revoked_at IS NULL;
COMMENT ON TABLE millhand.api_tokens IS 'Who may use the HTTP API: tokens of programs, and browsers that were logged in. What they show is nowhere: only its hash is kept.';
COMMENT ON COLUMN millhand.api_tokens.id IS 'Shown as tok3.';
COMMENT ON COLUMN millhand.api_tokens.kind IS 'token: shown in the header Authorization; browser: a cookie, got with a login code.';
COMMENT ON COLUMN millhand.api_tokens.name IS 'What people call it; of two tokens in use, none has the name of the other.';
COMMENT ON COLUMN millhand.api_tokens.sha256 IS 'SHA-256 of the secret, which has 256 random bits, so that nobody finds it by trying.';
COMMENT ON COLUMN millhand.api_tokens.scopes IS 'What it may do: enqueue, read, review (and read), admin (everything).';
COMMENT ON COLUMN millhand.api_tokens.created_by IS 'Database role that made it.';
COMMENT ON COLUMN millhand.api_tokens.created_at IS 'When it was made.';
COMMENT ON COLUMN millhand.api_tokens.expires_at IS 'From when on it is worth nothing; null: never.';
COMMENT ON COLUMN millhand.api_tokens.last_used_at IS 'When it was last used, to the minute or so.';
COMMENT ON COLUMN millhand.api_tokens.revoked_at IS 'When it was taken back.';

CREATE TABLE millhand.login_codes (
    sha256     bytea PRIMARY KEY CONSTRAINT login_codes_sha256_size CHECK (octet_length(sha256) = 32),
    name       text NOT NULL CONSTRAINT login_codes_name_form CHECK (name ~ '^[^[:cntrl:]]{1,100}$'),
    scopes     text[] NOT NULL CONSTRAINT login_codes_scopes
               CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['enqueue', 'read', 'review', 'admin']),
    created_by text NOT NULL DEFAULT session_user,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at    timestamptz
);
COMMENT ON TABLE millhand.login_codes IS 'Links that log one browser in, once. Rows go a day after their end.';
COMMENT ON COLUMN millhand.login_codes.sha256 IS 'SHA-256 of the code in the link.';
COMMENT ON COLUMN millhand.login_codes.name IS 'Name that the browser gets.';
COMMENT ON COLUMN millhand.login_codes.scopes IS 'What the browser may do.';
COMMENT ON COLUMN millhand.login_codes.created_by IS 'Database role that made it.';
COMMENT ON COLUMN millhand.login_codes.created_at IS 'When it was made.';
COMMENT ON COLUMN millhand.login_codes.expires_at IS 'From when on it is worth nothing.';
COMMENT ON COLUMN millhand.login_codes.used_at IS 'When a browser was logged in with it.';

CREATE FUNCTION millhand.note_token() RETURNS trigger
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
DECLARE
    its api_tokens%ROWTYPE;
BEGIN
    IF TG_OP = 'DELETE' THEN
        its := OLD;
    ELSE
        its := NEW;
    END IF;
    INSERT INTO audit_log (action, details) VALUES (
        CASE WHEN TG_OP = 'INSERT' THEN CASE its.kind WHEN 'browser' THEN 'login' ELSE 'add_token' END
             WHEN TG_OP = 'UPDATE' AND its.revoked_at IS NULL THEN 'change_token' ELSE 'remove_token' END,
        jsonb_build_object('token', its.id, 'kind', its.kind, 'name', its.name, 'scopes', its.scopes, 'expires_at', its.expires_at));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION millhand.note_token() IS 'Notes in the audit log who made, changed or took back a token, and which browser was logged in.';
CREATE TRIGGER api_tokens_note AFTER INSERT ON millhand.api_tokens FOR EACH ROW EXECUTE FUNCTION millhand.note_token();
CREATE TRIGGER api_tokens_note_change
    AFTER UPDATE OF kind, name, sha256, scopes, expires_at, revoked_at ON millhand.api_tokens
    FOR EACH ROW WHEN ((OLD.kind, OLD.name, OLD.sha256, OLD.scopes, OLD.expires_at, OLD.revoked_at)
        IS DISTINCT FROM (NEW.kind, NEW.name, NEW.sha256, NEW.scopes, NEW.expires_at, NEW.revoked_at))
    EXECUTE FUNCTION millhand.note_token();
CREATE TRIGGER api_tokens_note_removal AFTER DELETE ON millhand.api_tokens
    FOR EACH ROW WHEN (OLD.revoked_at IS NULL AND (OLD.expires_at IS NULL OR OLD.expires_at > now()))
    EXECUTE FUNCTION millhand.note_token();

-- ---------------------------------------------------------------------------------------------
-- How a task enters the queue
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION millhand.lane_of(in_session bigint, in_agent text) RETURNS text
LANGUAGE sql STABLE SET search_path = millhand, pg_catalog, pg_temp AS $$
    SELECT coalesce(s.home_host, p.host_id, '*') || '/' || p.id || '/' || split_part(in_agent, '/', 1)
    FROM sessions s JOIN projects p ON p.name = s.project
    WHERE s.id = in_session
$$;
COMMENT ON FUNCTION millhand.lane_of(bigint, text) IS 'The lane of a task of this session for this agent.';

CREATE FUNCTION millhand.fill_task() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = millhand, pg_catalog, pg_temp AS $$
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
COMMENT ON FUNCTION millhand.fill_task() IS 'Completes an inserted task: opens its session and chat where it names none, fills defaults from the project, refuses bad input in words.';
CREATE TRIGGER tasks_fill BEFORE INSERT ON millhand.tasks FOR EACH ROW EXECUTE FUNCTION millhand.fill_task();

CREATE FUNCTION millhand.announce_tasks() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = millhand, pg_catalog, pg_temp AS $$
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
CREATE TRIGGER tasks_announce AFTER INSERT ON millhand.tasks REFERENCING NEW TABLE AS new_tasks
    FOR EACH STATEMENT EXECUTE FUNCTION millhand.announce_tasks();

CREATE FUNCTION millhand.advance(at_most int DEFAULT 200) RETURNS int
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
-- Plans are kept: planning these for each list of sessions anew costs more than all the rest of a claim.
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
    IF NOT EXISTS (SELECT 1 FROM tasks WHERE session_id = ANY (nudged) AND state = 'waiting') THEN
        RETURN 0;
    END IF;
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

CREATE FUNCTION millhand.sweep_lines(at_most int DEFAULT 1000) RETURNS int
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
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

-- ---------------------------------------------------------------------------------------------
-- What people do
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION millhand.retry_task(task bigint, new_prompt text DEFAULT NULL, new_model text DEFAULT NULL, new_agent text DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = millhand, pg_catalog, pg_temp AS $$
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
LANGUAGE plpgsql SECURITY DEFINER SET search_path = millhand, pg_catalog, pg_temp AS $$
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

CREATE FUNCTION millhand.cancel_task(task bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = millhand, pg_catalog, pg_temp AS $$
DECLARE
    its_session bigint;
    found tasks%ROWTYPE;
BEGIN
    SELECT session_id INTO its_session FROM tasks WHERE id = task;
    IF its_session IS NULL THEN
        RAISE EXCEPTION 'there is no task t%', task USING ERRCODE = 'no_data_found';
    END IF;
    SELECT * INTO found FROM tasks WHERE id = task FOR UPDATE;
    IF found.state = 'running' THEN
        IF found.cancel_requested_at IS NOT NULL THEN
            RETURN false;
        END IF;
        UPDATE tasks SET cancel_requested_at = now() WHERE id = task;
        NOTIFY tasks_cancel;
    ELSIF found.state IN ('pending', 'waiting', 'blocked') THEN
        UPDATE tasks SET state = 'cancelled', lane = NULL, cancel_requested_at = now(), finished_at = now() WHERE id = task;
        INSERT INTO nudges (session_id) VALUES (its_session);
        NOTIFY tasks_new;
    ELSE
        RETURN false;
    END IF;
    INSERT INTO audit_log (action, task_id, project, details)
        VALUES ('cancel', task, found.project, jsonb_build_object('was', found.state));
    RETURN true;
END
$$;
COMMENT ON FUNCTION millhand.cancel_task(bigint) IS 'Cancels a task: at once if it does not run, else its worker stops the turn and keeps what it changed. Returns false if there was nothing to cancel.';

CREATE FUNCTION millhand.dismiss_task(task bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = millhand, pg_catalog, pg_temp AS $$
DECLARE
    found tasks%ROWTYPE;
BEGIN
    SELECT * INTO found FROM tasks WHERE id = task FOR UPDATE;
    IF found.id IS NULL THEN
        RAISE EXCEPTION 'there is no task t%', task USING ERRCODE = 'no_data_found';
    END IF;
    IF found.state NOT IN ('failed', 'blocked') OR found.dismissed_at IS NOT NULL THEN
        RETURN false;
    END IF;
    UPDATE tasks SET
        state = 'failed', lane = NULL, holds_line = false, dismissed_at = now(), finished_at = coalesce(finished_at, now())
        WHERE id = task;
    INSERT INTO nudges (session_id) VALUES (found.session_id);
    INSERT INTO audit_log (action, task_id, project, details)
        VALUES ('dismiss', task, found.project, jsonb_build_object('was', found.state));
    NOTIFY tasks_new;
    RETURN true;
END
$$;
COMMENT ON FUNCTION millhand.dismiss_task(bigint) IS 'Takes a failed or blocked task out of the inbox and lets what is behind it run. Returns false if there was nothing to dismiss.';

CREATE FUNCTION millhand.close_session(session bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
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
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
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

CREATE FUNCTION millhand.settle_change_set(change_set bigint) RETURNS void
LANGUAGE sql SET search_path = millhand, pg_catalog, pg_temp AS $$
    UPDATE change_sets c SET state = CASE
            WHEN EXISTS (SELECT 1 FROM pending_changes p WHERE p.change_set_id = c.id AND p.state = 'applied') THEN 'applied'
            ELSE 'rejected' END
    WHERE c.id = change_set AND c.state = 'open'
      AND NOT EXISTS (SELECT 1 FROM pending_changes p WHERE p.change_set_id = c.id AND p.state = 'pending')
$$;
COMMENT ON FUNCTION millhand.settle_change_set(bigint) IS 'Closes a change set when all its files are decided.';

CREATE FUNCTION millhand.reject_changes(change_set bigint, only_paths text[] DEFAULT NULL, by_whom text DEFAULT session_user)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = millhand, pg_catalog, pg_temp AS $$
DECLARE
    found change_sets%ROWTYPE;
    rejected bigint;
BEGIN
    SELECT * INTO found FROM change_sets WHERE id = change_set AND state <> 'draft' FOR UPDATE;
    IF found.id IS NULL THEN
        RAISE EXCEPTION 'there is no change set %', change_set USING ERRCODE = 'no_data_found';
    END IF;
    IF found.state <> 'open' THEN
        RAISE EXCEPTION 'change set % is %', change_set, found.state
            USING ERRCODE = 'check_violation', CONSTRAINT = 'change_sets_state', HINT = 'See: millhand review s' || found.session_id;
    END IF;
    IF EXISTS (SELECT 1 FROM applies WHERE change_set_id = change_set AND state = 'begun') THEN
        RAISE EXCEPTION 'change set % is being applied', change_set USING ERRCODE = 'check_violation', CONSTRAINT = 'applies_one_begun';
    END IF;
    UPDATE pending_changes SET state = 'rejected', decided_by = by_whom, decided_at = now()
        WHERE change_set_id = change_set AND state = 'pending' AND (only_paths IS NULL OR path = ANY (only_paths));
    GET DIAGNOSTICS rejected = ROW_COUNT;
    PERFORM settle_change_set(change_set);
    INSERT INTO audit_log (action, task_id, project, details)
        VALUES ('reject', found.task_id, found.project,
                jsonb_build_object('change_set_id', change_set, 'by', by_whom, 'files', rejected, 'paths', only_paths));
    RETURN rejected;
END
$$;
COMMENT ON FUNCTION millhand.reject_changes(bigint, text[], text) IS 'Rejects the pending files of an open change set, or those of these paths; returns how many. The work stays in the session''s worktree.';

CREATE FUNCTION millhand.add_project(project_name text, project_source text, branch text DEFAULT NULL, host text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
DECLARE
    found projects%ROWTYPE;
BEGIN
    INSERT INTO projects (name, source, base_branch, host_id) VALUES (project_name, project_source, branch, host)
        ON CONFLICT (name) DO NOTHING RETURNING * INTO found;
    IF found.id IS NOT NULL THEN
        INSERT INTO audit_log (action, project, details)
            VALUES ('add_project', project_name, jsonb_build_object('source', project_source));
        RETURN found.id;
    END IF;
    SELECT * INTO found FROM projects WHERE name = project_name;
    IF found.source IS DISTINCT FROM project_source THEN
        RAISE EXCEPTION 'project "%" is already registered with %', project_name, found.source
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'projects_name_key', HINT = 'Choose another name.';
    END IF;
    RETURN found.id;
END
$$;
COMMENT ON FUNCTION millhand.add_project(text, text, text, text) IS 'Registers a repository by name and returns its id. Calling it again with the same source changes nothing.';

-- ---------------------------------------------------------------------------------------------
-- Budgets
-- ---------------------------------------------------------------------------------------------

CREATE TABLE millhand.budgets (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project      text CONSTRAINT budgets_project_fkey REFERENCES millhand.projects (name) ON UPDATE CASCADE ON DELETE CASCADE,
    per          text NOT NULL CONSTRAINT budgets_per CHECK (per IN ('task', 'session', 'day', 'total')),
    limit_usd    numeric(18, 9) CONSTRAINT budgets_limit_usd CHECK (limit_usd >= 0),
    limit_tokens bigint CONSTRAINT budgets_limit_tokens CHECK (limit_tokens >= 0),
    set_by       text NOT NULL DEFAULT session_user,
    set_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT budgets_key UNIQUE NULLS NOT DISTINCT (project, per),
    CONSTRAINT budgets_limit CHECK (limit_usd IS NOT NULL OR limit_tokens IS NOT NULL),
    CONSTRAINT budgets_total CHECK (per <> 'total' OR project IS NOT NULL)
);
COMMENT ON TABLE millhand.budgets IS 'How much may be spent. What has reached a limit is not claimed, and turns that reach one are stopped, within the step that each of them is in.';
COMMENT ON COLUMN millhand.budgets.id IS 'Key.';
COMMENT ON COLUMN millhand.budgets.project IS 'The project; null: for task and session, each of those in projects that have no such limit of their own; for day, all projects together.';
COMMENT ON COLUMN millhand.budgets.per IS 'What it holds for: each task (all its attempts), each session, each day (UTC) of the project or of all projects, or the project in total.';
COMMENT ON COLUMN millhand.budgets.limit_usd IS 'In USD; null: no limit. 0: nothing runs. Steps whose cost nobody knows count for nothing here: limit tokens, or set prices.';
COMMENT ON COLUMN millhand.budgets.limit_tokens IS 'In tokens of all kinds; null: no limit.';
COMMENT ON COLUMN millhand.budgets.set_by IS 'Database role that set it.';
COMMENT ON COLUMN millhand.budgets.set_at IS 'When.';

CREATE FUNCTION millhand.budget_words(per text, project text, limit_usd numeric, limit_tokens bigint, spent_usd numeric, spent_tokens bigint)
RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = millhand, pg_catalog, pg_temp AS $$
    SELECT 'over budget: '
        || CASE WHEN per IN ('task', 'session') THEN 'the ' || per WHEN project IS NULL THEN 'all projects' ELSE 'project ' || project END
        || CASE WHEN spent_usd >= limit_usd THEN ' spent $' || trim_scale(round(spent_usd, 4)) || ' of $' || trim_scale(limit_usd)
                ELSE ' used ' || spent_tokens || ' of ' || limit_tokens || ' tokens' END
        || CASE WHEN per = 'day' THEN ' today (UTC); goes on tomorrow, or when the budget is raised: millhand budget'
                ELSE '; goes on when the budget is raised: millhand budget' END
$$;
COMMENT ON FUNCTION millhand.budget_words(text, text, numeric, bigint, numeric, bigint) IS 'Says of a limit that is reached what was spent of it, and when things go on.';

CREATE VIEW millhand.budget_state AS
    SELECT b.id, b.project, p.id AS project_id, b.per, b.limit_usd, b.limit_tokens, s.spent_usd, s.spent_tokens, s.unknown_steps,
           coalesce(s.spent_usd >= b.limit_usd, false) OR coalesce(s.spent_tokens >= b.limit_tokens, false) AS is_over,
           CASE WHEN s.spent_usd >= b.limit_usd OR s.spent_tokens >= b.limit_tokens
                THEN millhand.budget_words(b.per, b.project, b.limit_usd, b.limit_tokens, s.spent_usd, s.spent_tokens) END AS says
    FROM millhand.budgets b
    LEFT JOIN millhand.projects p ON p.name = b.project
    LEFT JOIN LATERAL (
        SELECT coalesce(sum(x.cost_usd), 0) AS spent_usd, coalesce(sum(x.tokens), 0)::bigint AS spent_tokens,
               coalesce(sum(x.unknown_steps), 0)::bigint AS unknown_steps
        FROM (
            -- One of these, each by an index of its own.
            SELECT cost_usd, unknown_steps, input_tokens + output_tokens + reasoning_tokens + cache_read_tokens + cache_write_tokens AS tokens
            FROM millhand.spending WHERE b.project IS NULL AND day = (now() AT TIME ZONE 'UTC')::date
            UNION ALL
            SELECT cost_usd, unknown_steps, input_tokens + output_tokens + reasoning_tokens + cache_read_tokens + cache_write_tokens
            FROM millhand.spending WHERE b.per = 'day' AND project_id = p.id AND day = (now() AT TIME ZONE 'UTC')::date
            UNION ALL
            SELECT cost_usd, unknown_steps, input_tokens + output_tokens + reasoning_tokens + cache_read_tokens + cache_write_tokens
            FROM millhand.spending WHERE b.per = 'total' AND project_id = p.id
        ) x
    ) s ON b.per IN ('day', 'total')
    ORDER BY b.project NULLS FIRST, b.per;
COMMENT ON VIEW millhand.budget_state IS 'The limits, and what was spent of those that hold for a day or in total; is_over: reached, so that nothing is claimed.';

CREATE FUNCTION millhand.limits_now() RETURNS TABLE (project text, project_id bigint, per text, is_over boolean, says text)
LANGUAGE plpgsql STABLE ROWS 4 SET search_path = millhand, pg_catalog, pg_temp SET jit = off AS $$
BEGIN
    RETURN QUERY SELECT b.project, b.project_id, b.per, b.is_over, b.says FROM budget_state b;
END
$$;
COMMENT ON FUNCTION millhand.limits_now() IS 'budget_state for those who ask all the time: planned once for each connection, and never compiled.';

CREATE FUNCTION millhand.over_budget(of_task bigint) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = millhand, pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    its record;
    found record;
    spent record;
    said text;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM budgets) THEN
        RETURN NULL;
    END IF;
    SELECT t.session_id, t.project INTO its FROM tasks t WHERE t.id = of_task;
    SELECT b.says INTO said FROM budget_state b WHERE b.is_over AND (b.project IS NULL OR b.project = its.project) LIMIT 1;
    IF said IS NOT NULL THEN
        RETURN said;
    END IF;
    -- The project's own limit stands in for that of all projects.
    FOR found IN SELECT DISTINCT ON (per) * FROM budgets
                 WHERE per IN ('task', 'session') AND (project IS NULL OR project = its.project) ORDER BY per, project NULLS LAST LOOP
        SELECT coalesce(sum(u.cost_usd), 0) AS usd,
               coalesce(sum(u.input_tokens + u.output_tokens + u.reasoning_tokens + u.cache_read_tokens + u.cache_write_tokens), 0)::bigint
                   AS tokens
            INTO spent
            FROM usage u
            WHERE u.task_id = ANY (CASE WHEN found.per = 'task' THEN ARRAY[of_task]
                                        ELSE ARRAY(SELECT id FROM tasks WHERE session_id = its.session_id) END);
        IF spent.usd >= found.limit_usd OR spent.tokens >= found.limit_tokens THEN
            RETURN budget_words(found.per, found.project, found.limit_usd, found.limit_tokens, spent.usd, spent.tokens);
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION millhand.over_budget(bigint) IS 'Which limit the task has reached, in words; null: none.';

CREATE FUNCTION millhand.release_budget() RETURNS int
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
DECLARE
    released int := 0;
BEGIN
    WITH found AS MATERIALIZED (
        SELECT t.id FROM tasks t JOIN sessions s ON s.id = t.session_id
        WHERE t.state = 'blocked' AND t.error_class = 'budget' AND s.state = 'open' ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
    ), due AS MATERIALIZED (
        SELECT id FROM found WHERE over_budget(id) IS NULL
    ), freed AS (
        -- As by retry_task(): goes on where it was.
        UPDATE tasks t SET state = 'waiting', lane = NULL, run_at = now(), resend_allowed = t.message_id IS NOT NULL, error_class = NULL,
            error_message = NULL, finished_at = NULL
            FROM due WHERE t.id = due.id RETURNING t.session_id
    ), nudged AS (
        INSERT INTO nudges (session_id) SELECT DISTINCT session_id FROM freed RETURNING 1
    )
    SELECT count(*) INTO released FROM nudged;
    IF released > 0 THEN
        NOTIFY tasks_new;
    END IF;
    RETURN released;
END
$$;
COMMENT ON FUNCTION millhand.release_budget() IS 'Lets tasks go on that were blocked by a limit which holds them no more: it was raised, or a new day has begun. Workers call it every few seconds. Returns how many.';

CREATE FUNCTION millhand.note_budget() RETURNS trigger
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO audit_log (action, project, details) VALUES ('clear_budget', OLD.project, jsonb_build_object('per', OLD.per));
    ELSE
        INSERT INTO audit_log (action, project, details) VALUES ('set_budget', NEW.project,
            jsonb_build_object('per', NEW.per, 'limit_usd', NEW.limit_usd, 'limit_tokens', NEW.limit_tokens));
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION millhand.note_budget() IS 'Notes in the audit log who set or cleared a limit.';
CREATE TRIGGER budgets_note AFTER INSERT OR UPDATE OR DELETE ON millhand.budgets FOR EACH ROW EXECUTE FUNCTION millhand.note_budget();

CREATE FUNCTION millhand.announce_budgets() RETURNS trigger
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
BEGIN
    PERFORM release_budget();
    -- Workers look again at what runs, and at what they may claim.
    NOTIFY tasks_cancel;
    NOTIFY tasks_new;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION millhand.announce_budgets() IS 'After a change of limits: lets go on what they no longer hold, and has workers look at what they hold now.';
CREATE TRIGGER budgets_announce AFTER INSERT OR UPDATE OR DELETE ON millhand.budgets
    FOR EACH STATEMENT EXECUTE FUNCTION millhand.announce_budgets();

-- ---------------------------------------------------------------------------------------------
-- Views
-- ---------------------------------------------------------------------------------------------

CREATE VIEW millhand.inbox AS
    WITH RECURSIVE lanes (lane) AS (
        (SELECT lane FROM millhand.tasks WHERE state = 'pending' ORDER BY lane LIMIT 1)
        UNION ALL
        SELECT (SELECT t.lane FROM millhand.tasks t WHERE t.state = 'pending' AND t.lane > l.lane ORDER BY t.lane LIMIT 1)
        FROM lanes l WHERE l.lane IS NOT NULL
    ), away AS (
        SELECT l.lane, w.heard_at, w.hostname FROM lanes l
        LEFT JOIN LATERAL (
            SELECT max(greatest(w.heartbeat_at, w.stopped_at)) AS heard_at,
                   (array_agg(w.hostname ORDER BY w.heartbeat_at DESC))[1] AS hostname
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
    SELECT t.id AS task_id, t.project, t.session_id,
           (SELECT s.title FROM millhand.sessions s WHERE s.id = t.session_id) AS title, t.state, t.error_class, t.error_message,
           t.attempts, t.infra_losses,
           (SELECT count(*) FROM millhand.tasks b WHERE b.session_id = t.session_id AND b.state = 'waiting' AND b.id > t.id)
               AS behind,
           t.prompt, t.finished_at AS since, NULL::bigint AS ask_id, NULL::timestamptz AS deadline_at
    FROM millhand.tasks t
    WHERE t.state IN ('failed', 'blocked') AND t.dismissed_at IS NULL
    UNION ALL
    SELECT t.id, t.project, t.session_id, (SELECT s.title FROM millhand.sessions s WHERE s.id = t.session_id), t.state, 'host_gone',
           'its session''s worktree is on host ' || coalesce(a.hostname, split_part(a.lane COLLATE "default", '/', 1)) || ', which has had no worker'
               || coalesce(' since ' || to_char(a.heard_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC', '')
               || ': start one there; or cancel the task and queue the prompt in a new session',
           t.attempts, t.infra_losses,
           (SELECT count(*) FROM millhand.tasks b WHERE b.session_id = t.session_id AND b.state = 'waiting' AND b.id > t.id),
           t.prompt, a.heard_at, NULL, NULL
    FROM away a
    CROSS JOIN LATERAL (
        SELECT q.id, q.project, q.session_id, q.state, q.attempts, q.infra_losses, q.prompt FROM millhand.tasks q
        WHERE q.state = 'pending' AND q.lane = a.lane AND q.run_at <= now()
        ORDER BY q.priority, q.run_at, q.id LIMIT 100
    ) t
    UNION ALL
    SELECT t.id, t.project, t.session_id, (SELECT s.title FROM millhand.sessions s WHERE s.id = t.session_id), t.state, k.kind, k.summary, t.attempts, t.infra_losses,
           (SELECT count(*) FROM millhand.tasks b WHERE b.session_id = t.session_id AND b.state = 'waiting' AND b.id > t.id),
           t.prompt, k.asked_at, k.id, k.deadline_at
    FROM millhand.asks k
    JOIN millhand.attempts a ON a.id = k.attempt_id AND a.ended_at IS NULL
    JOIN millhand.tasks t ON t.id = k.task_id
    WHERE k.state = 'open' AND k.deadline_at > now()
    UNION ALL
    SELECT t.id, t.project, t.session_id, (SELECT s.title FROM millhand.sessions s WHERE s.id = t.session_id), t.state, 'budget', p.says, t.attempts, t.infra_losses,
           (SELECT count(*) FROM millhand.tasks b WHERE b.session_id = t.session_id AND b.state = 'waiting' AND b.id > t.id),
           t.prompt, t.run_at, NULL, NULL
    FROM spent p
    CROSS JOIN LATERAL (
        SELECT q.id, q.project, q.session_id, q.state, q.attempts, q.infra_losses, q.prompt, q.run_at FROM millhand.tasks q
        WHERE q.state = 'pending' AND q.lane = p.lane AND q.run_at <= now()
        ORDER BY q.priority, q.run_at, q.id LIMIT 20
    ) t
    ORDER BY since DESC NULLS LAST;
COMMENT ON VIEW millhand.inbox IS 'What needs a person, newest first: retry_task() or dismiss_task() what failed or is blocked; what is pending waits for a host that is gone (the next hundred of each lane are shown), or for a budget (the next twenty); answer_ask() what a running one asks.';
COMMENT ON COLUMN millhand.inbox.behind IS 'Tasks of the session that wait behind it.';
COMMENT ON COLUMN millhand.inbox.since IS 'When it came to rest; for a host that is gone, when that was last heard of; for a budget, since when it is due.';
COMMENT ON COLUMN millhand.inbox.ask_id IS 'The ask or question that a running turn waits with; its kind is in error_class.';
COMMENT ON COLUMN millhand.inbox.deadline_at IS 'When that becomes a no.';

CREATE VIEW millhand.cost_by_project AS
    SELECT project, sum(tasks)::bigint AS tasks, sum(steps)::bigint AS steps,
           sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
           sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cache_read_tokens)::bigint AS cache_read_tokens,
           sum(cache_write_tokens)::bigint AS cache_write_tokens, sum(cost_usd) AS cost_usd, sum(unknown_steps)::bigint AS unknown_steps
    FROM millhand.spending GROUP BY project ORDER BY sum(cost_usd) DESC, project;
COMMENT ON VIEW millhand.cost_by_project IS 'Tokens and USD per project, dearest first. unknown_steps: steps whose cost nobody knows, which cost_usd lacks.';

CREATE VIEW millhand.cost_by_agent AS
    SELECT agent, sum(tasks)::bigint AS tasks, sum(steps)::bigint AS steps,
           sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
           sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cache_read_tokens)::bigint AS cache_read_tokens,
           sum(cache_write_tokens)::bigint AS cache_write_tokens, sum(cost_usd) AS cost_usd, sum(unknown_steps)::bigint AS unknown_steps
    FROM millhand.spending GROUP BY agent ORDER BY sum(cost_usd) DESC, agent;
COMMENT ON VIEW millhand.cost_by_agent IS 'Tokens and USD per agent, dearest first. A task counts with the agent of its first step.';

CREATE VIEW millhand.cost_by_model AS
    SELECT model, sum(tasks)::bigint AS tasks, sum(steps)::bigint AS steps,
           sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
           sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cache_read_tokens)::bigint AS cache_read_tokens,
           sum(cache_write_tokens)::bigint AS cache_write_tokens, sum(cost_usd) AS cost_usd, sum(unknown_steps)::bigint AS unknown_steps
    FROM millhand.spending GROUP BY model ORDER BY sum(cost_usd) DESC, model;
COMMENT ON VIEW millhand.cost_by_model IS 'Tokens and USD per model, dearest first. A task counts with the model of its first step.';

CREATE VIEW millhand.cost_by_day AS
    SELECT day, sum(tasks)::bigint AS tasks, sum(steps)::bigint AS steps,
           sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
           sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cache_read_tokens)::bigint AS cache_read_tokens,
           sum(cache_write_tokens)::bigint AS cache_write_tokens, sum(cost_usd) AS cost_usd, sum(unknown_steps)::bigint AS unknown_steps
    FROM millhand.spending GROUP BY day ORDER BY day DESC;
COMMENT ON VIEW millhand.cost_by_day IS 'Tokens and USD per day (UTC), newest first. A task counts on the day of its first step.';
