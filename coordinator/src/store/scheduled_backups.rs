//! Backups as schedules, retention and coverage look at them.

use super::{
    Connection, StoreError,
    backups::{BackupRow, backup},
    row::{get, number},
};
use crate::{
    clock::UnixMs,
    domain::{backups::BackupStatus, retention::Candidate},
};

/// Those of an app that a schedule has asked for, newest first.
pub async fn of_schedule(tx: &mut Connection, schedule_id: i64, app_id: &str) -> Result<Vec<BackupRow>, StoreError> {
    sqlx::query("SELECT * FROM backups WHERE schedule_id = $1 AND app_id = $2 ORDER BY id DESC")
        .bind(schedule_id)
        .bind(app_id)
        .fetch_all(tx)
        .await?
        .iter()
        .map(backup)
        .collect()
}

/// The newest that a schedule has asked for since.
pub async fn begun_since(
    tx: &mut Connection,
    schedule_id: i64,
    app_id: &str,
    since: UnixMs,
) -> Result<Option<i64>, StoreError> {
    let row =
        sqlx::query("SELECT MAX(id) AS id FROM backups WHERE schedule_id = $1 AND app_id = $2 AND created_at >= $3")
            .bind(schedule_id)
            .bind(app_id)
            .bind(since)
            .fetch_one(tx)
            .await?;
    get(&row, "id")
}

/// How many backups of an app can be restored besides this one.
pub async fn good_besides(tx: &mut Connection, app_id: &str, id: i64) -> Result<u64, StoreError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS n FROM backups WHERE app_id = $1 AND id <> $2 AND status IN ('completed', 'restoring') AND volid IS NOT NULL",
    )
    .bind(app_id)
    .bind(id)
    .fetch_one(tx)
    .await?;
    number(&row, "n")
}

/// The one of an app whose restore was proven last.
pub async fn last_proven(tx: &mut Connection, app_id: &str) -> Result<Option<BackupRow>, StoreError> {
    sqlx::query("SELECT * FROM backups WHERE app_id = $1 AND verified_at IS NOT NULL ORDER BY verified_at DESC LIMIT 1")
        .bind(app_id)
        .fetch_optional(tx)
        .await?
        .as_ref()
        .map(backup)
        .transpose()
}

/// Of every app the newest backup that can be restored.
pub async fn last_good_of_all(tx: &mut Connection) -> Result<Vec<BackupRow>, StoreError> {
    sqlx::query(
        "SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY app_id ORDER BY completed_at DESC, id DESC) AS place FROM backups
         WHERE status IN ('completed', 'restoring') AND volid IS NOT NULL) WHERE place = 1",
    )
    .fetch_all(tx)
    .await?
    .iter()
    .map(backup)
    .collect()
}

/// Of every app the backup whose restore was proven last, and when.
pub async fn last_proven_of_all(tx: &mut Connection) -> Result<Vec<(String, i64, UnixMs)>, StoreError> {
    sqlx::query("SELECT app_id, id, MAX(verified_at) AS at FROM backups WHERE verified_at IS NOT NULL GROUP BY app_id")
        .fetch_all(tx)
        .await?
        .iter()
        .map(|row| Ok((get(row, "app_id")?, get(row, "id")?, get(row, "at")?)))
        .collect()
}

/// Backups as retention looks at them: those whose archive is there, as far as is known, and that nobody removes already. What turned out to be damaged is not
/// counted, and stays until somebody has looked at it.
pub fn candidates(rows: &[BackupRow]) -> Vec<Candidate> {
    rows.iter()
        .filter(|row| matches!(row.status, BackupStatus::Completed | BackupStatus::Restoring) && row.volid.is_some())
        .map(|row| Candidate {
            id: row.id,
            made_unix_s: row.created_at.div_euclid(1000),
            protected: row.protected,
            good: true,
        })
        .collect()
}
