-- Keys of a container's configuration that wait for its next start.
ALTER TABLE apps ADD COLUMN pending_restart TEXT NOT NULL DEFAULT '[]';   -- JSON

-- How a container was configured when it was adopted. Kept for people; nothing is made from it.
CREATE TABLE adopted_configurations (
    app_id     TEXT PRIMARY KEY,
    node       TEXT NOT NULL,               -- the node's name then
    vmid       BIGINT NOT NULL,
    text       TEXT NOT NULL,               -- /etc/pve/lxc/<vmid>.conf, values of environment variables left out
    created_at BIGINT NOT NULL
);

-- New secrets of an app that an operation is bringing into force, sealed as those of the app. They replace those when it is done, and go when it is undone.
CREATE TABLE operation_secrets (
    operation_id TEXT NOT NULL,
    app_id       TEXT NOT NULL,
    name         TEXT NOT NULL,
    sealed       BLOB NOT NULL,
    PRIMARY KEY (operation_id, name)
);
CREATE INDEX operation_secrets_app ON operation_secrets (app_id);
