-- Containers of an app besides the one that serves: made to take its place, replaced by it and kept, or made only to try a backup out.
CREATE TABLE side_containers (
    host_id      BIGINT NOT NULL,
    vmid         BIGINT NOT NULL,
    app_id       TEXT NOT NULL,
    node_id      TEXT NOT NULL,
    generation   BIGINT NOT NULL,
    role         TEXT NOT NULL CHECK (role IN ('replacement', 'previous', 'trial')),
    adopted      BOOLEAN NOT NULL,          -- it was there before its app: it is let go, never destroyed
    keep_until   BIGINT,                    -- of a previous one; null: until somebody asks
    note         TEXT,                      -- why it is kept so long, or could not be removed
    operation_id TEXT NOT NULL,             -- the latest operation on it
    created_at   BIGINT NOT NULL,
    PRIMARY KEY (host_id, vmid)
);
CREATE INDEX side_containers_app ON side_containers (app_id, vmid);
