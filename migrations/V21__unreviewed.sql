-- A project with changes that nobody has reviewed is not deleted by mistake, whoever deletes it.
CREATE FUNCTION millhand.keep_unreviewed() RETURNS trigger
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('millhand.force', true) IS DISTINCT FROM 'on' AND EXISTS (
        SELECT 1 FROM sessions s JOIN pending_changes p ON p.session_id = s.id WHERE s.project = OLD.name AND p.state = 'pending')
    THEN
        RAISE EXCEPTION 'project "%" has changes that nobody has reviewed; they would be lost', OLD.name
            USING ERRCODE = 'restrict_violation', HINT = 'Apply or reject them (millhand review), or: SET millhand.force = ''on''.';
    END IF;
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION millhand.keep_unreviewed() IS 'Refuses to delete a project with changes that nobody has reviewed, unless millhand.force is on.';
CREATE TRIGGER projects_keep_unreviewed BEFORE DELETE ON millhand.projects
    FOR EACH ROW EXECUTE FUNCTION millhand.keep_unreviewed();
