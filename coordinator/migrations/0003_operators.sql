-- What an operator sees and does of operations, and the reports of reconciliation and janitor.

ALTER TABLE operations ADD COLUMN quiet_since BIGINT;   -- its step has told nothing since then, for longer than the setting allows
ALTER TABLE operations ADD COLUMN abandoned_at BIGINT;  -- an operator gave it up; it stays `stuck`
ALTER TABLE operations ADD COLUMN abandoned_by TEXT;
CREATE INDEX operations_open ON operations (node_id) WHERE state IN ('queued', 'running', 'waiting', 'undoing');

CREATE TABLE reports (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    kind         TEXT NOT NULL CHECK (kind IN ('reconcile', 'janitor')),
    cause        TEXT NOT NULL,             -- timer | start | reconnect | change | request
    requested_by TEXT,                      -- who asked, of `request`
    state        TEXT NOT NULL CHECK (state IN ('asked', 'running', 'done', 'broken')),
    asked_at     BIGINT NOT NULL,
    started_at   BIGINT,
    finished_at  BIGINT,
    report       TEXT NOT NULL DEFAULT '{}' -- JSON: what was looked at, found and done
);
CREATE INDEX reports_kind ON reports (kind, id DESC);
