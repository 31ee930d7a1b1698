-- Sessions with the state of their line and what waits for review, newest first. Filters that are null are off.
SELECT s.id, s.project, s.title, s.base_branch, s.base_commit, s.home_host, s.state, s.created_at,
       (SELECT count(*) FROM millhand.chats c WHERE c.session_id = s.id) AS chats,
       counted.tasks, counted.open_tasks, counted.last_task_id, counted.cost_usd, counted.unknown_steps,
       (SELECT count(*) FROM millhand.pending_changes p WHERE p.session_id = s.id AND p.state = 'pending')
           AS pending_changes,
       (SELECT h.state FROM millhand.tasks h WHERE h.session_id = s.id AND h.state IN ('pending', 'running', 'blocked'))
           AS head_state,
       (SELECT max(f.id) FROM millhand.tasks f WHERE f.session_id = s.id AND f.holds_line) AS holder_id
FROM (
    SELECT * FROM millhand.sessions
    WHERE ($1::bigint IS NULL OR id = $1) AND ($2::text IS NULL OR (project >= $2 AND project <= $2))
      AND id < coalesce($4, 9223372036854775807) AND ($5::text IS NULL OR state = $5)
    ORDER BY id DESC LIMIT $3
) s
CROSS JOIN LATERAL (
    SELECT count(*) AS tasks,
           count(*) FILTER (WHERE t.state IN ('pending', 'waiting', 'running', 'blocked')) AS open_tasks,
           max(t.id) AS last_task_id, coalesce(sum(t.cost_usd), 0) AS cost_usd,
           coalesce(sum(t.unknown_steps), 0)::bigint AS unknown_steps
    FROM millhand.tasks t WHERE t.session_id = s.id
) counted
ORDER BY s.id DESC
