-- Webhooks with what is under way. $1 one of them, or null.
SELECT w.id, w.url, w.events, w.project, w.allow_private, w.enabled, w.disabled_reason, w.created_at,
       (SELECT count(*) FROM millhand.deliveries d WHERE d.webhook_id = w.id AND d.state = 'pending') AS pending,
       (SELECT count(*) FROM millhand.deliveries d WHERE d.webhook_id = w.id AND d.state = 'dead') AS dead
FROM millhand.webhooks w
WHERE $1::bigint IS NULL OR w.id = $1
ORDER BY w.id
