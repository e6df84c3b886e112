//! What happened to an app, in words that operators understand.

use super::{Connection, StoreError, row::get};
use crate::clock::UnixMs;
use proximity_protocol::ids::OperationId;
use sqlx::{Row, sqlite::SqliteRow};

/// How grave a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// As expected.
    Info,
    /// It recovered, or is about to.
    Warning,
    /// It failed.
    Error,
}

impl LogLevel {
    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            LogLevel::Info => "info",
            LogLevel::Warning => "warning",
            LogLevel::Error => "error",
        }
    }
}

/// A line as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRow {
    /// Grows.
    pub id: i64,
    /// During which operation.
    pub operation_id: Option<String>,
    /// When.
    pub at: UnixMs,
    /// `info`, `warning`, `error`.
    pub level: String,
    /// The step's name.
    pub step: String,
    /// One line.
    pub message: String,
}

fn line(row: &SqliteRow) -> Result<LogRow, StoreError> {
    Ok(LogRow {
        id: get(row, "id")?,
        operation_id: get(row, "operation_id")?,
        at: get(row, "at")?,
        level: get(row, "level")?,
        step: get(row, "step")?,
        message: get(row, "message")?,
    })
}

/// Appends a line.
pub async fn append(
    tx: &mut Connection,
    at: UnixMs,
    app_id: &str,
    operation: Option<OperationId>,
    level: LogLevel,
    step: &str,
    message: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO deployment_logs (app_id, operation_id, at, level, step, message) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(app_id)
    .bind(operation.map(|o| o.to_string()))
    .bind(at)
    .bind(level.as_str())
    .bind(step)
    .bind(message)
    .execute(tx)
    .await?;
    Ok(())
}

/// A page, newest first, and how many lines there are.
pub async fn page(
    tx: &mut Connection,
    app_id: &str,
    limit: i64,
    offset: i64,
) -> Result<(Vec<LogRow>, i64), StoreError> {
    let total: i64 = sqlx::query("SELECT COUNT(*) FROM deployment_logs WHERE app_id = $1")
        .bind(app_id)
        .fetch_one(&mut *tx)
        .await?
        .try_get(0)?;
    let rows = sqlx::query("SELECT * FROM deployment_logs WHERE app_id = $1 ORDER BY id DESC LIMIT $2 OFFSET $3")
        .bind(app_id)
        .bind(limit)
        .bind(offset)
        .fetch_all(tx)
        .await?
        .iter()
        .map(line)
        .collect::<Result<_, StoreError>>()?;
    Ok((rows, total))
}

/// Lines after that one, oldest first.
pub async fn after(tx: &mut Connection, app_id: &str, after: i64, limit: i64) -> Result<Vec<LogRow>, StoreError> {
    sqlx::query("SELECT * FROM deployment_logs WHERE app_id = $1 AND id > $2 ORDER BY id LIMIT $3")
        .bind(app_id)
        .bind(after)
        .bind(limit)
        .fetch_all(tx)
        .await?
        .iter()
        .map(line)
        .collect()
}

/// Forgets the lines of an app that is gone.
pub async fn forget(tx: &mut Connection, app_id: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM deployment_logs WHERE app_id = $1")
        .bind(app_id)
        .execute(tx)
        .await?;
    Ok(())
}

/// Forgets lines from before `before`; at most `limit`; how many.
pub async fn forget_old(tx: &mut Connection, before: UnixMs, limit: i64) -> Result<u64, StoreError> {
    let deleted = sqlx::query(
        "DELETE FROM deployment_logs WHERE id IN (SELECT id FROM deployment_logs WHERE at < $1 ORDER BY id LIMIT $2)",
    )
    .bind(before)
    .bind(limit)
    .execute(tx)
    .await?;
    Ok(deleted.rows_affected())
}

/// Apps with more than `most` lines.
pub async fn too_long(tx: &mut Connection, most: i64) -> Result<Vec<String>, StoreError> {
    sqlx::query("SELECT app_id FROM deployment_logs GROUP BY app_id HAVING COUNT(*) > $1")
        .bind(most)
        .fetch_all(tx)
        .await?
        .iter()
        .map(|row| get(row, "app_id"))
        .collect()
}

/// Forgets lines of an app beyond the newest `keep`; at most `limit`; how many.
pub async fn shorten(tx: &mut Connection, app_id: &str, keep: i64, limit: i64) -> Result<u64, StoreError> {
    let deleted = sqlx::query(
        "DELETE FROM deployment_logs WHERE id IN (SELECT id FROM deployment_logs WHERE app_id = $1 ORDER BY id DESC LIMIT $3 OFFSET $2)",
    )
    .bind(app_id)
    .bind(keep)
    .bind(limit)
    .execute(tx)
    .await?;
    Ok(deleted.rows_affected())
}
