-- Opens the session of a restored worktree anew, under its old number, if its row was deleted and its project is still there.
-- $1 worktree
WITH revived AS (
    INSERT INTO millhand.sessions (id, project, title, base_commit, home_host) OVERRIDING SYSTEM VALUE
    SELECT w.last_session_id, p.name, 'restored', w.base_commit, w.host_id
    FROM millhand.worktrees w JOIN millhand.projects p ON p.id = w.project_id
    WHERE w.id = $1 AND w.session_id IS NULL AND w.last_session_id IS NOT NULL
    ON CONFLICT (id) DO NOTHING
    RETURNING id
), chat AS (
    INSERT INTO millhand.chats (session_id) SELECT id FROM revived
)
SELECT id FROM revived
