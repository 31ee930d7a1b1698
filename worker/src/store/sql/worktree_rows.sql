-- Worktrees with all that decides what becomes of them. Filters that are null are off.
-- $1 ids, $2 host, $3 project, $4 key of the project, $5 those that are gone too, $6 at most, $7 behind this one
SELECT w.*, s.state AS session_state, s.base_branch,
       EXISTS (SELECT 1 FROM millhand.leases l WHERE l.session_id = w.session_id) AS leased,
       -- Not by EXISTS, which Postgres answers from a hash of the whole queue.
       coalesce((SELECT true FROM millhand.tasks t WHERE t.session_id = w.session_id
                 AND t.state IN ('pending', 'waiting', 'running', 'blocked') LIMIT 1), false) AS has_open_tasks,
       greatest(extract(epoch FROM now() - w.let_go_at), 0)::float8 AS let_go_seconds,
       greatest(extract(epoch FROM now() - w.trashed_at), 0)::float8 AS trashed_seconds,
       extract(epoch FROM now() - w.tried_at)::float8 AS tried_seconds,
       greatest(extract(epoch FROM now() - coalesce(w.trashed_at, w.last_used_at)), 0)::float8 AS idle_seconds
FROM millhand.worktrees w LEFT JOIN millhand.sessions s ON s.id = w.session_id
WHERE ($1::bigint[] IS NULL OR w.id = ANY ($1)) AND ($2::text IS NULL OR w.host_id = $2)
  AND ($3::text IS NULL OR w.project = $3) AND ($4::bigint IS NULL OR w.project_id = $4) AND ($5 OR w.state <> 'gone')
  AND w.id > $7
ORDER BY w.id LIMIT $6
