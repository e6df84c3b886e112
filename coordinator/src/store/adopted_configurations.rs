//! How containers were configured when they were adopted.

use super::{Connection, StoreError, row::get};
use crate::clock::UnixMs;

/// A row of `adopted_configurations`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptedConfiguration {
    /// The node's name then.
    pub node: String,
    /// The text of its configuration file, values of environment variables left out.
    pub text: String,
    /// When it was read.
    pub created_at: UnixMs,
}

/// Keeps one; the first of an app stays.
pub async fn keep(
    tx: &mut Connection,
    at: UnixMs,
    app_id: &str,
    node: &str,
    vmid: u32,
    text: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO adopted_configurations (app_id, node, vmid, text, created_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (app_id) DO NOTHING",
    )
    .bind(app_id)
    .bind(node)
    .bind(i64::from(vmid))
    .bind(text)
    .bind(at)
    .execute(tx)
    .await?;
    Ok(())
}

/// That of an app, if it was adopted.
pub async fn of_app(tx: &mut Connection, app_id: &str) -> Result<Option<AdoptedConfiguration>, StoreError> {
    sqlx::query("SELECT node, text, created_at FROM adopted_configurations WHERE app_id = $1")
        .bind(app_id)
        .fetch_optional(tx)
        .await?
        .map(|row| {
            Ok(AdoptedConfiguration {
                node: get(&row, "node")?,
                text: get(&row, "text")?,
                created_at: get(&row, "created_at")?,
            })
        })
        .transpose()
}

/// Forgets that of an app that is gone.
pub async fn forget(tx: &mut Connection, app_id: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM adopted_configurations WHERE app_id = $1")
        .bind(app_id)
        .execute(tx)
        .await?;
    Ok(())
}
