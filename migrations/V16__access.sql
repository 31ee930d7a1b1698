-- Access: tokens of the HTTP API, browsers that were logged in, and functions that roles of little privilege may call.

CREATE TABLE millhand.api_tokens (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text NOT NULL CONSTRAINT api_tokens_kind CHECK (kind IN ('token', 'browser')),
    name         text NOT NULL CONSTRAINT api_tokens_name_form CHECK (name ~ '^[^[:cntrl:]]{1,100}$'),
    sha256       bytea NOT NULL CONSTRAINT api_tokens_sha256_key UNIQUE
                 CONSTRAINT api_tokens_sha256_size CHECK (octet_length(sha256) = 32),
    scopes       text[] NOT NULL CONSTRAINT api_tokens_scopes
                 CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['enqueue', 'read', 'review', 'admin']),
    created_by   text NOT NULL DEFAULT session_user,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz,
    CONSTRAINT api_tokens_browser_expires CHECK (kind = 'token' OR expires_at IS NOT NULL)
);
CREATE UNIQUE INDEX api_tokens_name ON millhand.api_tokens (name) WHERE kind = 'token' AND revoked_at IS NULL;
COMMENT ON TABLE millhand.api_tokens IS 'Who may use the HTTP API: tokens of programs, and browsers that were logged in. What they show is nowhere: only its hash is kept.';
COMMENT ON COLUMN millhand.api_tokens.id IS 'Shown as tok3.';
COMMENT ON COLUMN millhand.api_tokens.kind IS 'token: shown in the header Authorization; browser: a cookie, got with a login code.';
COMMENT ON COLUMN millhand.api_tokens.name IS 'What people call it; of two tokens in use, none has the name of the other.';
COMMENT ON COLUMN millhand.api_tokens.sha256 IS 'SHA-256 of the secret, which has 256 random bits, so that nobody finds it by trying.';
COMMENT ON COLUMN millhand.api_tokens.scopes IS 'What it may do: enqueue, read, review (and read), admin (everything).';
COMMENT ON COLUMN millhand.api_tokens.created_by IS 'Database role that made it.';
COMMENT ON COLUMN millhand.api_tokens.created_at IS 'When it was made.';
COMMENT ON COLUMN millhand.api_tokens.expires_at IS 'From when on it is worth nothing; null: never.';
COMMENT ON COLUMN millhand.api_tokens.last_used_at IS 'When it was last used, to the minute or so.';
COMMENT ON COLUMN millhand.api_tokens.revoked_at IS 'When it was taken back.';

CREATE TABLE millhand.login_codes (
    sha256     bytea PRIMARY KEY CONSTRAINT login_codes_sha256_size CHECK (octet_length(sha256) = 32),
    name       text NOT NULL CONSTRAINT login_codes_name_form CHECK (name ~ '^[^[:cntrl:]]{1,100}$'),
    scopes     text[] NOT NULL CONSTRAINT login_codes_scopes
               CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['enqueue', 'read', 'review', 'admin']),
    created_by text NOT NULL DEFAULT session_user,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at    timestamptz
);
COMMENT ON TABLE millhand.login_codes IS 'Links that log one browser in, once. Rows go a day after their end.';
COMMENT ON COLUMN millhand.login_codes.sha256 IS 'SHA-256 of the code in the link.';
COMMENT ON COLUMN millhand.login_codes.name IS 'Name that the browser gets.';
COMMENT ON COLUMN millhand.login_codes.scopes IS 'What the browser may do.';
COMMENT ON COLUMN millhand.login_codes.created_by IS 'Database role that made it.';
COMMENT ON COLUMN millhand.login_codes.created_at IS 'When it was made.';
COMMENT ON COLUMN millhand.login_codes.expires_at IS 'From when on it is worth nothing.';
COMMENT ON COLUMN millhand.login_codes.used_at IS 'When a browser was logged in with it.';

CREATE FUNCTION millhand.note_token() RETURNS trigger
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
DECLARE
    its api_tokens%ROWTYPE;
BEGIN
    IF TG_OP = 'DELETE' THEN
        its := OLD;
    ELSE
        its := NEW;
    END IF;
    INSERT INTO audit_log (action, details) VALUES (
        CASE WHEN TG_OP = 'INSERT' THEN CASE its.kind WHEN 'browser' THEN 'login' ELSE 'add_token' END
             WHEN TG_OP = 'UPDATE' AND its.revoked_at IS NULL THEN 'change_token' ELSE 'remove_token' END,
        jsonb_build_object('token', its.id, 'kind', its.kind, 'name', its.name, 'scopes', its.scopes, 'expires_at', its.expires_at));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION millhand.note_token() IS 'Notes in the audit log who made, changed or took back a token, and which browser was logged in.';
CREATE TRIGGER api_tokens_note AFTER INSERT ON millhand.api_tokens FOR EACH ROW EXECUTE FUNCTION millhand.note_token();
CREATE TRIGGER api_tokens_note_change
    AFTER UPDATE OF kind, name, sha256, scopes, expires_at, revoked_at ON millhand.api_tokens
    FOR EACH ROW WHEN ((OLD.kind, OLD.name, OLD.sha256, OLD.scopes, OLD.expires_at, OLD.revoked_at)
        IS DISTINCT FROM (NEW.kind, NEW.name, NEW.sha256, NEW.scopes, NEW.expires_at, NEW.revoked_at))
    EXECUTE FUNCTION millhand.note_token();
CREATE TRIGGER api_tokens_note_removal AFTER DELETE ON millhand.api_tokens
    FOR EACH ROW WHEN (OLD.revoked_at IS NULL AND (OLD.expires_at IS NULL OR OLD.expires_at > now()))
    EXECUTE FUNCTION millhand.note_token();

CREATE FUNCTION millhand.note_webhook() RETURNS trigger
LANGUAGE plpgsql SET search_path = millhand, pg_catalog, pg_temp AS $$
DECLARE
    its webhooks%ROWTYPE;
BEGIN
    IF TG_OP = 'DELETE' THEN
        its := OLD;
    ELSE
        its := NEW;
    END IF;
    -- Not the whole URL, nor the key: both may be secrets.
    INSERT INTO audit_log (action, project, details) VALUES (
        CASE TG_OP WHEN 'INSERT' THEN 'add_webhook' WHEN 'UPDATE' THEN 'change_webhook' ELSE 'remove_webhook' END, its.project,
        jsonb_build_object('webhook', its.id, 'host', substring(its.url from '^https?://(?:[^/?#@]*@)?([^/?#@]*)'), 'events', its.events,
            'allow_private', its.allow_private, 'enabled', its.enabled));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION millhand.note_webhook() IS 'Notes in the audit log who registered, changed or removed a webhook.';
CREATE TRIGGER webhooks_note AFTER INSERT OR DELETE ON millhand.webhooks FOR EACH ROW EXECUTE FUNCTION millhand.note_webhook();
CREATE TRIGGER webhooks_note_change
    AFTER UPDATE OF url, secret, events, project, allow_private, enabled ON millhand.webhooks
    FOR EACH ROW WHEN ((OLD.url, OLD.secret, OLD.events, OLD.project, OLD.allow_private, OLD.enabled)
        IS DISTINCT FROM (NEW.url, NEW.secret, NEW.events, NEW.project, NEW.allow_private, NEW.enabled))
    EXECUTE FUNCTION millhand.note_webhook();

CREATE FUNCTION millhand.drop_event_day(of_day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = millhand, pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    its_name text := 'turn_events_' || to_char(of_day, 'YYYYMMDD');
BEGIN
    IF to_regclass(format('millhand.%I', its_name)) IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE millhand.%I', its_name);
    RETURN true;
END
$$;
COMMENT ON FUNCTION millhand.drop_event_day(date) IS 'Drops the table of a day''s transcripts; an error where somebody reads it for longer than a moment. Returns false if there is none. Workers call it when retention.events_days are over.';
REVOKE EXECUTE ON FUNCTION millhand.drop_event_day(date) FROM PUBLIC;

CREATE FUNCTION millhand.forget_roll_back(entry bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = millhand, pg_catalog, pg_temp AS $$
    DELETE FROM audit_log WHERE id = entry AND action = 'roll_back'
$$;
COMMENT ON FUNCTION millhand.forget_roll_back(bigint) IS 'Takes an entry back that was made ahead of a roll-back which did not happen. Nothing else goes from the audit log.';
REVOKE EXECUTE ON FUNCTION millhand.forget_roll_back(bigint) FROM PUBLIC;

-- What roles of little privilege may do (ops/roles.sql), they do by these, with the rights of the owner and no others: the rules of the
-- queue hold for them too.
ALTER FUNCTION millhand.fill_task() SECURITY DEFINER;
ALTER FUNCTION millhand.announce_tasks() SECURITY DEFINER;
ALTER FUNCTION millhand.retry_task(bigint, text, text, text) SECURITY DEFINER;
ALTER FUNCTION millhand.cancel_task(bigint) SECURITY DEFINER;
ALTER FUNCTION millhand.dismiss_task(bigint) SECURITY DEFINER;
ALTER FUNCTION millhand.answer_ask(bigint, text, text, jsonb) SECURITY DEFINER;
ALTER FUNCTION millhand.reject_changes(bigint, text[], text) SECURITY DEFINER;
ALTER FUNCTION millhand.make_event_day(date) SECURITY DEFINER;

-- Tables of a caller's own come last, and are never taken for ours; unless it is named, pg_temp comes first. Those that the above call included.
DO $$
DECLARE
    its record;
BEGIN
    FOR its IN SELECT oid::regprocedure AS name FROM pg_proc
               WHERE pronamespace = 'millhand'::regnamespace AND 'search_path=millhand, pg_catalog' = ANY (proconfig) ORDER BY oid LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = millhand, pg_catalog, pg_temp', its.name);
    END LOOP;
END
$$;

COMMENT ON COLUMN millhand.audit_log.who IS 'Database role that did it; for a call of the HTTP API, the name of the token or browser.';
COMMENT ON COLUMN millhand.audit_log.action IS 'What was done: retry, cancel, dismiss, add_project, remove_project, close_session, reopen_session, restore_worktree, apply, reject, roll_back, rehome_session, answer, set_budget, clear_budget, add_webhook, change_webhook, remove_webhook, add_token, change_token, remove_token, login, api_call.';
