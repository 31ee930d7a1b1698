-- Notes hosts that are gone and that tasks wait for, once each time they go. As the inbox has them: by the lanes of pending tasks, read
-- by skipping through the claim's index. $1 at most; $2 tasks that are counted.
WITH RECURSIVE lanes (lane) AS (
    (SELECT lane FROM millhand.tasks WHERE state = 'pending' ORDER BY lane LIMIT 1)
    UNION ALL
    SELECT (SELECT t.lane FROM millhand.tasks t WHERE t.state = 'pending' AND t.lane > l.lane ORDER BY t.lane LIMIT 1)
    FROM lanes l WHERE l.lane IS NOT NULL
), away AS (
    SELECT l.lane, split_part(l.lane COLLATE "default", '/', 1) AS host, w.heard_at, w.hostname
    FROM lanes l
    LEFT JOIN LATERAL (
        SELECT max(greatest(w.heartbeat_at, w.stopped_at)) AS heard_at, min(w.hostname) AS hostname
        FROM millhand.workers w WHERE w.host_id = split_part(l.lane, '/', 1)
    ) w ON true
    WHERE l.lane NOT LIKE '*/%' AND (w.heard_at IS NULL OR w.heard_at < now() - interval '10 minutes')
), gone AS (
    SELECT a.host, a.hostname, a.heard_at, p.name AS project, due.tasks
    FROM away a
    JOIN millhand.projects p ON p.id::text = split_part(a.lane COLLATE "default", '/', 2)
    CROSS JOIN LATERAL (
        SELECT count(*) AS tasks
        FROM (SELECT 1 FROM millhand.tasks t WHERE t.state = 'pending' AND t.lane = a.lane AND t.run_at <= now() LIMIT $2) counted
    ) due
    WHERE due.tasks > 0
), told AS (
    SELECT w.id, g.host, min(g.hostname) AS hostname, min(g.heard_at) AS heard_at, sum(g.tasks)::bigint AS tasks,
           'host:' || g.host || ':gone:' || coalesce((extract(epoch FROM min(g.heard_at)) * 1000000)::bigint, 0) AS key
    FROM gone g JOIN millhand.webhooks w
        ON w.enabled AND 'host.gone' = ANY (w.events) AND (w.project IS NULL OR w.project = g.project)
    GROUP BY w.id, g.host
), found AS MATERIALIZED (
    SELECT told.id AS webhook_id, told.key,
           jsonb_build_object('v', 1, 'type', 'host.gone',
               'timestamp', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
               'data', jsonb_build_object(
                   'host', told.host, 'hostname', left(told.hostname, 200),
                   'heard_at', to_char(told.heard_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                   'tasks', least(told.tasks, $2))) AS payload
    FROM told
    WHERE NOT EXISTS (SELECT 1 FROM millhand.deliveries d WHERE d.webhook_id = told.id AND d.dedupe_key = told.key)
    ORDER BY told.key, told.id
    LIMIT $1
), noted AS (
    INSERT INTO millhand.deliveries (webhook_id, dedupe_key, event, payload)
    SELECT webhook_id, key, 'host.gone', payload FROM found
    ON CONFLICT DO NOTHING
    RETURNING id
)
SELECT (SELECT count(*) FROM found), (SELECT count(*) FROM noted)
