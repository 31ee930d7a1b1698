-- Notes completed tasks, and changes that are ready for review, as deliveries. Parameters as in note_inbox.sql.
WITH found AS MATERIALIZED (
    SELECT w.id AS webhook_id, item.key, item.event, item.task_id,
           jsonb_build_object('v', 1, 'type', item.event,
               'timestamp', to_char(item.since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'data', item.data) AS payload
    FROM (
        SELECT t.id AS task_id, t.project, t.finished_at AS since, kind.event, kind.data,
               'task:' || t.id || ':attempt:' || t.last_attempt || ':' || kind.word AS key
        FROM millhand.tasks t
        CROSS JOIN LATERAL (
            SELECT jsonb_build_object('task', 't' || t.id, 'session', 's' || t.session_id, 'project', t.project,
                                      'attempt', t.last_attempt) AS about
        ) ids
        CROSS JOIN LATERAL (
            SELECT 'task.completed' AS event, 'completed' AS word,
                   ids.about || jsonb_build_object('state', t.state, 'tokens', t.tokens, 'cost_usd', t.cost_usd::text) AS data
            UNION ALL
            SELECT 'change_set.ready', 'change_set',
                   ids.about || jsonb_build_object('files', c.files, 'additions', c.additions, 'deletions', c.deletions)
            FROM millhand.change_sets c JOIN millhand.attempts a ON a.id = c.attempt_id AND a.number = t.last_attempt
            WHERE c.task_id = t.id AND c.files > 0 AND c.state <> 'draft'
        ) kind
        WHERE t.state = 'completed' AND t.finished_at >= $1::timestamptz
    ) item
    JOIN millhand.webhooks w ON w.enabled AND item.event = ANY (w.events) AND (w.project IS NULL OR w.project = item.project)
        AND item.since >= greatest(w.enabled_at, least(w.watermark, clock_timestamp()) - make_interval(secs => $2))
    WHERE NOT EXISTS (SELECT 1 FROM millhand.deliveries d WHERE d.webhook_id = w.id AND d.dedupe_key = item.key)
    ORDER BY item.since, item.key, w.id
    LIMIT $3
), noted AS (
    INSERT INTO millhand.deliveries (webhook_id, dedupe_key, event, task_id, payload)
    SELECT webhook_id, key, event, task_id, payload FROM found
    ON CONFLICT DO NOTHING
    RETURNING id
)
SELECT (SELECT count(*) FROM found), (SELECT count(*) FROM noted)
