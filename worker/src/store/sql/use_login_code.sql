-- Logs a browser in with a code, which is used up by it: of two at once, the second finds it used. $1 hash of the code, $2 hash of the browser's
-- secret, $3 seconds for which the browser stays logged in.
WITH used AS (
    UPDATE millhand.login_codes SET used_at = clock_timestamp()
    WHERE sha256 = $1 AND used_at IS NULL AND expires_at > clock_timestamp()
    RETURNING name, scopes, created_by
), gone AS (
    DELETE FROM millhand.api_tokens WHERE kind = 'browser' AND expires_at < now() - interval '30 days' AND EXISTS (SELECT 1 FROM used)
)
INSERT INTO millhand.api_tokens (kind, name, sha256, scopes, created_by, expires_at, last_used_at)
SELECT 'browser', name, $2, scopes, created_by, clock_timestamp() + make_interval(secs => $3), now() FROM used
RETURNING id, name, scopes
