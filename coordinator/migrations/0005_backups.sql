-- Backups of apps: one row per archive, from its request to its deletion.
CREATE TABLE backups (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    app_id        TEXT NOT NULL,            -- no foreign key: a backup outlives its app
    hostname      TEXT NOT NULL,            -- the app's
    owner_id      BIGINT NOT NULL,
    host_id       BIGINT NOT NULL,
    node_id       TEXT NOT NULL,            -- where it is made, and where its storage is unless that is shared
    generation    BIGINT NOT NULL,          -- of which container
    vmid          BIGINT NOT NULL,          -- of which container; not given out again while the archive is there
    storage       TEXT NOT NULL,
    shared        BOOLEAN NOT NULL,         -- whether other nodes of the host reach the storage
    volid         TEXT,                     -- null until vzdump has made it
    format        TEXT,
    backup_type   TEXT NOT NULL,            -- snapshot | suspend | stop, as asked
    mode          TEXT NOT NULL,            -- the same, as it is made
    compression   TEXT NOT NULL,            -- zstd | gzip | lzo, as asked
    fallback      TEXT,                     -- why it is not made as asked, in words
    status        TEXT NOT NULL CHECK (status IN ('creating', 'completed', 'failed', 'restoring', 'deleting', 'gone')),
    error_message TEXT,
    size          BIGINT,                   -- bytes; null where the storage does not tell
    checksum      TEXT,                     -- sha256:…; null where there is no file
    volumes       TEXT NOT NULL DEFAULT '[]', -- JSON: of the container, and why some are left out
    log           TEXT NOT NULL DEFAULT '', -- what vzdump said
    duration_s    BIGINT,
    purpose       TEXT NOT NULL,            -- request | schedule | …
    schedule_id   BIGINT,                   -- which schedule asked for it
    protected     BOOLEAN NOT NULL DEFAULT FALSE,  -- it is not deleted, by nobody
    verified_at   BIGINT,                   -- when a restore of it was last proven
    expires_at    BIGINT,                   -- when it may go; null: it stays
    operation_id  TEXT NOT NULL,            -- the latest operation on it
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    completed_at  BIGINT
);
CREATE INDEX backups_app ON backups (app_id, id DESC);
CREATE INDEX backups_owner ON backups (owner_id);
CREATE UNIQUE INDEX backups_archive ON backups (host_id, volid) WHERE volid IS NOT NULL;
