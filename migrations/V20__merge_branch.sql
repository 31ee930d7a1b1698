-- Tasks that merge another branch than the session's own into the worktree.

-- A program that does not know merge_branch would not merge what the session's own branch has already, and send a prompt about conflicts that are
-- not there.
CREATE OR REPLACE FUNCTION millhand.oldest_program() RETURNS int
LANGUAGE sql IMMUTABLE SET search_path = millhand, pg_catalog, pg_temp AS $$ SELECT 20 $$;

ALTER TABLE millhand.tasks ADD COLUMN merge_branch text;
COMMENT ON COLUMN millhand.tasks.merge_branch IS 'Branch that merge_commit is of; null: the one that the session started from.';
