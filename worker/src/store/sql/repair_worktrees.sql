-- Worktrees in use by nobody. $1 seconds of grace.
WITH mended AS (
    UPDATE millhand.worktrees w SET state = 'ready'
    WHERE w.state = 'in_use' AND w.last_used_at < now() - make_interval(secs => $1)
      AND NOT EXISTS (SELECT 1 FROM millhand.leases l WHERE l.session_id = w.session_id)
    RETURNING w.id
)
SELECT count(*) FROM mended
