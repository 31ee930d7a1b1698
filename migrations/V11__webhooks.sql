-- Webhooks: who is told of new items in the inbox, and the outbox from which they are posted.

CREATE INDEX tasks_completed ON millhand.tasks (finished_at) WHERE state = 'completed';

CREATE TABLE millhand.webhooks (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    url             text NOT NULL CONSTRAINT webhooks_url_form CHECK (url ~ '^https?://' AND octet_length(url) <= 2048),
    secret          text NOT NULL CONSTRAINT webhooks_secret_form CHECK (secret ~ '^whsec_[A-Za-z0-9+/]{32,86}={0,2}$'),
    events          text[] NOT NULL DEFAULT ARRAY['task.failed', 'task.blocked', 'task.needs_you', 'host.gone']
                    CONSTRAINT webhooks_events CHECK (cardinality(events) > 0 AND events <@ ARRAY[
                        'task.failed', 'task.blocked', 'task.needs_you', 'host.gone', 'task.completed', 'change_set.ready']),
    project         text CONSTRAINT webhooks_project_fkey
                    REFERENCES millhand.projects (name) ON UPDATE CASCADE ON DELETE CASCADE,
    allow_private   boolean NOT NULL DEFAULT false,
    enabled         boolean NOT NULL DEFAULT true,
    disabled_reason text,
    enabled_at      timestamptz NOT NULL DEFAULT now(),
    watermark       timestamptz NOT NULL DEFAULT now(),
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT webhooks_url_key UNIQUE NULLS NOT DISTINCT (url, project),
    CONSTRAINT webhooks_encrypted CHECK (allow_private OR url LIKE 'https://%')
);
COMMENT ON TABLE millhand.webhooks IS 'Who is told of what needs a person: each new item is posted to the URL, signed. See deliveries.';
COMMENT ON COLUMN millhand.webhooks.id IS 'Shown as wh3.';
COMMENT ON COLUMN millhand.webhooks.url IS 'Where to; https, unless allow_private. It may hold a secret of the receiver''s, and is not logged.';
COMMENT ON COLUMN millhand.webhooks.secret IS 'whsec_ and the key in base64, with which each post is signed (Standard Webhooks, HMAC-SHA256).';
COMMENT ON COLUMN millhand.webhooks.events IS 'Kinds that it is told: task.failed, task.blocked, task.needs_you (whatever else is in the inbox), host.gone; if asked for, task.completed and change_set.ready.';
COMMENT ON COLUMN millhand.webhooks.project IS 'Only of this project; null: of all.';
COMMENT ON COLUMN millhand.webhooks.allow_private IS 'It may be posted to addresses of this machine or a private network, and without TLS.';
COMMENT ON COLUMN millhand.webhooks.enabled IS 'Off: nothing new is noted for it, and what is pending waits.';
COMMENT ON COLUMN millhand.webhooks.disabled_reason IS 'Why it is off, where the receiver asked for it.';
COMMENT ON COLUMN millhand.webhooks.enabled_at IS 'What came to rest before is not told.';
COMMENT ON COLUMN millhand.webhooks.watermark IS 'What came to rest well before has been noted as a delivery; moved by the notifier.';
COMMENT ON COLUMN millhand.webhooks.created_at IS 'When it was registered.';

CREATE TABLE millhand.deliveries (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    webhook_id  bigint NOT NULL CONSTRAINT deliveries_webhook_id_fkey REFERENCES millhand.webhooks (id) ON DELETE CASCADE,
    dedupe_key  text NOT NULL,
    event       text NOT NULL,
    task_id     bigint,
    payload     jsonb NOT NULL,
    state       text NOT NULL DEFAULT 'pending' CONSTRAINT deliveries_state CHECK (state IN ('pending', 'delivered', 'dead')),
    tries       int NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL DEFAULT now(),
    last_status int,
    last_error  text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    tried_at    timestamptz,
    ended_at    timestamptz,
    CONSTRAINT deliveries_key UNIQUE (webhook_id, dedupe_key)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX deliveries_due ON millhand.deliveries (webhook_id, next_try_at) WHERE state = 'pending';
CREATE INDEX deliveries_dead ON millhand.deliveries (webhook_id, id) WHERE state = 'dead';
CREATE INDEX deliveries_ended ON millhand.deliveries (ended_at) WHERE state <> 'pending';
COMMENT ON TABLE millhand.deliveries IS 'The outbox of the webhooks: one row per webhook and item, posted at least once. Kept for retention.deliveries_days after its end.';
COMMENT ON COLUMN millhand.deliveries.id IS 'Shown as d17.';
COMMENT ON COLUMN millhand.deliveries.webhook_id IS 'To which webhook.';
COMMENT ON COLUMN millhand.deliveries.dedupe_key IS 'What it tells, the same however often it is found; sent as webhook-id, so that receivers can drop a second one.';
COMMENT ON COLUMN millhand.deliveries.event IS 'Kind, as in webhooks.events; webhook.test for a trial.';
COMMENT ON COLUMN millhand.deliveries.task_id IS 'The task that it is about; no foreign key, it may be gone by then.';
COMMENT ON COLUMN millhand.deliveries.payload IS 'What is posted; the same at every try.';
COMMENT ON COLUMN millhand.deliveries.state IS 'pending: to be posted; delivered: the receiver answered with a 2xx; dead: given up, until it is retried.';
COMMENT ON COLUMN millhand.deliveries.tries IS 'Posts begun. With the id, the token of the one who is at it.';
COMMENT ON COLUMN millhand.deliveries.next_try_at IS 'Not posted before; while a post is under way, when another worker may take it up.';
COMMENT ON COLUMN millhand.deliveries.last_status IS 'HTTP status of the last answer; null: there was none.';
COMMENT ON COLUMN millhand.deliveries.last_error IS 'What was wrong with the last post.';
COMMENT ON COLUMN millhand.deliveries.created_at IS 'When the item was noted.';
COMMENT ON COLUMN millhand.deliveries.tried_at IS 'When the last post began.';
COMMENT ON COLUMN millhand.deliveries.ended_at IS 'When it was delivered, or given up.';
