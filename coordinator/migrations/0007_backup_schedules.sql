-- Schedules of backups, and how the latest run of each stands for every app that it covers.
CREATE TABLE backup_schedules (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    name              TEXT NOT NULL,
    owner_id          BIGINT,                   -- whose apps it covers; null: everybody's
    app_id            TEXT,                     -- this one, or
    label             TEXT,                     -- those that bear it
    calendar          TEXT NOT NULL,
    jitter_s          BIGINT NOT NULL,
    catch_up          BOOLEAN NOT NULL,
    backup_type       TEXT NOT NULL,            -- snapshot | suspend | stop
    compression       TEXT NOT NULL,            -- zstd | gzip | lzo
    storage           TEXT,                     -- null: chosen when it runs
    retention         TEXT NOT NULL,            -- JSON
    verify_every_days BIGINT NOT NULL,          -- 0: never
    enabled           BOOLEAN NOT NULL,
    since             BIGINT NOT NULL,          -- occasions up to then are none of its
    created_by        TEXT NOT NULL,
    created_at        BIGINT NOT NULL,
    updated_at        BIGINT NOT NULL,
    CHECK ((app_id IS NULL) <> (label IS NULL))
);
CREATE INDEX backup_schedules_app ON backup_schedules (app_id);
CREATE TABLE backup_schedule_runs (
    schedule_id     BIGINT NOT NULL,
    app_id          TEXT NOT NULL,
    occasion_at     BIGINT NOT NULL,            -- everything up to then has been seen to
    state           TEXT NOT NULL CHECK (state IN ('new', 'trying', 'started', 'done', 'failed', 'missed')),
    message         TEXT NOT NULL DEFAULT '',
    backup_id       BIGINT,                     -- the latest that was begun
    tries           BIGINT NOT NULL DEFAULT 0,
    try_at          BIGINT,                     -- while it could not begin
    prune           BOOLEAN NOT NULL DEFAULT FALSE, -- retention has to be looked at
    trial_backup_id BIGINT,                     -- to be restored beside, for proof
    trial_operation TEXT,
    changed_at      BIGINT NOT NULL,
    PRIMARY KEY (schedule_id, app_id)
);
CREATE INDEX backups_schedule ON backups (schedule_id, app_id, id);
