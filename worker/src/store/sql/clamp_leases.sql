-- $1 lease in seconds. No lease is ever given for longer: a later end means that the database's clock was set back since, and
-- would keep the task of a dead worker from everybody.
UPDATE millhand.leases SET expires_at = clock_timestamp() + make_interval(secs => $1::float8)
WHERE expires_at > clock_timestamp() + make_interval(secs => 2 * $1::float8)
