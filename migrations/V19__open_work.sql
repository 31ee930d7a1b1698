-- What is open in each project is counted from this index alone, however much of it there is.
CREATE INDEX tasks_open ON millhand.tasks (project) WHERE state IN ('pending', 'running', 'blocked', 'waiting');

-- The newest ones that are over, behind however many that wait.
CREATE INDEX tasks_done ON millhand.tasks (id) WHERE state IN ('completed', 'failed', 'blocked', 'cancelled');
-- What runs, however much does not.
CREATE INDEX tasks_running ON millhand.tasks (id) WHERE state = 'running';

COMMENT ON COLUMN millhand.pending_changes.flags IS 'What a reviewer should look at twice, such as executes (runs on the reviewer''s machine), conflict_markers, ignore_rules, lfs, submodule, encoding.';
