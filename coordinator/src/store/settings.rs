//! Settings: one JSON object per group.

use super::{Connection, StoreError};
use crate::clock::UnixMs;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::Row;

/// What is stored of a group; `None` if nobody has changed it.
pub async fn get<T: DeserializeOwned>(tx: &mut Connection, group: &str) -> Result<Option<T>, StoreError> {
    sqlx::query("SELECT value FROM settings WHERE key = $1")
        .bind(group)
        .fetch_optional(tx)
        .await?
        .map(|row| Ok(serde_json::from_str(&row.try_get::<String, _>(0)?)?))
        .transpose()
}

/// Stores a group whole.
pub async fn put<T: Serialize>(
    tx: &mut Connection,
    at: UnixMs,
    by: Option<i64>,
    group: &str,
    value: &T,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO settings (key, value, updated_at, updated_by) VALUES ($1, $2, $3, $4)
         ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at, updated_by = excluded.updated_by",
    )
    .bind(group)
    .bind(serde_json::to_string(value)?)
    .bind(at)
    .bind(by)
    .execute(tx)
    .await?;
    Ok(())
}
