-- For databases of the benchmark only: see Store::watch_ends.
CREATE FUNCTION public.bench_tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('bench_ends', NEW.id || ' ' || NEW.state);
    RETURN NULL;
END
$$;
CREATE TRIGGER bench_ends AFTER UPDATE OF state ON millhand.tasks FOR EACH ROW
    WHEN (NEW.state NOT IN ('pending', 'waiting', 'running')) EXECUTE FUNCTION public.bench_tell();
LISTEN bench_ends
