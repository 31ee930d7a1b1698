-- Workers heard of within the time that a lease lives, and what they run.
SELECT w.id, w.host_id, w.hostname, w.version, w.capacity, w.draining, w.started_at, w.heartbeat_at, w.counters,
       (SELECT count(*) FROM millhand.leases l WHERE l.worker_id = w.id) AS running
FROM millhand.workers w
WHERE w.stopped_at IS NULL AND w.heartbeat_at > now() - make_interval(secs => $1)
ORDER BY w.started_at
