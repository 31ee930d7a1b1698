-- Notes what has come into the inbox as deliveries. $1 the earliest that any webhook may want, $2 seconds of overlap, $3 at most.
-- Found again, an item has the same key. Failed and blocked tasks are read past the view, which counts what waits behind each; hosts that
-- are gone are noted by note_hosts.sql, as what waits for one may be a great deal.
WITH found AS MATERIALIZED (
    SELECT w.id AS webhook_id, item.key, item.event, item.task_id,
           jsonb_build_object('v', 1, 'type', item.event,
               'timestamp', to_char(item.since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
               'data', jsonb_build_object(
                   'task', 't' || item.task_id, 'session', 's' || item.session_id, 'project', item.project,
                   'attempt', item.attempt, 'state', item.state, 'reason', item.error_class,
                   'message', left(item.error_message, 1000))
               || jsonb_strip_nulls(jsonb_build_object('ask', 'a' || item.ask_id,
                   'deadline', to_char(item.deadline_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')))) AS payload
    FROM (
        SELECT t.id AS task_id, t.session_id, t.project, t.state, t.error_class, t.error_message, t.finished_at AS since,
               t.last_attempt AS attempt, 'task.' || t.state AS event,
               'task:' || t.id || ':attempt:' || t.last_attempt || ':' || t.state
                   || ':' || (extract(epoch FROM t.finished_at) * 1000000)::bigint AS key,
               NULL::bigint AS ask_id, NULL::timestamptz AS deadline_at
        FROM millhand.tasks t
        WHERE t.state IN ('failed', 'blocked') AND t.dismissed_at IS NULL AND t.finished_at >= $1::timestamptz
        UNION ALL
        SELECT i.task_id, i.session_id, i.project, i.state, i.error_class, i.error_message, i.since,
               t.last_attempt, 'task.needs_you',
               'task:' || i.task_id || ':attempt:' || t.last_attempt || ':' || coalesce(i.error_class, i.state)
                   || ':' || coalesce(i.ask_id, (extract(epoch FROM i.since) * 1000000)::bigint),
               i.ask_id, i.deadline_at
        FROM millhand.inbox i JOIN millhand.tasks t ON t.id = i.task_id
        WHERE i.since >= $1::timestamptz AND i.state NOT IN ('failed', 'blocked') AND i.error_class IS DISTINCT FROM 'host_gone'
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
