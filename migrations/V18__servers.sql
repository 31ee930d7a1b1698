-- Which servers of agents a worker runs, and sessions by their state.
ALTER TABLE millhand.workers ADD COLUMN servers jsonb NOT NULL DEFAULT '[]';
COMMENT ON COLUMN millhand.workers.servers IS 'Servers of agents that run in it now, as it told last: agent, project_id, pid, turns, worktrees, resident_bytes, is_leaving, started_at. Of a worker that is gone: not to be believed.';
CREATE INDEX sessions_state ON millhand.sessions (state, id);
