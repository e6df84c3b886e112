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
