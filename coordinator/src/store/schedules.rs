//! Schedules of backups, and how the latest run of each stands for every app that it covers.

use super::{
    Connection, StoreError,
    row::{get, json, number, parse, parse_opt},
};
use crate::{
    clock::UnixMs,
    domain::{calendar::Calendar, retention::Retention, schedule::RunState},
};
use proximity_protocol::ids::{AppId, NodeId, OperationId};
use sqlx::sqlite::SqliteRow;

/// Which apps a schedule covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Covers {
    /// One.
    App(AppId),
    /// Those that bear the label.
    Label(String),
}

/// A row of `backup_schedules`.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleRow {
    /// Its id; 0 before it is inserted.
    pub id: i64,
    /// In the words of who made it.
    pub name: String,
    /// Whose apps it covers; `None`: everybody's.
    pub owner_id: Option<i64>,
    /// Which of them.
    pub covers: Covers,
    /// When.
    pub calendar: Calendar,
    /// At most so many seconds later.
    pub jitter_s: u32,
    /// Whether a missed run is made up for.
    pub catch_up: bool,
    /// `snapshot`, `suspend`, `stop`.
    pub backup_type: String,
    /// `zstd`, `gzip`, `lzo`.
    pub compression: String,
    /// Where; `None`: chosen when it runs.
    pub storage: Option<String>,
    /// What stays.
    pub retention: Retention,
    /// How old the latest proof may become before a new backup is tried out, days; 0: none is.
    pub verify_every_days: u32,
    /// Whether it runs by itself.
    pub enabled: bool,
    /// Occasions up to then are none of its.
    pub since: UnixMs,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: UnixMs,
    /// When it was changed.
    pub updated_at: UnixMs,
}

/// A row of `backup_schedule_runs`.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRow {
    /// Of which schedule.
    pub schedule_id: i64,
    /// For which app.
    pub app_id: AppId,
    /// Everything up to then has been seen to.
    pub occasion_at: UnixMs,
    /// How it stands.
    pub state: RunState,
    /// The same in words.
    pub message: String,
    /// The latest backup that was begun.
    pub backup_id: Option<i64>,
    /// How often it could not begin.
    pub tries: u32,
    /// When it is tried again.
    pub try_at: Option<UnixMs>,
    /// Retention has to be looked at.
    pub prune: bool,
    /// A backup that is to be tried out.
    pub trial_backup_id: Option<i64>,
    /// The operation that tries it out.
    pub trial_operation: Option<OperationId>,
    /// When this changed.
    pub changed_at: UnixMs,
}

/// A run with what of its app matters to it.
#[derive(Debug, Clone, PartialEq)]
pub struct AppRun {
    /// The run.
    pub run: RunRow,
    /// The app's host name.
    pub hostname: String,
    /// Whose it is.
    pub owner_id: i64,
    /// Where it is.
    pub node_id: NodeId,
}

/// Apps that a schedule covers; `s` and `a` are the tables.
const COVERED: &str = "(s.owner_id IS NULL OR s.owner_id = a.owner_id) AND (s.app_id = a.id OR (s.label IS NOT NULL
    AND EXISTS (SELECT 1 FROM json_each(a.labels) l WHERE l.value = s.label)))";

fn schedule(row: &SqliteRow) -> Result<ScheduleRow, StoreError> {
    let covers = match (parse_opt(row, "app_id")?, get::<Option<String>>(row, "label")?) {
        (Some(app), _) => Covers::App(app),
        (None, Some(label)) => Covers::Label(label),
        (None, None) => return Err(StoreError::Corrupt("a schedule covers nothing".into())),
    };
    Ok(ScheduleRow {
        id: get(row, "id")?,
        name: get(row, "name")?,
        owner_id: get(row, "owner_id")?,
        covers,
        calendar: parse(row, "calendar")?,
        jitter_s: number(row, "jitter_s")?,
        catch_up: get(row, "catch_up")?,
        backup_type: get(row, "backup_type")?,
        compression: get(row, "compression")?,
        storage: get(row, "storage")?,
        retention: json(row, "retention")?,
        verify_every_days: number(row, "verify_every_days")?,
        enabled: get(row, "enabled")?,
        since: get(row, "since")?,
        created_by: get(row, "created_by")?,
        created_at: get(row, "created_at")?,
        updated_at: get(row, "updated_at")?,
    })
}

fn run(row: &SqliteRow) -> Result<RunRow, StoreError> {
    Ok(RunRow {
        schedule_id: get(row, "schedule_id")?,
        app_id: parse(row, "app_id")?,
        occasion_at: get(row, "occasion_at")?,
        state: parse(row, "state")?,
        message: get(row, "message")?,
        backup_id: get(row, "backup_id")?,
        tries: number(row, "tries")?,
        try_at: get(row, "try_at")?,
        prune: get(row, "prune")?,
        trial_backup_id: get(row, "trial_backup_id")?,
        trial_operation: parse_opt::<uuid::Uuid>(row, "trial_operation")?.map(OperationId),
        changed_at: get(row, "changed_at")?,
    })
}

fn app_run(row: &SqliteRow) -> Result<AppRun, StoreError> {
    Ok(AppRun {
        run: run(row)?,
        hostname: get(row, "hostname")?,
        owner_id: get(row, "owner_id")?,
        node_id: parse(row, "node_id")?,
    })
}

/// Inserts one, and answers its id.
pub async fn insert(tx: &mut Connection, s: &ScheduleRow) -> Result<i64, StoreError> {
    let (app_id, label) = match &s.covers {
        Covers::App(app) => (Some(app.as_str()), None),
        Covers::Label(label) => (None, Some(label.as_str())),
    };
    let row = sqlx::query(
        "INSERT INTO backup_schedules (name, owner_id, app_id, label, calendar, jitter_s, catch_up, backup_type, compression, storage, retention,
         verify_every_days, enabled, since, created_by, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $16) RETURNING id",
    )
    .bind(&s.name)
    .bind(s.owner_id)
    .bind(app_id)
    .bind(label)
    .bind(s.calendar.to_string())
    .bind(i64::from(s.jitter_s))
    .bind(s.catch_up)
    .bind(&s.backup_type)
    .bind(&s.compression)
    .bind(&s.storage)
    .bind(serde_json::to_string(&s.retention)?)
    .bind(i64::from(s.verify_every_days))
    .bind(s.enabled)
    .bind(s.since)
    .bind(&s.created_by)
    .bind(s.created_at)
    .fetch_one(tx)
    .await?;
    get(&row, "id")
}

/// Writes what can be changed of one.
pub async fn update(tx: &mut Connection, now: UnixMs, s: &ScheduleRow) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE backup_schedules SET name = $2, calendar = $3, jitter_s = $4, catch_up = $5, backup_type = $6, compression = $7, storage = $8, retention = $9,
         verify_every_days = $10, enabled = $11, since = $12, updated_at = $13 WHERE id = $1",
    )
    .bind(s.id)
    .bind(&s.name)
    .bind(s.calendar.to_string())
    .bind(i64::from(s.jitter_s))
    .bind(s.catch_up)
    .bind(&s.backup_type)
    .bind(&s.compression)
    .bind(&s.storage)
    .bind(serde_json::to_string(&s.retention)?)
    .bind(i64::from(s.verify_every_days))
    .bind(s.enabled)
    .bind(s.since)
    .bind(now)
    .execute(tx)
    .await?;
    Ok(())
}

/// Removes one with its runs. Its backups stay, and nobody prunes them.
pub async fn remove(tx: &mut Connection, id: i64) -> Result<(), StoreError> {
    for sql in [
        "DELETE FROM backup_schedule_runs WHERE schedule_id = $1",
        "DELETE FROM backup_schedules WHERE id = $1",
    ] {
        sqlx::query(sql).bind(id).execute(&mut *tx).await?;
    }
    Ok(())
}

/// One schedule.
pub async fn by_id(tx: &mut Connection, id: i64) -> Result<Option<ScheduleRow>, StoreError> {
    sqlx::query("SELECT * FROM backup_schedules WHERE id = $1")
        .bind(id)
        .fetch_optional(tx)
        .await?
        .as_ref()
        .map(schedule)
        .transpose()
}

/// Every schedule.
pub async fn all(tx: &mut Connection) -> Result<Vec<ScheduleRow>, StoreError> {
    sqlx::query("SELECT * FROM backup_schedules ORDER BY id")
        .fetch_all(tx)
        .await?
        .iter()
        .map(schedule)
        .collect()
}

/// A page of those of an owner, or of all; and how many there are.
pub async fn page(
    tx: &mut Connection,
    owner_id: Option<i64>,
    limit: i64,
    offset: i64,
) -> Result<(Vec<ScheduleRow>, i64), StoreError> {
    let total = sqlx::query("SELECT COUNT(*) AS n FROM backup_schedules WHERE $1 IS NULL OR owner_id = $1")
        .bind(owner_id)
        .fetch_one(&mut *tx)
        .await?;
    let rows = sqlx::query(
        "SELECT * FROM backup_schedules WHERE $1 IS NULL OR owner_id = $1 ORDER BY id DESC LIMIT $2 OFFSET $3",
    )
    .bind(owner_id)
    .bind(limit)
    .bind(offset)
    .fetch_all(tx)
    .await?;
    Ok((rows.iter().map(schedule).collect::<Result<_, _>>()?, get(&total, "n")?))
}

/// How many an owner has, or how many are everybody's.
pub async fn count(tx: &mut Connection, owner_id: Option<i64>) -> Result<u64, StoreError> {
    let row = sqlx::query("SELECT COUNT(*) AS n FROM backup_schedules WHERE owner_id IS $1")
        .bind(owner_id)
        .fetch_one(tx)
        .await?;
    number(&row, "n")
}

/// Whether an app is covered now that was not, or is not any more.
pub async fn is_out_of_date(tx: &mut Connection) -> Result<bool, StoreError> {
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM backup_schedules s JOIN apps a ON {COVERED}
            WHERE NOT EXISTS (SELECT 1 FROM backup_schedule_runs r WHERE r.schedule_id = s.id AND r.app_id = a.id))
         OR EXISTS (SELECT 1 FROM backup_schedule_runs r
            WHERE NOT EXISTS (SELECT 1 FROM backup_schedules s JOIN apps a ON {COVERED} WHERE s.id = r.schedule_id AND a.id = r.app_id)) AS yes"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(tx).await?;
    get(&row, "yes")
}

/// Brings the runs in line with the apps that are covered: one that is new is due from now on.
pub async fn bring_up_to_date(tx: &mut Connection, now: UnixMs) -> Result<(), StoreError> {
    let new = format!(
        "INSERT INTO backup_schedule_runs (schedule_id, app_id, occasion_at, state, changed_at)
         SELECT s.id, a.id, $1, 'new', $1 FROM backup_schedules s JOIN apps a ON {COVERED} WHERE TRUE ON CONFLICT DO NOTHING"
    );
    sqlx::query(sqlx::AssertSqlSafe(new))
        .bind(now)
        .execute(&mut *tx)
        .await?;
    let old = format!(
        "DELETE FROM backup_schedule_runs AS r
         WHERE NOT EXISTS (SELECT 1 FROM backup_schedules s JOIN apps a ON {COVERED} WHERE s.id = r.schedule_id AND a.id = r.app_id)"
    );
    sqlx::query(sqlx::AssertSqlSafe(old)).execute(tx).await?;
    Ok(())
}

/// The runs of a schedule, or all, by app.
pub async fn runs(tx: &mut Connection, schedule_id: Option<i64>) -> Result<Vec<AppRun>, StoreError> {
    sqlx::query(
        "SELECT r.*, a.hostname, a.owner_id, a.node_id FROM backup_schedule_runs r JOIN apps a ON a.id = r.app_id
         WHERE $1 IS NULL OR r.schedule_id = $1 ORDER BY r.schedule_id, a.hostname",
    )
    .bind(schedule_id)
    .fetch_all(tx)
    .await?
    .iter()
    .map(app_run)
    .collect()
}

/// Writes a run unless it has changed since `seen`; whether it was written.
pub async fn put_run(tx: &mut Connection, now: UnixMs, seen: &RunRow, new: &RunRow) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE backup_schedule_runs SET occasion_at = $3, state = $4, message = $5, backup_id = $6, tries = $7, try_at = $8, prune = $9, trial_backup_id = $10,
         trial_operation = $11, changed_at = $12
         WHERE schedule_id = $1 AND app_id = $2 AND occasion_at = $13 AND state = $14 AND tries = $15 AND prune = $16",
    )
    .bind(new.schedule_id)
    .bind(new.app_id.as_str())
    .bind(new.occasion_at)
    .bind(new.state.as_str())
    .bind(&new.message)
    .bind(new.backup_id)
    .bind(i64::from(new.tries))
    .bind(new.try_at)
    .bind(new.prune)
    .bind(new.trial_backup_id)
    .bind(new.trial_operation.map(|id| id.to_string()))
    .bind(now)
    .bind(seen.occasion_at)
    .bind(seen.state.as_str())
    .bind(i64::from(seen.tries))
    .bind(seen.prune)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Somebody asks for a run of a schedule now: of every app for which none is under way. How many begin.
pub async fn ask(tx: &mut Connection, now: UnixMs, schedule_id: i64, message: &str) -> Result<u64, StoreError> {
    let done = sqlx::query(
        "UPDATE backup_schedule_runs SET occasion_at = CASE state WHEN 'trying' THEN occasion_at ELSE $2 END, state = 'trying', tries = 0, try_at = $2,
         message = $3, changed_at = $2 WHERE schedule_id = $1 AND state <> 'started'",
    )
    .bind(schedule_id)
    .bind(now)
    .bind(message)
    .execute(tx)
    .await?;
    Ok(done.rows_affected())
}

/// Retention has to be looked at again, of one schedule or of all.
pub async fn look_at_retention(tx: &mut Connection, schedule_id: Option<i64>) -> Result<(), StoreError> {
    sqlx::query("UPDATE backup_schedule_runs SET prune = TRUE WHERE $1 IS NULL OR schedule_id = $1")
        .bind(schedule_id)
        .execute(tx)
        .await?;
    Ok(())
}
