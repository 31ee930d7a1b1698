-- $1 change set, $2 behind this file. The lengths are known without reading what is long.
SELECT c.id, c.patch
FROM (
    SELECT id, sum(octet_length(patch)) OVER (ORDER BY id) - octet_length(patch) AS bytes_before
    FROM (SELECT id, patch FROM millhand.pending_changes WHERE change_set_id = $1 AND id > $2 ORDER BY id LIMIT 500) next
) part
JOIN millhand.pending_changes c ON c.id = part.id
WHERE part.bytes_before < 4 * 1024 * 1024
ORDER BY c.id
