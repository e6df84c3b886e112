-- What is known of a node's trust and identity beyond its certificates. A row is there from the node's first Hello to this version on.
CREATE TABLE node_trust (
    node_id       TEXT PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    follows_roots BOOLEAN NOT NULL,            -- whether its agent, as of its last Hello, can follow from root to root
    roots         TEXT NOT NULL DEFAULT '[]',  -- JSON: pins (hex) of the roots that it has stored
    boot          TEXT,                        -- boot id of the machine that last held the node's link
    cloned        TEXT,                        -- JSON: since when, and which boots are held; null: no alarm
    rekey_from    TEXT                         -- serial of a certificate whose key is to be replaced at once
);

-- The root that the token pins; null: made before there could be another than the first.
ALTER TABLE join_tokens ADD COLUMN ca_pin BLOB;
