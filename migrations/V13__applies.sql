-- Applies remember what they took; deleting a session and looking for its worktree are index scans.

ALTER TABLE millhand.applies ADD COLUMN tree_id text;
COMMENT ON COLUMN millhand.applies.tree_id IS 'The tree that was merged: what the next apply to the same branch is measured against. Null: unknown.';
CREATE INDEX applies_session ON millhand.applies (session_id, id);

CREATE INDEX pending_changes_of_session ON millhand.pending_changes (session_id);
CREATE INDEX review_comments_session ON millhand.review_comments (session_id);
CREATE INDEX worktrees_last_session ON millhand.worktrees (last_session_id, id);
CREATE INDEX audit_log_roll_back ON millhand.audit_log (at) WHERE action = 'roll_back';
