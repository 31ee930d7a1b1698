-- Roles with as little privilege as their work takes. For a database of your own; the private Postgres needs none.
--
--   psql -X -v ON_ERROR_STOP=1 -f ops/roles.sql "$DATABASE_URL"        as a superuser, in the database with the schema
--   CREATE ROLE nightly LOGIN PASSWORD '...' IN ROLE millhand_worker;
--   CREATE ROLE tracker LOGIN PASSWORD '...' IN ROLE millhand_enqueue;
--
-- May be run any number of times: after it, the roles have what is said here and nothing else in the schema. Run it again after each
-- upgrade that had something to migrate. A test runs all of it: tests/access/roles.rs.
--
--   millhand_owner     owns everything, and migrates:  millhand migrate
--   millhand_worker    runs turns, serves the API, and does what the operator of a host does (apply, projects, budgets, tokens)
--   millhand_reviewer  reads everything, comments, rejects, answers, retries, cancels, dismisses, and queues tasks
--   millhand_reader    reads everything but secrets
--   millhand_enqueue   queues tasks, and sees nothing but the ids and keys of tasks

BEGIN;
SET LOCAL lock_timeout = '5s';
SET LOCAL client_min_messages = warning;

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['millhand_owner', 'millhand_worker', 'millhand_reviewer', 'millhand_reader', 'millhand_enqueue'] LOOP
        IF to_regrole(wanted) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- Somebody else made it at this moment.
            END;
        END IF;
    END LOOP;
END
$$;

-- ---------------------------------------------------------------------------------------------
-- The owner
-- ---------------------------------------------------------------------------------------------

DO $$
DECLARE
    its record;
BEGIN
    -- Its functions act with the owner's rights (SECURITY DEFINER), which are to be those of this schema alone.
    IF (SELECT nspowner <> 'millhand_owner'::regrole FROM pg_namespace WHERE nspname = 'millhand') THEN
        ALTER SCHEMA millhand OWNER TO millhand_owner;
    END IF;
    FOR its IN SELECT oid::regclass AS name FROM pg_class
               WHERE relnamespace = 'millhand'::regnamespace AND relkind IN ('r', 'p', 'v') AND relowner <> 'millhand_owner'::regrole
               ORDER BY oid LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO millhand_owner', its.name);
    END LOOP;
    FOR its IN SELECT oid::regprocedure AS name FROM pg_proc
               WHERE pronamespace = 'millhand'::regnamespace AND proowner <> 'millhand_owner'::regrole ORDER BY oid LOOP
        EXECUTE format('ALTER ROUTINE %s OWNER TO millhand_owner', its.name);
    END LOOP;
    -- To migrate, refinery and we ask for the schema to be made unless it is there, which takes this even where it is.
    EXECUTE format('GRANT CREATE ON DATABASE %I TO millhand_owner', current_database());
END
$$;

-- ---------------------------------------------------------------------------------------------
-- Nobody has anything, then each what it needs
-- ---------------------------------------------------------------------------------------------

REVOKE ALL ON SCHEMA millhand FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA millhand FROM PUBLIC, millhand_worker, millhand_reviewer, millhand_reader, millhand_enqueue;
REVOKE ALL ON ALL ROUTINES IN SCHEMA millhand FROM PUBLIC, millhand_worker, millhand_reviewer, millhand_reader, millhand_enqueue;
REVOKE ALL ON SCHEMA millhand FROM millhand_worker, millhand_reviewer, millhand_reader, millhand_enqueue;
GRANT USAGE ON SCHEMA millhand TO millhand_worker, millhand_reviewer, millhand_reader, millhand_enqueue;

-- Reading: everything but what a webhook signs with, and hashes of tokens.
GRANT SELECT ON
    millhand.agent_sessions, millhand.agents, millhand.applies, millhand.asks, millhand.attempts, millhand.audit_log, millhand.budgets,
    millhand.change_sets, millhand.chats, millhand.check_feedback, millhand.check_runs, millhand.checks, millhand.deliveries,
    millhand.forecasts, millhand.leases, millhand.nudges, millhand.pending_changes, millhand.prices, millhand.project_files, millhand.projects, millhand.review_comments,
    millhand.review_looks, millhand.schema_history, millhand.sessions, millhand.spending, millhand.tasks, millhand.turn_events,
    millhand.usage, millhand.workers, millhand.worktrees,
    millhand.budget_state, millhand.cost_by_agent, millhand.cost_by_day, millhand.cost_by_model, millhand.cost_by_project, millhand.inbox
    TO millhand_reader, millhand_reviewer, millhand_worker;
GRANT SELECT (id, url, events, project, allow_private, enabled, disabled_reason, enabled_at, watermark, created_at)
    ON millhand.webhooks TO millhand_reader, millhand_reviewer;
GRANT SELECT (id, kind, name, scopes, created_by, created_at, expires_at, last_used_at, revoked_at)
    ON millhand.api_tokens TO millhand_reader, millhand_reviewer;
GRANT EXECUTE ON FUNCTION
    millhand.oldest_program(), millhand.lane_of(bigint, text), millhand.limits_now(), millhand.over_budget(bigint),
    millhand.budget_words(text, text, numeric, bigint, numeric, bigint)
    TO millhand_reader, millhand_reviewer, millhand_worker;

-- Queueing: what a person may say of a task. The queue fills the rest, opens sessions and chats by itself, and wakes the workers. Of other
-- people's tasks there are the id, for RETURNING, and the key, for ON CONFLICT.
GRANT INSERT (project, session_id, chat_id, prompt, agent, model, variant, priority, run_at, max_attempts, idempotency_key, parent_task_id)
    ON millhand.tasks TO millhand_enqueue, millhand_reviewer;
GRANT INSERT (merge_commit, merge_branch) ON millhand.tasks TO millhand_reviewer;
GRANT SELECT (id, session_id, chat_id, idempotency_key) ON millhand.tasks TO millhand_enqueue;

-- Reviewing: by functions that know the rules, and by notes.
GRANT EXECUTE ON FUNCTION
    millhand.retry_task(bigint, text, text, text), millhand.cancel_task(bigint), millhand.dismiss_task(bigint),
    millhand.answer_ask(bigint, text, text, jsonb), millhand.reject_changes(bigint, text[], text)
    TO millhand_reviewer, millhand_worker;
GRANT INSERT (session_id) ON millhand.chats TO millhand_reviewer;
GRANT INSERT (change_set_id, session_id, path, line, body, who) ON millhand.review_comments TO millhand_reviewer;
GRANT UPDATE (task_id) ON millhand.review_comments TO millhand_reviewer;
GRANT INSERT (session_id, who, change_set_id) ON millhand.review_looks TO millhand_reviewer;
GRANT UPDATE (change_set_id, at) ON millhand.review_looks TO millhand_reviewer;

-- Working. What is kept for ever is not deleted, and what is history is not changed.
GRANT SELECT ON millhand.webhooks, millhand.api_tokens, millhand.login_codes TO millhand_worker;
GRANT INSERT ON
    millhand.agent_sessions, millhand.agents, millhand.api_tokens, millhand.applies, millhand.asks, millhand.attempts, millhand.audit_log,
    millhand.budgets, millhand.change_sets, millhand.chats, millhand.check_feedback, millhand.check_runs, millhand.checks,
    millhand.deliveries, millhand.forecasts, millhand.leases, millhand.login_codes, millhand.nudges, millhand.pending_changes,
    millhand.prices, millhand.project_files, millhand.projects, millhand.review_comments, millhand.review_looks, millhand.sessions,
    millhand.spending, millhand.tasks, millhand.turn_events, millhand.usage, millhand.webhooks, millhand.workers, millhand.worktrees
    TO millhand_worker;
GRANT UPDATE ON
    millhand.agent_sessions, millhand.agents, millhand.api_tokens, millhand.applies, millhand.asks, millhand.attempts, millhand.budgets,
    millhand.change_sets, millhand.check_feedback, millhand.check_runs, millhand.checks, millhand.deliveries, millhand.forecasts,
    millhand.leases, millhand.login_codes, millhand.nudges, millhand.pending_changes, millhand.prices, millhand.project_files,
    millhand.projects, millhand.review_comments, millhand.review_looks, millhand.sessions, millhand.spending, millhand.tasks, millhand.usage,
    millhand.webhooks, millhand.workers, millhand.worktrees
    TO millhand_worker;
GRANT DELETE ON
    millhand.api_tokens, millhand.budgets, millhand.change_sets, millhand.checks, millhand.deliveries, millhand.leases,
    millhand.login_codes, millhand.nudges, millhand.prices, millhand.project_files, millhand.projects, millhand.sessions, millhand.tasks,
    millhand.turn_events, millhand.webhooks, millhand.worktrees
    TO millhand_worker;
GRANT EXECUTE ON FUNCTION
    millhand.make_event_day(date), millhand.drop_event_day(date), millhand.forget_roll_back(bigint), millhand.advance(int),
    millhand.sweep_lines(int), millhand.close_session(bigint), millhand.reopen_session(bigint), millhand.settle_change_set(bigint),
    millhand.add_project(text, text, text, text), millhand.release_budget()
    TO millhand_worker;

COMMIT;
