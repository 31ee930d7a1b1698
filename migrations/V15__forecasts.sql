-- What would come of applying each open change set; and tasks before whose turn a commit is merged into the worktree.

-- A program that does not know merge_commit would send a prompt about conflicts that are not there.
CREATE OR REPLACE FUNCTION millhand.oldest_program() RETURNS int
LANGUAGE sql IMMUTABLE SET search_path = millhand, pg_catalog AS $$ SELECT 15 $$;

ALTER TABLE millhand.tasks
    ADD COLUMN merge_commit text CONSTRAINT tasks_merge_commit CHECK (merge_commit ~ '^[0-9a-f]{40}$');
COMMENT ON COLUMN millhand.tasks.merge_commit IS 'Commit that is merged into the worktree before the turn, conflicts and all, and that the session is measured against from then on; null: none.';

CREATE INDEX change_sets_open ON millhand.change_sets (project, id) WHERE state = 'open';
CREATE INDEX pending_changes_decided ON millhand.pending_changes (change_set_id) WHERE decided_at IS NOT NULL;

CREATE TABLE millhand.forecasts (
    change_set_id bigint CONSTRAINT forecasts_pkey PRIMARY KEY CONSTRAINT forecasts_change_set_id_fkey
                  REFERENCES millhand.change_sets (id) ON DELETE CASCADE,
    branch        text NOT NULL,
    target_commit text,
    verdict       text NOT NULL CONSTRAINT forecasts_verdict CHECK (verdict IN ('clean', 'conflicts', 'unknown')),
    conflicts     jsonb NOT NULL DEFAULT '[]',
    others        jsonb NOT NULL DEFAULT '[]',
    place         int,
    problem       text,
    made_at       timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE millhand.forecasts IS 'What would come of applying an open change set to its session''s base branch now; kept current by the host that has the session while a worker runs there.';
COMMENT ON COLUMN millhand.forecasts.change_set_id IS 'The change set.';
COMMENT ON COLUMN millhand.forecasts.branch IS 'The branch that would take it.';
COMMENT ON COLUMN millhand.forecasts.target_commit IS 'Where that branch was; null: it did not exist.';
COMMENT ON COLUMN millhand.forecasts.verdict IS 'clean: it merges with the branch as that is; conflicts: it does not; unknown: see problem.';
COMMENT ON COLUMN millhand.forecasts.conflicts IS 'Paths that conflict with the branch, and git''s words on each: [{"path", "message"}].';
COMMENT ON COLUMN millhand.forecasts.others IS 'Open change sets for the same branch that it conflicts with: [{"change_set_id", "session_id", "paths"}].';
COMMENT ON COLUMN millhand.forecasts.place IS 'Its place in an order in which all that have a place apply without a conflict, from 1; null: it has none.';
COMMENT ON COLUMN millhand.forecasts.problem IS 'Why nothing can be said of it.';
COMMENT ON COLUMN millhand.forecasts.made_at IS 'When it was found out.';
