-- Removes a project of which nothing runs. A claim that slips in between the look and the delete loses its lease with
-- its session, so its turn is fenced off and ends.
WITH project AS (
    SELECT p.id, p.name, p.source FROM millhand.projects p WHERE p.name = $1 FOR UPDATE
), idle AS (
    SELECT * FROM project
    WHERE NOT EXISTS (SELECT 1 FROM millhand.leases l JOIN millhand.sessions s ON s.id = l.session_id
                      WHERE s.project = project.name)
), logged AS (
    INSERT INTO millhand.audit_log (action, project, details)
        SELECT 'remove_project', name, jsonb_build_object('source', source) FROM idle
)
DELETE FROM millhand.projects p USING idle WHERE p.id = idle.id RETURNING p.id
