//! New secrets that an operation is bringing into force, sealed before they come here. The app's own stay as they are until it is done.

use super::{Connection, StoreError, row::get};
use proximity_protocol::ids::OperationId;

/// Keeps a sealed secret for an operation.
pub async fn put(
    tx: &mut Connection,
    operation: OperationId,
    app_id: &str,
    name: &str,
    sealed: &[u8],
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO operation_secrets (operation_id, app_id, name, sealed) VALUES ($1, $2, $3, $4)")
        .bind(operation.to_string())
        .bind(app_id)
        .bind(name)
        .bind(sealed)
        .execute(tx)
        .await?;
    Ok(())
}

/// Name and sealed value of each, by name.
pub async fn of_operation(tx: &mut Connection, operation: OperationId) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
    sqlx::query("SELECT name, sealed FROM operation_secrets WHERE operation_id = $1 ORDER BY name")
        .bind(operation.to_string())
        .fetch_all(tx)
        .await?
        .iter()
        .map(|row| Ok((get(row, "name")?, get(row, "sealed")?)))
        .collect()
}

/// They are in force: they become the app's.
pub async fn settle(tx: &mut Connection, operation: OperationId) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO app_secrets (app_id, name, sealed) SELECT app_id, name, sealed FROM operation_secrets WHERE operation_id = $1
         ON CONFLICT (app_id, name) DO UPDATE SET sealed = excluded.sealed",
    )
    .bind(operation.to_string())
    .execute(&mut *tx)
    .await?;
    forget(tx, operation).await
}

/// The operation was taken back.
pub async fn forget(tx: &mut Connection, operation: OperationId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM operation_secrets WHERE operation_id = $1")
        .bind(operation.to_string())
        .execute(tx)
        .await?;
    Ok(())
}

/// The app is gone.
pub async fn forget_app(tx: &mut Connection, app_id: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM operation_secrets WHERE app_id = $1")
        .bind(app_id)
        .execute(tx)
        .await?;
    Ok(())
}
