-- What is new in tables that only grow, behind these keys: $1 tasks, $2 audit log, $3 asks, $4 applies, $5 comments. $6 at most of each, the newest.
SELECT * FROM (SELECT 'task' AS kind, id, id AS task_id, session_id, NULL::text AS action, project FROM millhand.tasks
    WHERE id > $1 ORDER BY id DESC LIMIT $6) n
UNION ALL
SELECT * FROM (SELECT 'audit', id, task_id, NULL::bigint, action, project FROM millhand.audit_log
    WHERE id > $2 ORDER BY id DESC LIMIT $6) n
UNION ALL
SELECT * FROM (SELECT 'ask', id, task_id, NULL::bigint, NULL::text, NULL::text FROM millhand.asks
    WHERE id > $3 ORDER BY id DESC LIMIT $6) n
UNION ALL
SELECT * FROM (SELECT 'apply', id, NULL::bigint, session_id, NULL::text, NULL::text FROM millhand.applies
    WHERE id > $4 ORDER BY id DESC LIMIT $6) n
UNION ALL
SELECT * FROM (SELECT 'comment', id, NULL::bigint, session_id, NULL::text, NULL::text FROM millhand.review_comments
    WHERE id > $5 ORDER BY id DESC LIMIT $6) n
