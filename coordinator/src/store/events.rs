//! Stored events; writing one stands in `store::insert_event`, because it belongs into other transactions.

use super::{Connection, StoreError};
use sqlx::Row;

/// The id of the latest event; 0 if there is none.
pub async fn latest(tx: &mut Connection) -> Result<i64, StoreError> {
    Ok(sqlx::query("SELECT COALESCE(MAX(id), 0) FROM events")
        .fetch_one(tx)
        .await?
        .try_get(0)?)
}

/// Forgets events beyond the newest `keep`, at most `limit`; how many. Those of operations that go on stay: their streams begin at the beginning.
pub async fn prune(tx: &mut Connection, keep: i64, limit: i64) -> Result<u64, StoreError> {
    let deleted = sqlx::query(
        "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE id <= (SELECT COALESCE(MAX(id), 0) FROM events) - $1 AND (operation_id IS NULL OR operation_id
         NOT IN (SELECT id FROM operations WHERE state IN ('queued', 'running', 'waiting', 'undoing'))) ORDER BY id LIMIT $2)",
    )
    .bind(keep)
    .bind(limit)
    .execute(tx)
    .await?;
    Ok(deleted.rows_affected())
}

/// Whether an event that came after this place has been forgotten. The numbers have no gaps of their own: one that is not kept was forgotten. That older ones are
/// kept proves nothing, since those of operations that go on stay longer than others.
pub async fn any_forgotten_after(tx: &mut Connection, place: i64) -> Result<bool, StoreError> {
    let row = sqlx::query("SELECT COUNT(*) AS kept, COALESCE(MAX(id), $1) - $1 AS came FROM events WHERE id > $1")
        .bind(place)
        .fetch_one(tx)
        .await?;
    let (kept, came): (i64, i64) = (row.try_get("kept")?, row.try_get("came")?);
    Ok(kept < came)
}
