-- How much is open in projects. It is few beside what is finished: each part is read from an index that holds little else. Those that run are few, and among
-- all that are open: they are taken off instead of told apart.
SELECT project, sum(open_tasks)::bigint AS open_tasks, sum(running_tasks)::bigint AS running_tasks,
       sum(pending_changes)::bigint AS pending_changes
FROM (
    SELECT project, count(*) AS open_tasks, 0 AS running_tasks, 0 AS pending_changes
    FROM millhand.tasks WHERE state IN ('pending', 'running', 'blocked', 'waiting') AND ($1::text IS NULL OR project = $1) GROUP BY project
    UNION ALL
    SELECT project, -count(*), count(*), 0 FROM millhand.tasks WHERE state = 'running' AND ($1::text IS NULL OR project = $1) GROUP BY project
    UNION ALL
    SELECT s.project, 0, 0, sum(c.files)
    FROM (SELECT session_id, count(*) AS files FROM millhand.pending_changes WHERE state = 'pending' GROUP BY session_id) c
    JOIN millhand.sessions s ON s.id = c.session_id WHERE $1::text IS NULL OR s.project = $1 GROUP BY s.project
) parts
GROUP BY project
