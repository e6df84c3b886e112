-- The registry. Times are milliseconds since 1970 (UTC). JSON is text. Uuids are lower-case text.
-- SQL that PostgreSQL understands too, wherever SQLite allows it.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE settings (
    key        TEXT PRIMARY KEY,          -- resources | network | features | operations
    value      TEXT NOT NULL,             -- JSON object
    updated_at BIGINT NOT NULL,
    updated_by BIGINT
);

CREATE TABLE users (
    id              INTEGER PRIMARY KEY,
    username        TEXT NOT NULL UNIQUE,
    email           TEXT,
    password_hash   TEXT NOT NULL,        -- argon2id, PHC string
    role            TEXT NOT NULL CHECK (role IN ('admin', 'operator', 'user', 'viewer')),
    is_active       BOOLEAN NOT NULL DEFAULT TRUE,
    first_name      TEXT NOT NULL DEFAULT '',
    last_name       TEXT NOT NULL DEFAULT '',
    bio             TEXT NOT NULL DEFAULT '',
    avatar          TEXT,
    preferred_theme TEXT NOT NULL DEFAULT 'rack_proximity',
    last_login      BIGINT,
    date_joined     BIGINT NOT NULL,
    max_apps        BIGINT,
    max_cpu_cores   BIGINT,
    max_memory_mb   BIGINT,
    max_disk_gb     BIGINT,
    max_backups     BIGINT
);
CREATE UNIQUE INDEX users_email ON users (email) WHERE email IS NOT NULL;

CREATE TABLE sessions (
    id                   TEXT PRIMARY KEY,  -- claim `sid`
    user_id              BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at           BIGINT NOT NULL,
    expires_at           BIGINT NOT NULL,
    ended_at             BIGINT,
    refresh_jti          TEXT NOT NULL,     -- the only refresh token that is good
    previous_refresh_jti TEXT,              -- good for 10 s after `rotated_at`
    rotated_at           BIGINT
);
CREATE INDEX sessions_user ON sessions (user_id);

CREATE TABLE audit (
    id         INTEGER PRIMARY KEY,
    at         BIGINT NOT NULL,
    actor      TEXT NOT NULL,               -- user name, node id, 'anonymous', 'command line', 'coordinator'
    action     TEXT NOT NULL,               -- e.g. 'join_token.redeem'
    target     TEXT,
    remote     TEXT,
    outcome    TEXT NOT NULL,               -- ok | refused | failed
    detail     TEXT,
    count      BIGINT NOT NULL DEFAULT 1,   -- repeated refusals are one row
    request_id TEXT
);

CREATE TABLE hosts (
    id           INTEGER PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE,
    host         TEXT NOT NULL DEFAULT '',
    port         BIGINT NOT NULL DEFAULT 8006,
    fingerprint  BLOB UNIQUE,               -- SHA-256 of the public key of pve-root-ca.pem; null until its first node enrols
    is_active    BOOLEAN NOT NULL DEFAULT TRUE,
    is_default   BOOLEAN NOT NULL DEFAULT FALSE,
    last_seen    BIGINT,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    created_by   BIGINT,
    bridge       TEXT,                      -- network of its apps; null: the default settings
    vlan         BIGINT,
    address_mode TEXT NOT NULL DEFAULT 'dhcp' CHECK (address_mode IN ('dhcp', 'static')),
    subnet       TEXT,                      -- CIDR
    pool_first   TEXT,
    pool_last    TEXT,
    exclusions   TEXT NOT NULL DEFAULT '[]',
    gateway      TEXT,
    dns          TEXT NOT NULL DEFAULT '[]'
);

CREATE TABLE nodes (
    id            TEXT PRIMARY KEY,         -- NodeId, CN of the certificate
    host_id       BIGINT NOT NULL REFERENCES hosts (id),
    name          TEXT NOT NULL,
    admission     TEXT NOT NULL DEFAULT 'enrolled' CHECK (admission IN ('enrolled', 'draining', 'revoked')),
    address       TEXT,
    agent_version TEXT,
    facts         TEXT,                     -- JSON of protocol::observed::NodeFacts
    last_seen     BIGINT,
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    UNIQUE (host_id, name)
);

CREATE TABLE certificates (
    serial      TEXT PRIMARY KEY,           -- hex
    node_id     TEXT NOT NULL REFERENCES nodes (id),
    spki_sha256 BLOB NOT NULL,
    der         BLOB NOT NULL,
    not_before  BIGINT NOT NULL,
    not_after   BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    revoked_at  BIGINT,
    revoked_why TEXT
);
CREATE INDEX certificates_node ON certificates (node_id);

CREATE TABLE join_tokens (
    id           TEXT PRIMARY KEY,
    secret_hash  BLOB NOT NULL,             -- HMAC-SHA-256 under a key of the coordinator's
    host_id      BIGINT REFERENCES hosts (id),
    node_name    TEXT,
    allowed_cidr TEXT,
    created_by   TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    revoked_at   BIGINT,
    spent_at     BIGINT,
    spent_spki   BLOB,                      -- the key that redeemed it: the same key gets the same certificate
    spent_serial TEXT
);

CREATE TABLE apps (
    id               TEXT PRIMARY KEY,
    catalog_id       TEXT NOT NULL,
    name             TEXT NOT NULL,
    hostname         TEXT NOT NULL UNIQUE,
    description      TEXT NOT NULL DEFAULT '',
    status           TEXT NOT NULL,
    status_reason    TEXT,                  -- why `error`, in words
    host_id          BIGINT NOT NULL REFERENCES hosts (id),
    node_id          TEXT NOT NULL REFERENCES nodes (id),
    owner_id         BIGINT NOT NULL REFERENCES users (id),
    generation       BIGINT NOT NULL DEFAULT 1,
    vmid             BIGINT,                -- as reserved
    vmid_confirmed   BOOLEAN NOT NULL DEFAULT FALSE,  -- `lxc_id` is null until then
    public_port      BIGINT,
    internal_port    BIGINT NOT NULL,
    ip_address       TEXT,
    published        TEXT,                  -- the node's address at which the public port answers
    mac              TEXT,
    adopted          BOOLEAN NOT NULL DEFAULT FALSE,
    config           TEXT NOT NULL,         -- JSON, as asked
    resources        TEXT NOT NULL,         -- JSON, as resolved: cpu_cores, memory_mb, disk_gb, swap_mb, storage
    environment      TEXT NOT NULL,         -- JSON, without secrets
    ports            TEXT NOT NULL,         -- JSON {name: port}
    volumes          TEXT NOT NULL,         -- JSON
    labels           TEXT NOT NULL DEFAULT '[]',
    placement        TEXT,                  -- JSON: why this node
    created_at       BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL,
    state_changed_at BIGINT NOT NULL
);
CREATE INDEX apps_created ON apps (created_at DESC);
CREATE INDEX apps_owner ON apps (owner_id, created_at DESC);
CREATE INDEX apps_node ON apps (node_id);
CREATE INDEX apps_host ON apps (host_id);

-- Secrets of an app, encrypted (AES-256-GCM, key in a file of its own).
CREATE TABLE app_secrets (
    app_id TEXT NOT NULL,
    name   TEXT NOT NULL,
    sealed BLOB NOT NULL,                   -- nonce, ciphertext, tag
    PRIMARY KEY (app_id, name)
);

-- Reservations: whoever inserts the row owns it. Freed only when the node has proven that nothing is left.
CREATE TABLE vmid_reservations (
    host_id    BIGINT NOT NULL,
    vmid       BIGINT NOT NULL,
    app_id     TEXT NOT NULL,
    generation BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (host_id, vmid)
);
CREATE INDEX vmid_reservations_app ON vmid_reservations (app_id);
CREATE TABLE port_reservations (
    host_id    BIGINT NOT NULL,
    port       BIGINT NOT NULL,
    app_id     TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (host_id, port)
);
CREATE INDEX port_reservations_app ON port_reservations (app_id);
CREATE TABLE address_reservations (
    host_id    BIGINT NOT NULL,
    address    TEXT NOT NULL,
    app_id     TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (host_id, address)
);
CREATE INDEX address_reservations_app ON address_reservations (app_id);
-- What a node said is taken by a stranger; not offered again until it is older than a day.
CREATE TABLE refused_choices (
    host_id BIGINT NOT NULL,
    kind    TEXT NOT NULL CHECK (kind IN ('vmid', 'port', 'address')),
    value   TEXT NOT NULL,
    at      BIGINT NOT NULL,
    PRIMARY KEY (host_id, kind, value)
);

CREATE TABLE operations (
    id               TEXT PRIMARY KEY,
    kind             TEXT NOT NULL,         -- deploy | start | stop | restart | delete | …
    app_id           TEXT NOT NULL,         -- no foreign key: an operation outlives its app
    hostname         TEXT NOT NULL,
    node_id          TEXT,
    owner_id         BIGINT NOT NULL,
    state            TEXT NOT NULL CHECK (state IN ('queued', 'running', 'waiting', 'undoing', 'done', 'undone', 'stuck')),
    reason           TEXT,                  -- of waiting, undone, stuck
    action           TEXT,                  -- of stuck: what the operator does
    error            TEXT,                  -- JSON fault
    params           TEXT NOT NULL,         -- JSON, per kind; no secrets
    data             TEXT NOT NULL DEFAULT '{}', -- JSON, what steps hand to later ones
    requested_by     TEXT NOT NULL,
    request_id       TEXT,
    cancel_requested BOOLEAN NOT NULL DEFAULT FALSE,
    created_at       BIGINT NOT NULL,
    started_at       BIGINT,
    updated_at       BIGINT NOT NULL,
    finished_at      BIGINT
);
CREATE INDEX operations_app ON operations (app_id, created_at DESC);
CREATE INDEX operations_created ON operations (created_at DESC);
-- One operation at a time per app; a deletion may be queued behind it.
CREATE UNIQUE INDEX operations_lease ON operations (app_id) WHERE state IN ('running', 'waiting', 'undoing');

CREATE TABLE operation_steps (
    operation_id TEXT NOT NULL REFERENCES operations (id) ON DELETE CASCADE,
    position     BIGINT NOT NULL,
    name         TEXT NOT NULL,
    title        TEXT NOT NULL,             -- in words
    state        TEXT NOT NULL CHECK (state IN ('pending', 'running', 'waiting', 'done', 'failed', 'undoing', 'undone', 'skipped')),
    attempt      BIGINT NOT NULL DEFAULT 0,
    undo_attempt BIGINT NOT NULL DEFAULT 0,
    tries        BIGINT NOT NULL DEFAULT 0, -- those that count against the limit
    retry_at     BIGINT,
    reason       TEXT,
    error        TEXT,
    started_at   BIGINT,
    finished_at  BIGINT,
    PRIMARY KEY (operation_id, position)
);

CREATE TABLE deployment_logs (
    id           INTEGER PRIMARY KEY,
    app_id       TEXT NOT NULL,
    operation_id TEXT,
    at           BIGINT NOT NULL,
    level        TEXT NOT NULL CHECK (level IN ('info', 'warning', 'error')),
    step         TEXT NOT NULL,
    message      TEXT NOT NULL
);
CREATE INDEX deployment_logs_app ON deployment_logs (app_id, id DESC);

CREATE TABLE events (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    at           BIGINT NOT NULL,
    kind         TEXT NOT NULL,             -- operation | app | node
    app_id       TEXT,
    operation_id TEXT,
    owner_id     BIGINT,                    -- who may see it besides operators
    data         TEXT NOT NULL              -- JSON
);
CREATE INDEX events_operation ON events (operation_id, id);
