//! Containers of an app besides the one that serves. A row is there from the reservation of the number until the container is proven to be gone, or let go.

use super::{
    Connection, StoreError,
    row::{get, number, parse},
};
use crate::{clock::UnixMs, domain::side_containers::SideRole};
use proximity_protocol::{
    command::Target,
    ids::{AppId, Generation, NodeId, OperationId, Owner, Vmid},
};
use sqlx::sqlite::SqliteRow;

/// A row of `side_containers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SideRow {
    /// On which Proxmox installation.
    pub host_id: i64,
    /// Its number.
    pub vmid: Vmid,
    /// Whose.
    pub app_id: AppId,
    /// On which node.
    pub node_id: NodeId,
    /// Which of the app's containers it is.
    pub generation: u32,
    /// What for.
    pub role: SideRole,
    /// Whether it was there before its app.
    pub adopted: bool,
    /// Until when a previous one is kept; `None`: until somebody asks.
    pub keep_until: Option<UnixMs>,
    /// Why it is kept so long, or could not be removed.
    pub note: Option<String>,
    /// The latest operation on it.
    pub operation_id: OperationId,
    /// Since when it is one.
    pub created_at: UnixMs,
}

impl SideRow {
    /// For commands.
    pub fn target(&self) -> Target {
        Target {
            vmid: self.vmid,
            owner: Owner {
                app: self.app_id.clone(),
                generation: Generation(self.generation),
            },
        }
    }
}

fn side(row: &SqliteRow) -> Result<SideRow, StoreError> {
    let vmid: u32 = number(row, "vmid")?;
    Ok(SideRow {
        host_id: get(row, "host_id")?,
        vmid: Vmid::new(vmid).map_err(|error| StoreError::Corrupt(format!("vmid: {error}")))?,
        app_id: parse(row, "app_id")?,
        node_id: parse(row, "node_id")?,
        generation: number(row, "generation")?,
        role: parse(row, "role")?,
        adopted: get(row, "adopted")?,
        keep_until: get(row, "keep_until")?,
        note: get(row, "note")?,
        operation_id: parse(row, "operation_id")?,
        created_at: get(row, "created_at")?,
    })
}

/// Inserts one.
pub async fn insert(tx: &mut Connection, s: &SideRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO side_containers (host_id, vmid, app_id, node_id, generation, role, adopted, keep_until, note, operation_id, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(s.host_id)
    .bind(i64::from(s.vmid.get()))
    .bind(s.app_id.as_str())
    .bind(s.node_id.to_string())
    .bind(i64::from(s.generation))
    .bind(s.role.as_str())
    .bind(s.adopted)
    .bind(s.keep_until)
    .bind(&s.note)
    .bind(s.operation_id.to_string())
    .bind(s.created_at)
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes what changes.
pub async fn update(tx: &mut Connection, s: &SideRow) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE side_containers SET keep_until = $3, note = $4, operation_id = $5 WHERE host_id = $1 AND vmid = $2",
    )
    .bind(s.host_id)
    .bind(i64::from(s.vmid.get()))
    .bind(s.keep_until)
    .bind(&s.note)
    .bind(s.operation_id.to_string())
    .execute(tx)
    .await?;
    Ok(())
}

/// Those of an app, by number.
pub async fn of_app(tx: &mut Connection, app_id: &str) -> Result<Vec<SideRow>, StoreError> {
    sqlx::query("SELECT * FROM side_containers WHERE app_id = $1 ORDER BY vmid")
        .bind(app_id)
        .fetch_all(tx)
        .await?
        .iter()
        .map(side)
        .collect()
}

/// Those of a host, by number.
pub async fn of_host(tx: &mut Connection, host_id: i64) -> Result<Vec<SideRow>, StoreError> {
    sqlx::query("SELECT * FROM side_containers WHERE host_id = $1 ORDER BY vmid")
        .bind(host_id)
        .fetch_all(tx)
        .await?
        .iter()
        .map(side)
        .collect()
}

/// Previous ones whose time is over.
pub async fn due(tx: &mut Connection, now: UnixMs) -> Result<Vec<SideRow>, StoreError> {
    sqlx::query(
        "SELECT * FROM side_containers WHERE role = 'previous' AND NOT adopted AND keep_until <= $1 ORDER BY keep_until",
    )
    .bind(now)
    .fetch_all(tx)
    .await?
    .iter()
    .map(side)
    .collect()
}

/// A generation that no container of the app has or had, as far as is known.
pub async fn next_generation(tx: &mut Connection, app_id: &str) -> Result<u32, StoreError> {
    let row = sqlx::query(
        "SELECT 1 + MAX(generation) AS n FROM (SELECT generation FROM apps WHERE id = $1 UNION ALL SELECT generation FROM side_containers WHERE app_id = $1
         UNION ALL SELECT generation FROM backups WHERE app_id = $1)",
    )
    .bind(app_id)
    .fetch_one(tx)
    .await?;
    number(&row, "n")
}

/// It is gone, or nobody's any more.
pub async fn remove(tx: &mut Connection, host_id: i64, vmid: Vmid) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM side_containers WHERE host_id = $1 AND vmid = $2")
        .bind(host_id)
        .bind(i64::from(vmid.get()))
        .execute(tx)
        .await?;
    Ok(())
}

/// The operation that was to make it, and take it away if it failed, was given up: it is kept until somebody asks.
pub async fn abandoned(tx: &mut Connection, operation: OperationId, note: &str) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE side_containers SET role = 'previous', note = $2 WHERE operation_id = $1 AND role <> 'previous'",
    )
    .bind(operation.to_string())
    .bind(note)
    .execute(tx)
    .await?;
    Ok(())
}
