-- Worktrees of a host that may have to go, by the database's clock. Each part is an index scan, however many rows there are.
-- $1 host, $2 grace in seconds, $3 seconds that the trash is kept, $4 seconds between tries, $5 at most
SELECT id FROM (
    (SELECT id FROM millhand.worktrees
     WHERE host_id = $1 AND (state = 'reaping' OR reap_asked_at IS NOT NULL)
       AND (tried_at IS NULL OR tried_at < now() - make_interval(secs => $4) OR reap_asked_at > tried_at)
     ORDER BY id LIMIT $5)
    UNION
    (SELECT id FROM millhand.worktrees
     WHERE host_id = $1 AND state IN ('ready', 'in_use') AND let_go_at IS NOT NULL
       AND let_go_at <= now() - make_interval(secs => $2) AND NOT kept
       AND (tried_at IS NULL OR tried_at < now() - make_interval(secs => $4))
     ORDER BY let_go_at LIMIT $5)
    UNION
    (SELECT id FROM millhand.worktrees
     WHERE host_id = $1 AND state = 'trashed' AND trashed_at <= now() - make_interval(secs => $3)
       AND (tried_at IS NULL OR tried_at < now() - make_interval(secs => $4))
     ORDER BY trashed_at LIMIT $5)
) due
ORDER BY id LIMIT $5
