//! Backups. A row is there from the request for a backup until its archive was deleted on request.

use super::{
    Connection, StoreError,
    row::{get, json, number, number_opt, parse, parse_opt},
};
use crate::{clock::UnixMs, domain::backups::BackupStatus};
use proximity_protocol::{
    backup::VolumeBackupFacts,
    ids::{AppId, ArchiveId, NodeId, OperationId, StorageId, Vmid},
};
use sqlx::sqlite::SqliteRow;

/// A row of `backups`.
#[derive(Debug, Clone, PartialEq)]
pub struct BackupRow {
    /// Its id; 0 before it is inserted.
    pub id: i64,
    /// Of which app.
    pub app_id: AppId,
    /// That app's host name.
    pub hostname: String,
    /// Whose.
    pub owner_id: i64,
    /// On which Proxmox installation.
    pub host_id: i64,
    /// Where it is made, and where its storage is unless that is shared.
    pub node_id: NodeId,
    /// Of which container of the app.
    pub generation: u32,
    /// The same.
    pub vmid: Vmid,
    /// On which storage.
    pub storage: StorageId,
    /// Whether other nodes of the host reach the storage.
    pub shared: bool,
    /// The archive, once it was made.
    pub volid: Option<ArchiveId>,
    /// `tar.zst`, `pbs-ct`….
    pub format: Option<String>,
    /// `snapshot`, `suspend`, `stop`, as asked.
    pub backup_type: String,
    /// The same, as it is made.
    pub mode: String,
    /// `zstd`, `gzip`, `lzo`, as asked.
    pub compression: String,
    /// Why it is not made as asked.
    pub fallback: Option<String>,
    /// Where it stands.
    pub status: BackupStatus,
    /// Why it failed, or could not be deleted.
    pub error_message: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    /// `sha256:…`.
    pub checksum: Option<String>,
    /// Volumes of the container, and why some are left out.
    pub volumes: Vec<VolumeBackupFacts>,
    /// What vzdump said.
    pub log: String,
    /// Seconds.
    pub duration_s: Option<u64>,
    /// `request`, or what else asked for it.
    pub purpose: String,
    /// The schedule that asked for it.
    pub schedule_id: Option<i64>,
    /// It is not deleted.
    pub protected: bool,
    /// When a restore of it was last proven.
    pub verified_at: Option<UnixMs>,
    /// When it may go.
    pub expires_at: Option<UnixMs>,
    /// The latest operation on it.
    pub operation_id: OperationId,
    /// When it was asked for.
    pub created_at: UnixMs,
    /// When it changed.
    pub updated_at: UnixMs,
    /// When it could be restored first.
    pub completed_at: Option<UnixMs>,
}

pub(super) fn backup(row: &SqliteRow) -> Result<BackupRow, StoreError> {
    let vmid: u32 = number(row, "vmid")?;
    Ok(BackupRow {
        id: get(row, "id")?,
        app_id: parse(row, "app_id")?,
        hostname: get(row, "hostname")?,
        owner_id: get(row, "owner_id")?,
        host_id: get(row, "host_id")?,
        node_id: parse(row, "node_id")?,
        generation: number(row, "generation")?,
        vmid: Vmid::new(vmid).map_err(|error| StoreError::Corrupt(format!("vmid: {error}")))?,
        storage: parse(row, "storage")?,
        shared: get(row, "shared")?,
        volid: parse_opt(row, "volid")?,
        format: get(row, "format")?,
        backup_type: get(row, "backup_type")?,
        mode: get(row, "mode")?,
        compression: get(row, "compression")?,
        fallback: get(row, "fallback")?,
        status: parse(row, "status")?,
        error_message: get(row, "error_message")?,
        size: number_opt(row, "size")?,
        checksum: get(row, "checksum")?,
        volumes: json(row, "volumes")?,
        log: get(row, "log")?,
        duration_s: number_opt(row, "duration_s")?,
        purpose: get(row, "purpose")?,
        schedule_id: get(row, "schedule_id")?,
        protected: get(row, "protected")?,
        verified_at: get(row, "verified_at")?,
        expires_at: get(row, "expires_at")?,
        operation_id: parse(row, "operation_id")?,
        created_at: get(row, "created_at")?,
        updated_at: get(row, "updated_at")?,
        completed_at: get(row, "completed_at")?,
    })
}

fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Inserts one that is about to be made, and answers its id.
pub async fn insert(tx: &mut Connection, b: &BackupRow) -> Result<i64, StoreError> {
    let row = sqlx::query(
        "INSERT INTO backups (app_id, hostname, owner_id, host_id, node_id, generation, vmid, storage, shared, backup_type, mode, compression, fallback,
         status, volumes, purpose, schedule_id, protected, expires_at, operation_id, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $21) RETURNING id",
    )
    .bind(b.app_id.as_str())
    .bind(&b.hostname)
    .bind(b.owner_id)
    .bind(b.host_id)
    .bind(b.node_id.to_string())
    .bind(i64::from(b.generation))
    .bind(i64::from(b.vmid.get()))
    .bind(b.storage.as_str())
    .bind(b.shared)
    .bind(&b.backup_type)
    .bind(&b.mode)
    .bind(&b.compression)
    .bind(&b.fallback)
    .bind(b.status.as_str())
    .bind(serde_json::to_string(&b.volumes)?)
    .bind(&b.purpose)
    .bind(b.schedule_id)
    .bind(b.protected)
    .bind(b.expires_at)
    .bind(b.operation_id.to_string())
    .bind(b.created_at)
    .fetch_one(tx)
    .await?;
    get(&row, "id")
}

/// Writes what changes over a backup's life.
pub async fn update(tx: &mut Connection, now: UnixMs, b: &BackupRow) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE backups SET volid = $2, format = $3, mode = $4, status = $5, error_message = $6, size = $7, checksum = $8, volumes = $9, log = $10,
         duration_s = $11, protected = $12, verified_at = $13, expires_at = $14, operation_id = $15, completed_at = $16, updated_at = $17, shared = $18, node_id = $19
         WHERE id = $1",
    )
    .bind(b.id)
    .bind(b.volid.as_ref().map(ArchiveId::as_str))
    .bind(&b.format)
    .bind(&b.mode)
    .bind(b.status.as_str())
    .bind(&b.error_message)
    .bind(b.size.map(integer))
    .bind(&b.checksum)
    .bind(serde_json::to_string(&b.volumes)?)
    .bind(&b.log)
    .bind(b.duration_s.map(integer))
    .bind(b.protected)
    .bind(b.verified_at)
    .bind(b.expires_at)
    .bind(b.operation_id.to_string())
    .bind(b.completed_at)
    .bind(now)
    .bind(b.shared)
    .bind(b.node_id.to_string())
    .execute(tx)
    .await?;
    Ok(())
}

/// One backup.
pub async fn by_id(tx: &mut Connection, id: i64) -> Result<Option<BackupRow>, StoreError> {
    sqlx::query("SELECT * FROM backups WHERE id = $1")
        .bind(id)
        .fetch_optional(tx)
        .await?
        .as_ref()
        .map(backup)
        .transpose()
}

/// A page of an app's backups, newest first, and how many there are in all.
pub async fn of_app(
    tx: &mut Connection,
    app_id: &str,
    limit: i64,
    offset: i64,
) -> Result<(Vec<BackupRow>, i64), StoreError> {
    let total = sqlx::query("SELECT COUNT(*) AS n FROM backups WHERE app_id = $1")
        .bind(app_id)
        .fetch_one(&mut *tx)
        .await?;
    let rows = sqlx::query("SELECT * FROM backups WHERE app_id = $1 ORDER BY id DESC LIMIT $2 OFFSET $3")
        .bind(app_id)
        .bind(limit)
        .bind(offset)
        .fetch_all(tx)
        .await?;
    Ok((rows.iter().map(backup).collect::<Result<_, _>>()?, get(&total, "n")?))
}

/// Every backup of a host that has an archive, as far as is known, or had one, so that it is looked whether it is there.
pub async fn with_archive(tx: &mut Connection, host_id: i64) -> Result<Vec<BackupRow>, StoreError> {
    sqlx::query(
        "SELECT * FROM backups WHERE host_id = $1 AND volid IS NOT NULL AND status IN ('completed', 'gone') ORDER BY id",
    )
    .bind(host_id)
    .fetch_all(tx)
    .await?
    .iter()
    .map(backup)
    .collect()
}

/// How many backups of an owner count against the quota: those that are there or on their way.
pub async fn count_of_owner(tx: &mut Connection, owner_id: i64) -> Result<u64, StoreError> {
    let row = sqlx::query("SELECT COUNT(*) AS n FROM backups WHERE owner_id = $1 AND status NOT IN ('failed', 'gone')")
        .bind(owner_id)
        .fetch_one(tx)
        .await?;
    number(&row, "n")
}

/// How many of an app can be restored.
pub async fn count_good(tx: &mut Connection, app_id: &str) -> Result<u64, StoreError> {
    let row =
        sqlx::query("SELECT COUNT(*) AS n FROM backups WHERE app_id = $1 AND status IN ('completed', 'restoring')")
            .bind(app_id)
            .fetch_one(tx)
            .await?;
    number(&row, "n")
}

/// The largest number of backups that an owner may have.
pub async fn quota(tx: &mut Connection, owner_id: i64) -> Result<Option<u64>, StoreError> {
    sqlx::query("SELECT max_backups FROM users WHERE id = $1")
        .bind(owner_id)
        .fetch_optional(tx)
        .await?
        .map_or(Ok(None), |row| number_opt(&row, "max_backups"))
}

/// Removes a row.
pub async fn remove(tx: &mut Connection, id: i64) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM backups WHERE id = $1")
        .bind(id)
        .execute(tx)
        .await?;
    Ok(())
}

/// Sums over the backups of an app.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackupSums {
    /// All rows.
    pub total: u64,
    /// Those that can be restored.
    pub completed: u64,
    /// Those that were not made.
    pub failed: u64,
    /// Those on which an operation works.
    pub in_progress: u64,
    /// Those whose archive somebody else removed.
    pub gone: u64,
    /// Bytes of those that are there and whose size is known.
    pub size: u64,
    /// How many these are.
    pub sized: u64,
}

/// Adds up the backups of an app.
pub async fn sums(tx: &mut Connection, app_id: &str) -> Result<BackupSums, StoreError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS total,
         COUNT(*) FILTER (WHERE status = 'completed') AS completed,
         COUNT(*) FILTER (WHERE status = 'failed') AS failed,
         COUNT(*) FILTER (WHERE status IN ('creating', 'restoring', 'deleting')) AS in_progress,
         COUNT(*) FILTER (WHERE status = 'gone') AS gone,
         COALESCE(SUM(size) FILTER (WHERE status NOT IN ('failed', 'gone')), 0) AS size,
         COUNT(size) FILTER (WHERE status NOT IN ('failed', 'gone')) AS sized
         FROM backups WHERE app_id = $1",
    )
    .bind(app_id)
    .fetch_one(tx)
    .await?;
    Ok(BackupSums {
        total: number(&row, "total")?,
        completed: number(&row, "completed")?,
        failed: number(&row, "failed")?,
        in_progress: number(&row, "in_progress")?,
        gone: number(&row, "gone")?,
        size: number(&row, "size")?,
        sized: number(&row, "sized")?,
    })
}
