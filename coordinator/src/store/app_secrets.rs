//! Secrets of apps, sealed before they come here.

use super::{Connection, StoreError, row::get};

/// Keeps a sealed secret.
pub async fn put(tx: &mut Connection, app_id: &str, name: &str, sealed: &[u8]) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO app_secrets (app_id, name, sealed) VALUES ($1, $2, $3) ON CONFLICT (app_id, name) DO UPDATE SET sealed = excluded.sealed",
    )
    .bind(app_id)
    .bind(name)
    .bind(sealed)
    .execute(tx)
    .await?;
    Ok(())
}

/// Name and sealed value of each, by name.
pub async fn of_app(tx: &mut Connection, app_id: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
    sqlx::query("SELECT name, sealed FROM app_secrets WHERE app_id = $1 ORDER BY name")
        .bind(app_id)
        .fetch_all(tx)
        .await?
        .iter()
        .map(|row| Ok((get(row, "name")?, get(row, "sealed")?)))
        .collect()
}

/// Whether any app has one, or is about to.
pub async fn any(tx: &mut Connection) -> Result<bool, StoreError> {
    Ok(
        sqlx::query("SELECT 1 FROM app_secrets UNION ALL SELECT 1 FROM operation_secrets LIMIT 1")
            .fetch_optional(tx)
            .await?
            .is_some(),
    )
}

/// Forgets one.
pub async fn forget_one(tx: &mut Connection, app_id: &str, name: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM app_secrets WHERE app_id = $1 AND name = $2")
        .bind(app_id)
        .bind(name)
        .execute(tx)
        .await?;
    Ok(())
}

/// Forgets those of an app that is gone.
pub async fn forget(tx: &mut Connection, app_id: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM app_secrets WHERE app_id = $1")
        .bind(app_id)
        .execute(tx)
        .await?;
    Ok(())
}
