-- Costs and budgets: a cost that nobody knows is null and counted as such, sums are kept as they come, limits hold what is spent.

-- ---------------------------------------------------------------------------------------------
-- Prices: what a step costs where its agent does not say
-- ---------------------------------------------------------------------------------------------

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

-- ---------------------------------------------------------------------------------------------
-- Usage: unknown costs, and sums that are kept as steps come
-- ---------------------------------------------------------------------------------------------

ALTER TABLE millhand.usage ALTER COLUMN cost_usd DROP NOT NULL, ALTER COLUMN cost_usd DROP DEFAULT, ADD COLUMN project_id bigint;
COMMENT ON COLUMN millhand.usage.cost_usd IS 'In USD: the agent''s own figure, else by the table prices; null: nobody knows.';
COMMENT ON COLUMN millhand.usage.project_id IS 'Key of the project, by value: tells who pays, also when its name changes.';
UPDATE millhand.usage u SET project_id = p.id FROM millhand.projects p WHERE p.name = u.project;

ALTER TABLE millhand.tasks ADD COLUMN unknown_steps bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN millhand.tasks.unknown_steps IS 'Steps of all its attempts whose cost nobody knows, which cost_usd therefore lacks.';

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
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
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
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
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
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
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

SELECT millhand.rebuild_spending();

CREATE OR REPLACE VIEW millhand.cost_by_project AS
    SELECT project, sum(tasks)::bigint AS tasks, sum(steps)::bigint AS steps,
           sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
           sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cache_read_tokens)::bigint AS cache_read_tokens,
           sum(cache_write_tokens)::bigint AS cache_write_tokens, sum(cost_usd) AS cost_usd, sum(unknown_steps)::bigint AS unknown_steps
    FROM millhand.spending GROUP BY project ORDER BY sum(cost_usd) DESC, project;
COMMENT ON VIEW millhand.cost_by_project IS 'Tokens and USD per project, dearest first. unknown_steps: steps whose cost nobody knows, which cost_usd lacks.';
CREATE OR REPLACE VIEW millhand.cost_by_agent AS
    SELECT agent, sum(tasks)::bigint AS tasks, sum(steps)::bigint AS steps,
           sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
           sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cache_read_tokens)::bigint AS cache_read_tokens,
           sum(cache_write_tokens)::bigint AS cache_write_tokens, sum(cost_usd) AS cost_usd, sum(unknown_steps)::bigint AS unknown_steps
    FROM millhand.spending GROUP BY agent ORDER BY sum(cost_usd) DESC, agent;
COMMENT ON VIEW millhand.cost_by_agent IS 'Tokens and USD per agent, dearest first. A task counts with the agent of its first step.';
CREATE OR REPLACE VIEW millhand.cost_by_model AS
    SELECT model, sum(tasks)::bigint AS tasks, sum(steps)::bigint AS steps,
           sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
           sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cache_read_tokens)::bigint AS cache_read_tokens,
           sum(cache_write_tokens)::bigint AS cache_write_tokens, sum(cost_usd) AS cost_usd, sum(unknown_steps)::bigint AS unknown_steps
    FROM millhand.spending GROUP BY model ORDER BY sum(cost_usd) DESC, model;
COMMENT ON VIEW millhand.cost_by_model IS 'Tokens and USD per model, dearest first. A task counts with the model of its first step.';
CREATE OR REPLACE VIEW millhand.cost_by_day AS
    SELECT day, sum(tasks)::bigint AS tasks, sum(steps)::bigint AS steps,
           sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
           sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cache_read_tokens)::bigint AS cache_read_tokens,
           sum(cache_write_tokens)::bigint AS cache_write_tokens, sum(cost_usd) AS cost_usd, sum(unknown_steps)::bigint AS unknown_steps
    FROM millhand.spending GROUP BY day ORDER BY day DESC;
COMMENT ON VIEW millhand.cost_by_day IS 'Tokens and USD per day (UTC), newest first. A task counts on the day of its first step.';

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
LANGUAGE sql IMMUTABLE SET search_path = millhand, pg_catalog AS $$
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
LANGUAGE plpgsql STABLE ROWS 4 SET search_path = millhand, pg_catalog SET jit = off AS $$
BEGIN
    RETURN QUERY SELECT b.project, b.project_id, b.per, b.is_over, b.says FROM budget_state b;
END
$$;
COMMENT ON FUNCTION millhand.limits_now() IS 'budget_state for those who ask all the time: planned once for each connection, and never compiled.';

CREATE FUNCTION millhand.over_budget(of_task bigint) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = millhand, pg_catalog SET jit = off AS $$
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

CREATE INDEX tasks_over_budget ON millhand.tasks (id) WHERE state = 'blocked' AND error_class = 'budget';

CREATE FUNCTION millhand.release_budget() RETURNS int
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
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
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
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
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
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
