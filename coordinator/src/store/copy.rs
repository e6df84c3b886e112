//! The registry as a file: a copy of one that may be in use, and what has to be true of a copy.

use super::StoreError;
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use std::{path::Path, time::Duration};

/// What a copy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// The latest run of the coordinator.
    pub epoch: u64,
    /// How many apps.
    pub apps: i64,
    /// How many nodes.
    pub nodes: i64,
}

fn unreadable(path: &Path) -> impl FnOnce(sqlx::Error) -> StoreError + '_ {
    move |source| StoreError::Open {
        path: path.display().to_string(),
        source,
    }
}

/// Copies a registry into a new file, as it is at one moment; who writes to it meanwhile is not held up.
pub async fn save(from: &Path, into: &Path) -> Result<(), StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(from)
        .read_only(true)
        .busy_timeout(Duration::from_secs(30));
    let mut conn = options.connect().await.map_err(unreadable(from))?;
    let done = sqlx::query("VACUUM INTO $1")
        .bind(into.display().to_string())
        .execute(&mut conn)
        .await;
    conn.close().await?;
    done?;
    Ok(())
}

/// Opens a copy that nobody uses, and looks whether it is whole.
pub async fn check(path: &Path) -> Result<Contents, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .immutable(true);
    let mut conn = options.connect().await.map_err(unreadable(path))?;
    let wrong: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check")
        .fetch_all(&mut conn)
        .await?;
    if wrong != ["ok"] {
        return Err(StoreError::Corrupt(format!("{}: {}", path.display(), wrong.join("; "))));
    }
    let dangling = sqlx::query("PRAGMA foreign_key_check").fetch_all(&mut conn).await?;
    if !dangling.is_empty() {
        return Err(StoreError::Corrupt(format!(
            "{}: {} rows name others that are not there",
            path.display(),
            dangling.len()
        )));
    }
    let newest: i64 = sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations")
        .fetch_one(&mut conn)
        .await?;
    let known = sqlx::migrate!("./migrations")
        .iter()
        .map(|m| m.version)
        .max()
        .unwrap_or(0);
    if newest > known {
        return Err(StoreError::Corrupt(format!(
            "{} is of a newer version of the coordinator (schema {newest}, this one knows {known}): use that one",
            path.display()
        )));
    }
    let epoch: Option<String> = sqlx::query_scalar("SELECT value FROM meta WHERE key = 'epoch'")
        .fetch_optional(&mut conn)
        .await?;
    let contents = Contents {
        epoch: epoch.and_then(|text| text.parse().ok()).unwrap_or(0),
        apps: sqlx::query_scalar("SELECT COUNT(*) FROM apps")
            .fetch_one(&mut conn)
            .await?,
        nodes: sqlx::query_scalar("SELECT COUNT(*) FROM nodes")
            .fetch_one(&mut conn)
            .await?,
    };
    conn.close().await?;
    Ok(contents)
}

/// Raises the epoch of a copy, so that its next run is newer than every one that agents have seen.
pub async fn raise_epoch_to(path: &Path, epoch: u64) -> Result<(), StoreError> {
    let mut conn = SqliteConnectOptions::new()
        .filename(path)
        .connect()
        .await
        .map_err(unreadable(path))?;
    sqlx::query("INSERT INTO meta (key, value) VALUES ('epoch', $1) ON CONFLICT (key) DO UPDATE SET value = $1")
        .bind(epoch.to_string())
        .execute(&mut conn)
        .await?;
    conn.close().await?;
    Ok(())
}
