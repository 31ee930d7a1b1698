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
-- Bulk inserts: use one INSERT with many rows. Each statement that makes a task claimable sends one
-- NOTIFY, and NOTIFY serialises commits.

CREATE SCHEMA IF NOT EXISTS millhand;
COMMENT ON SCHEMA millhand IS 'The queue, the sessions and the results of Millhand, a worker for coding agents.';

CREATE FUNCTION millhand.oldest_program() RETURNS int
LANGUAGE sql IMMUTABLE SET search_path = millhand, pg_catalog AS $$ SELECT 4 $$;
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
                  CONSTRAINT projects_ask_policy CHECK (ask_policy IN ('reject', 'allow')),
    on_failure    text NOT NULL DEFAULT 'hold'
                  CONSTRAINT projects_on_failure CHECK (on_failure IN ('hold', 'continue')),
    resend        text NOT NULL DEFAULT 'continue'
                  CONSTRAINT projects_resend CHECK (resend IN ('continue', 'ask')),
    max_attempts  int NOT NULL DEFAULT 3 CONSTRAINT projects_max_attempts CHECK (max_attempts BETWEEN 1 AND 100),
    env_pass      text[] NOT NULL DEFAULT '{}',
    created_at    timestamptz NOT NULL DEFAULT now()
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
COMMENT ON COLUMN millhand.projects.ask_policy IS 'What answers an agent''s permission asks: reject (with a visible warning) or allow.';
COMMENT ON COLUMN millhand.projects.on_failure IS 'hold: a failed task holds its session''s line until a person acts; continue: the next one runs.';
COMMENT ON COLUMN millhand.projects.resend IS 'continue: a turn that was lost is sent again by its ids, which may pay for a step again; ask: one that is neither answered nor under way is blocked until a person retries it.';
COMMENT ON COLUMN millhand.projects.max_attempts IS 'Charged attempts that a new task gets, unless it says otherwise.';
COMMENT ON COLUMN millhand.projects.env_pass IS 'Names of environment variables of the worker that the project''s agents may see.';
COMMENT ON COLUMN millhand.projects.created_at IS 'When it was registered.';

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
CREATE INDEX sessions_project ON millhand.sessions (project);
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
    finished_at         timestamptz
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
COMMENT ON COLUMN millhand.tasks.error_class IS 'Why the last attempt did not complete: refused, agent_failed, rate_limited, infrastructure_lost.';
COMMENT ON COLUMN millhand.tasks.error_message IS 'The same in words, with what to do.';
COMMENT ON COLUMN millhand.tasks.tokens IS 'All tokens of all its attempts.';
COMMENT ON COLUMN millhand.tasks.cost_usd IS 'Cost of all its attempts in USD.';
COMMENT ON COLUMN millhand.tasks.created_at IS 'When it was inserted.';
COMMENT ON COLUMN millhand.tasks.started_at IS 'When its newest attempt was claimed.';
COMMENT ON COLUMN millhand.tasks.finished_at IS 'When it came to rest: completed, failed, blocked or cancelled.';

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
    counters     jsonb NOT NULL DEFAULT '{}'
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
    cost_usd           numeric(18, 9) NOT NULL DEFAULT 0,
    created_at         timestamptz NOT NULL DEFAULT now(),
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
COMMENT ON COLUMN millhand.usage.cost_usd IS 'In USD, by the agent''s own figure.';
COMMENT ON COLUMN millhand.usage.created_at IS 'When the step was recorded.';

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
CREATE INDEX pending_changes_task ON millhand.pending_changes (task_id);
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
COMMENT ON COLUMN millhand.pending_changes.flags IS 'What a reviewer should look at twice, such as executes (runs on the reviewer''s machine), ignore_rules, lfs, submodule, encoding.';
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
    ended_at      timestamptz
);
CREATE UNIQUE INDEX applies_one_begun ON millhand.applies (change_set_id) WHERE state = 'begun';
CREATE INDEX applies_change_set ON millhand.applies (change_set_id, id);
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

CREATE TABLE millhand.audit_log (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    who        text NOT NULL DEFAULT session_user,
    action     text NOT NULL,
    task_id    bigint,
    project    text,
    details    jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE millhand.audit_log IS 'Who did what; append-only.';
COMMENT ON COLUMN millhand.audit_log.id IS 'Key.';
COMMENT ON COLUMN millhand.audit_log.at IS 'When.';
COMMENT ON COLUMN millhand.audit_log.who IS 'Database role that did it.';
COMMENT ON COLUMN millhand.audit_log.action IS 'What was done: retry, cancel, dismiss, add_project, remove_project, close_session, reopen_session, restore_worktree, apply, reject, roll_back, rehome_session.';
COMMENT ON COLUMN millhand.audit_log.task_id IS 'To which task.';
COMMENT ON COLUMN millhand.audit_log.project IS 'To which project.';
COMMENT ON COLUMN millhand.audit_log.details IS 'What is worth keeping of it.';

-- ---------------------------------------------------------------------------------------------
-- How a task enters the queue
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION millhand.lane_of(in_session bigint, in_agent text) RETURNS text
LANGUAGE sql STABLE SET search_path = millhand, pg_catalog AS $$
    SELECT coalesce(s.home_host, p.host_id, '*') || '/' || p.id || '/' || split_part(in_agent, '/', 1)
    FROM sessions s JOIN projects p ON p.name = s.project
    WHERE s.id = in_session
$$;
COMMENT ON FUNCTION millhand.lane_of(bigint, text) IS 'The lane of a task of this session for this agent.';

CREATE FUNCTION millhand.fill_task() RETURNS trigger
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
COMMENT ON FUNCTION millhand.fill_task() IS 'Completes an inserted task: opens its session and chat where it names none, fills defaults from the project, refuses bad input in words.';
CREATE TRIGGER tasks_fill BEFORE INSERT ON millhand.tasks FOR EACH ROW EXECUTE FUNCTION millhand.fill_task();

CREATE FUNCTION millhand.announce_tasks() RETURNS trigger
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
CREATE TRIGGER tasks_announce AFTER INSERT ON millhand.tasks REFERENCING NEW TABLE AS new_tasks
    FOR EACH STATEMENT EXECUTE FUNCTION millhand.announce_tasks();

CREATE FUNCTION millhand.advance(at_most int DEFAULT 200) RETURNS int
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

CREATE FUNCTION millhand.sweep_lines(at_most int DEFAULT 1000) RETURNS int
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

-- ---------------------------------------------------------------------------------------------
-- What people do
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION millhand.retry_task(task bigint, new_prompt text DEFAULT NULL) RETURNS boolean
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

CREATE FUNCTION millhand.cancel_task(task bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
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
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
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

CREATE FUNCTION millhand.settle_change_set(change_set bigint) RETURNS void
LANGUAGE sql SET search_path = millhand, pg_catalog AS $$
    UPDATE change_sets c SET state = CASE
            WHEN EXISTS (SELECT 1 FROM pending_changes p WHERE p.change_set_id = c.id AND p.state = 'applied') THEN 'applied'
            ELSE 'rejected' END
    WHERE c.id = change_set AND c.state = 'open'
      AND NOT EXISTS (SELECT 1 FROM pending_changes p WHERE p.change_set_id = c.id AND p.state = 'pending')
$$;
COMMENT ON FUNCTION millhand.settle_change_set(bigint) IS 'Closes a change set when all its files are decided.';

CREATE FUNCTION millhand.reject_changes(change_set bigint, only_paths text[] DEFAULT NULL, by_whom text DEFAULT session_user)
RETURNS bigint
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
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
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
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
-- Views
-- ---------------------------------------------------------------------------------------------

CREATE VIEW millhand.inbox AS
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
COMMENT ON COLUMN millhand.inbox.behind IS 'Tasks of the session that wait behind it.';
COMMENT ON COLUMN millhand.inbox.since IS 'When it came to rest; for a host that is gone, when that was last heard of.';

CREATE VIEW millhand.cost_by_project AS
    SELECT project, count(DISTINCT task_id) AS tasks, count(*) AS steps,
           sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
           sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cache_read_tokens)::bigint AS cache_read_tokens,
           sum(cache_write_tokens)::bigint AS cache_write_tokens, sum(cost_usd) AS cost_usd
    FROM millhand.usage GROUP BY project ORDER BY sum(cost_usd) DESC, project;
COMMENT ON VIEW millhand.cost_by_project IS 'Tokens and USD per project, dearest first.';

CREATE VIEW millhand.cost_by_agent AS
    SELECT agent, count(DISTINCT task_id) AS tasks, count(*) AS steps,
           sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
           sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cache_read_tokens)::bigint AS cache_read_tokens,
           sum(cache_write_tokens)::bigint AS cache_write_tokens, sum(cost_usd) AS cost_usd
    FROM millhand.usage GROUP BY agent ORDER BY sum(cost_usd) DESC, agent;
COMMENT ON VIEW millhand.cost_by_agent IS 'Tokens and USD per agent, dearest first.';

CREATE VIEW millhand.cost_by_model AS
    SELECT model, count(DISTINCT task_id) AS tasks, count(*) AS steps,
           sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
           sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cache_read_tokens)::bigint AS cache_read_tokens,
           sum(cache_write_tokens)::bigint AS cache_write_tokens, sum(cost_usd) AS cost_usd
    FROM millhand.usage GROUP BY model ORDER BY sum(cost_usd) DESC, model;
COMMENT ON VIEW millhand.cost_by_model IS 'Tokens and USD per model, dearest first.';

CREATE VIEW millhand.cost_by_day AS
    SELECT (created_at AT TIME ZONE 'UTC')::date AS day, count(DISTINCT task_id) AS tasks, count(*) AS steps,
           sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
           sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cache_read_tokens)::bigint AS cache_read_tokens,
           sum(cache_write_tokens)::bigint AS cache_write_tokens, sum(cost_usd) AS cost_usd
    FROM millhand.usage GROUP BY 1 ORDER BY 1 DESC;
COMMENT ON VIEW millhand.cost_by_day IS 'Tokens and USD per day (UTC), newest first.';
