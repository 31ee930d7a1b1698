-- A year of finished tasks, one in two hundred failed and not dismissed until a month ago, each with an attempt and a step, and one in fifty with
-- changes. How many: the setting bench.tasks. Triggers are off meanwhile; rebuild_spending() sums up.
DO $$
DECLARE
    tasks bigint := current_setting('bench.tasks')::bigint;
BEGIN
    INSERT INTO millhand.sessions (project, title, base_branch, base_commit, home_host)
        SELECT 'bench-' || n % 20, 'Task ' || n, 'main', repeat('a', 40), 'bench' FROM generate_series(1, tasks / 2) n;
    INSERT INTO millhand.chats (session_id) SELECT id FROM millhand.sessions ORDER BY id;
    INSERT INTO millhand.tasks (project, session_id, chat_id, prompt, agent, model, state, max_attempts, attempts, last_attempt, tokens, cost_usd,
                                error_class, error_message, created_at, started_at, finished_at, dismissed_at)
        SELECT 'bench-' || n % 20, s.id, c.id, 'Do what is number ' || n, 'opencode', 'provider/model-' || n % 10,
               CASE WHEN n % 200 = 0 THEN 'failed' ELSE 'completed' END, 3, 1, 1, 1000 + n % 5000, (n % 97) * 0.001,
               CASE WHEN n % 200 = 0 THEN 'agent_failed' END, CASE WHEN n % 200 = 0 THEN 'it failed' END,
               its.at, its.at, its.at + interval '2 minutes',
               CASE WHEN n % 200 = 0 AND n < tasks * 11 / 12 THEN its.at + interval '1 day' END
        FROM generate_series(1, tasks) n
        CROSS JOIN LATERAL (SELECT now() - interval '365 days' * (1 - n::float8 / tasks) AS at) its
        JOIN (SELECT id, row_number() OVER (ORDER BY id) AS place FROM millhand.sessions) s ON s.place = (n + 1) / 2
        JOIN (SELECT id, row_number() OVER (ORDER BY id) AS place FROM millhand.chats) c ON c.place = (n + 1) / 2
        ORDER BY n;
    INSERT INTO millhand.attempts (task_id, number, prompt, worker_id, host_id, token, agent_requested, model_resolved, started_at, ended_at, outcome)
        SELECT id, 1, prompt, '00000000-0000-0000-0000-000000000000', 'bench', gen_random_uuid(), agent, model, started_at, finished_at, state
        FROM millhand.tasks;
    INSERT INTO millhand.usage (attempt_id, task_id, project, agent, model, agent_session, message_id, input_tokens, output_tokens, cost_usd,
                                created_at, project_id)
        SELECT a.id, t.id, t.project, t.agent, t.model, 'ses_' || t.session_id, 'msg_' || t.id, t.tokens, 50, t.cost_usd, t.finished_at, p.id
        FROM millhand.tasks t JOIN millhand.attempts a ON a.task_id = t.id JOIN millhand.projects p ON p.name = t.project;
    INSERT INTO millhand.change_sets (session_id, task_id, attempt_id, project, agent, base_commit, commit_id, tree_id, patch_sha256, files, additions,
                                      deletions, state, created_at)
        SELECT t.session_id, t.id, a.id, t.project, t.agent, repeat('a', 40), repeat('b', 40), repeat('c', 40), '\x00', 2, 3, 1,
               CASE WHEN t.id % 50 = 0 AND t.id > tasks * 99 / 100 THEN 'open' ELSE 'applied' END, t.finished_at
        FROM millhand.tasks t JOIN millhand.attempts a ON a.task_id = t.id WHERE t.id % 10 = 0 AND t.state = 'completed';
    INSERT INTO millhand.pending_changes (change_set_id, session_id, task_id, agent, path, kind, old_mode, new_mode, patch, state, created_at)
        SELECT c.id, c.session_id, c.task_id, c.agent, 'src/file-' || f || '.rs', 'modified', 33188, 33188, '\x00',
               CASE c.state WHEN 'open' THEN 'pending' ELSE 'applied' END, c.created_at
        FROM millhand.change_sets c CROSS JOIN generate_series(1, 2) f;
    INSERT INTO millhand.worktrees (session_id, last_session_id, project, project_id, host_id, path, branch, base_commit, state)
        SELECT s.id, s.id, s.project, p.id, 'bench', '/nowhere/s' || s.id, 'millhand/s' || s.id, s.base_commit, 'ready'
        FROM millhand.sessions s JOIN millhand.projects p ON p.name = s.project WHERE s.id % 50 = 0;
END
$$
