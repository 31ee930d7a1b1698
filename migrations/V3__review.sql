-- Review: applying and rejecting what turns changed.

ALTER TABLE millhand.change_sets DROP CONSTRAINT change_sets_state;
ALTER TABLE millhand.change_sets ADD CONSTRAINT change_sets_state
    CHECK (state IN ('draft', 'open', 'superseded', 'applied', 'rejected'));
ALTER TABLE millhand.pending_changes DROP CONSTRAINT pending_changes_state;
ALTER TABLE millhand.pending_changes ADD CONSTRAINT pending_changes_state
    CHECK (state IN ('draft', 'pending', 'superseded', 'applied', 'rejected'));
ALTER TABLE millhand.pending_changes
    ADD COLUMN decided_by text,
    ADD COLUMN decided_at timestamptz,
    ADD COLUMN apply_id bigint;
COMMENT ON COLUMN millhand.pending_changes.decided_by IS 'Who applied or rejected it.';
COMMENT ON COLUMN millhand.pending_changes.decided_at IS 'When.';
COMMENT ON COLUMN millhand.pending_changes.apply_id IS 'The apply that took it.';
COMMENT ON COLUMN millhand.change_sets.state IS 'draft: its attempt has not won; open: ready for review; superseded: a later turn of the session replaced it; applied: all files are decided, and some were taken; rejected: all were refused.';
COMMENT ON COLUMN millhand.pending_changes.state IS 'draft: its attempt has not won; pending: waits for a person; superseded; applied; rejected.';
COMMENT ON COLUMN millhand.audit_log.action IS 'What was done: retry, cancel, dismiss, add_project, remove_project, close_session, reopen_session, restore_worktree, apply, reject, roll_back.';

CREATE TABLE millhand.applies (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    change_set_id bigint NOT NULL CONSTRAINT applies_change_set_id_fkey
                  REFERENCES millhand.change_sets (id) ON DELETE CASCADE,
    session_id    bigint,
    project_id    bigint NOT NULL,
    host_id       text NOT NULL,
    who           text NOT NULL,
    remote        boolean NOT NULL,
    branch        text NOT NULL,
    old_commit    text,
    new_commit    text NOT NULL,
    rebases       boolean NOT NULL,
    files         bigint[] NOT NULL,
    state         text NOT NULL DEFAULT 'begun' CONSTRAINT applies_state CHECK (state IN ('begun', 'landed', 'done', 'undone')),
    problem       text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    ended_at      timestamptz
);
CREATE UNIQUE INDEX applies_one_begun ON millhand.applies (change_set_id) WHERE state = 'begun';
CREATE INDEX applies_change_set ON millhand.applies (change_set_id, id);
CREATE INDEX applies_unfinished ON millhand.applies (host_id, project_id, id) WHERE state IN ('begun', 'landed');
COMMENT ON TABLE millhand.applies IS 'The journal of applies: written before a branch moves, so that after a kill it can be told what was done. A change set has at most one that is begun.';
COMMENT ON COLUMN millhand.applies.id IS 'Key.';
COMMENT ON COLUMN millhand.applies.change_set_id IS 'What is applied.';
COMMENT ON COLUMN millhand.applies.session_id IS 'Its session, by value.';
COMMENT ON COLUMN millhand.applies.project_id IS 'Key of the project, by value: names the mirror that has the commit.';
COMMENT ON COLUMN millhand.applies.host_id IS 'The host that applies.';
COMMENT ON COLUMN millhand.applies.who IS 'Who asked for it.';
COMMENT ON COLUMN millhand.applies.remote IS 'Pushed to the project''s remote; false: written to the repository on the host.';
COMMENT ON COLUMN millhand.applies.branch IS 'The branch that moves.';
COMMENT ON COLUMN millhand.applies.old_commit IS 'Where it must be; null: it must not exist.';
COMMENT ON COLUMN millhand.applies.new_commit IS 'Where it moves to.';
COMMENT ON COLUMN millhand.applies.rebases IS 'The session is measured against the new commit afterwards.';
COMMENT ON COLUMN millhand.applies.files IS 'Keys of the pending changes that are taken.';
COMMENT ON COLUMN millhand.applies.state IS 'begun: the branch may or may not have moved; landed: it has, and the session is still to be re-based; done; undone: nothing was changed.';
COMMENT ON COLUMN millhand.applies.problem IS 'Why it was undone, or why the session stays on its old base.';
COMMENT ON COLUMN millhand.applies.created_at IS 'When it was begun.';
COMMENT ON COLUMN millhand.applies.ended_at IS 'When it was done or undone.';

CREATE TABLE millhand.review_comments (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    change_set_id bigint NOT NULL CONSTRAINT review_comments_change_set_id_fkey
                  REFERENCES millhand.change_sets (id) ON DELETE CASCADE,
    session_id    bigint CONSTRAINT review_comments_session_id_fkey REFERENCES millhand.sessions (id) ON DELETE SET NULL,
    path          text NOT NULL,
    line          int CONSTRAINT review_comments_line CHECK (line > 0),
    body          text NOT NULL CONSTRAINT review_comments_body CHECK (body ~ '[^[:space:]]' AND octet_length(body) <= 65536),
    who           text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    task_id       bigint CONSTRAINT review_comments_task_id_fkey REFERENCES millhand.tasks (id) ON DELETE SET NULL
);
CREATE INDEX review_comments_change_set ON millhand.review_comments (change_set_id, id);
CREATE INDEX review_comments_unsent ON millhand.review_comments (session_id, id) WHERE task_id IS NULL;
CREATE INDEX review_comments_task ON millhand.review_comments (task_id) WHERE task_id IS NOT NULL;
COMMENT ON TABLE millhand.review_comments IS 'What reviewers say about files and lines; it becomes the session''s next prompt.';
COMMENT ON COLUMN millhand.review_comments.id IS 'Key; the order in which it was said.';
COMMENT ON COLUMN millhand.review_comments.change_set_id IS 'The change set that was looked at.';
COMMENT ON COLUMN millhand.review_comments.session_id IS 'The session; null when its row was deleted.';
COMMENT ON COLUMN millhand.review_comments.path IS 'The file.';
COMMENT ON COLUMN millhand.review_comments.line IS 'The line, counted in the file as the change set has it; null: the whole file.';
COMMENT ON COLUMN millhand.review_comments.body IS 'What is said.';
COMMENT ON COLUMN millhand.review_comments.who IS 'Who says it.';
COMMENT ON COLUMN millhand.review_comments.created_at IS 'When.';
COMMENT ON COLUMN millhand.review_comments.task_id IS 'The task whose prompt it is in; null: not sent yet.';

CREATE TABLE millhand.review_looks (
    session_id    bigint NOT NULL CONSTRAINT review_looks_session_id_fkey REFERENCES millhand.sessions (id) ON DELETE CASCADE,
    who           text NOT NULL,
    change_set_id bigint NOT NULL CONSTRAINT review_looks_change_set_id_fkey
                  REFERENCES millhand.change_sets (id) ON DELETE CASCADE,
    at            timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT review_looks_pkey PRIMARY KEY (session_id, who)
);
CREATE INDEX review_looks_change_set ON millhand.review_looks (change_set_id);
COMMENT ON TABLE millhand.review_looks IS 'Which change set of a session a person has looked at last, so that the next look can show what has changed since.';
COMMENT ON COLUMN millhand.review_looks.session_id IS 'The session.';
COMMENT ON COLUMN millhand.review_looks.who IS 'Who looked.';
COMMENT ON COLUMN millhand.review_looks.change_set_id IS 'At what.';
COMMENT ON COLUMN millhand.review_looks.at IS 'When.';

CREATE FUNCTION millhand.settle_change_set(change_set bigint) RETURNS void
LANGUAGE sql SET search_path = millhand, pg_catalog AS $$
    UPDATE change_sets c SET state = CASE
            WHEN EXISTS (SELECT 1 FROM pending_changes p WHERE p.change_set_id = c.id AND p.state = 'applied') THEN 'applied'
            ELSE 'rejected' END
    WHERE c.id = change_set AND c.state = 'open'
      AND NOT EXISTS (SELECT 1 FROM pending_changes p WHERE p.change_set_id = c.id AND p.state = 'pending')
$$;
COMMENT ON FUNCTION millhand.settle_change_set(bigint) IS 'Closes a change set when all its files are decided.';

CREATE FUNCTION millhand.reject_changes(change_set bigint, only_paths text[] DEFAULT NULL, by_whom text DEFAULT session_user)
RETURNS bigint
LANGUAGE plpgsql SET search_path = millhand, pg_catalog AS $$
DECLARE
    found change_sets%ROWTYPE;
    rejected bigint;
BEGIN
    SELECT * INTO found FROM change_sets WHERE id = change_set AND state <> 'draft' FOR UPDATE;
    IF found.id IS NULL THEN
        RAISE EXCEPTION 'there is no change set %', change_set USING ERRCODE = 'no_data_found';
    END IF;
    IF found.state <> 'open' THEN
        RAISE EXCEPTION 'change set % is %', change_set, found.state
            USING ERRCODE = 'check_violation', CONSTRAINT = 'change_sets_state', HINT = 'See: millhand review s' || found.session_id;
    END IF;
    IF EXISTS (SELECT 1 FROM applies WHERE change_set_id = change_set AND state = 'begun') THEN
        RAISE EXCEPTION 'change set % is being applied', change_set USING ERRCODE = 'check_violation', CONSTRAINT = 'applies_one_begun';
    END IF;
    UPDATE pending_changes SET state = 'rejected', decided_by = by_whom, decided_at = now()
        WHERE change_set_id = change_set AND state = 'pending' AND (only_paths IS NULL OR path = ANY (only_paths));
    GET DIAGNOSTICS rejected = ROW_COUNT;
    PERFORM settle_change_set(change_set);
    INSERT INTO audit_log (action, task_id, project, details)
        VALUES ('reject', found.task_id, found.project,
                jsonb_build_object('change_set_id', change_set, 'by', by_whom, 'files', rejected, 'paths', only_paths));
    RETURN rejected;
END
$$;
COMMENT ON FUNCTION millhand.reject_changes(bigint, text[], text) IS 'Rejects the pending files of an open change set, or those of these paths; returns how many. The work stays in the session''s worktree.';
