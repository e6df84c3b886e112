//! Backups as answers show them.

use crate::{
    clock::rfc3339,
    domain::backups::{BackupStatus, left_out},
    store::backups::{BackupRow, BackupSums},
};
use proximity_protocol::ids::{AppId, ArchiveId, StorageId};
use serde::Serialize;

const MIB: f64 = 1024.0 * 1024.0;
const GIB: f64 = 1024.0 * MIB;

/// With two decimals.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[allow(clippy::cast_precision_loss)]
fn in_units(bytes: u64, unit: f64) -> f64 {
    rounded(bytes as f64 / unit)
}

/// A backup, with the fields of the contract.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackupView {
    /// Its id.
    pub id: i64,
    /// The app that it is of.
    pub application_id: AppId,
    /// The archive's name; null until vzdump has named it.
    pub file_name: Option<String>,
    /// The storage.
    pub storage_name: StorageId,
    /// Bytes; null while it is being made, and where the storage does not tell.
    pub size: Option<u64>,
    /// MiB, two decimals.
    pub size_mb: Option<f64>,
    /// GiB, two decimals.
    pub size_gb: Option<f64>,
    /// `snapshot`, `suspend`, `stop`, as asked.
    pub backup_type: String,
    /// The same, as it is made.
    pub mode: String,
    /// Why it is not made as asked; null: it is.
    pub fallback: Option<String>,
    /// `zstd`, `gzip`, `lzo`.
    pub compression: String,
    /// Where it stands.
    pub status: BackupStatus,
    /// Whether it can be restored.
    pub is_completed: bool,
    /// Whether an operation works on it.
    pub is_in_progress: bool,
    /// Why it failed.
    pub error_message: Option<String>,
    /// Where the archive really is.
    pub volid: Option<ArchiveId>,
    /// `tar.zst`, `pbs-ct`….
    pub format: Option<String>,
    /// `sha256:…` of the archive's file; null where there is no file.
    pub checksum: Option<String>,
    /// Volumes of the app that the archive does not hold, and why.
    pub left_out: Vec<String>,
    /// Of which container it is.
    pub lxc_id: u32,
    /// How long vzdump took, seconds.
    pub duration_s: Option<u64>,
    /// What asked for it.
    pub purpose: String,
    /// Whether it is kept from being deleted.
    pub protected: bool,
    /// RFC 3339; when a restore of it was last proven.
    pub verified_at: Option<String>,
    /// RFC 3339; when it may go.
    pub expires_at: Option<String>,
    /// Its latest operation.
    pub operation_id: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
    /// RFC 3339.
    pub completed_at: Option<String>,
    /// What vzdump said; only where one backup is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

impl BackupView {
    pub(super) fn new(row: BackupRow, with_log: bool) -> Self {
        Self {
            id: row.id,
            file_name: row.volid.as_ref().map(|volid| volid.name().to_owned()),
            storage_name: row.storage,
            size_mb: row.size.map(|bytes| in_units(bytes, MIB)),
            size_gb: row.size.map(|bytes| in_units(bytes, GIB)),
            size: row.size,
            backup_type: row.backup_type,
            mode: row.mode,
            fallback: row.fallback,
            compression: row.compression,
            status: row.status,
            is_completed: row.status == BackupStatus::Completed,
            is_in_progress: row.status.in_progress(),
            error_message: row.error_message,
            volid: row.volid,
            format: row.format,
            checksum: row.checksum,
            left_out: left_out(&row.volumes),
            lxc_id: row.vmid.get(),
            duration_s: row.duration_s,
            purpose: row.purpose,
            protected: row.protected,
            verified_at: row.verified_at.map(rfc3339),
            expires_at: row.expires_at.map(rfc3339),
            operation_id: row.operation_id.to_string(),
            created_at: rfc3339(row.created_at),
            updated_at: rfc3339(row.updated_at),
            completed_at: row.completed_at.map(rfc3339),
            log: with_log.then_some(row.log),
            application_id: row.app_id,
        }
    }
}

/// A page of backups.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackupPage {
    /// The page, newest first.
    pub backups: Vec<BackupView>,
    /// How many there are in all.
    pub total: i64,
    /// Which page, from 1.
    pub page: i64,
    /// How many on a page.
    pub per_page: i64,
}

/// Sums over an app's backups.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackupStats {
    /// All.
    pub total_backups: u64,
    /// Those that can be restored.
    pub completed_backups: u64,
    /// Those that were not made.
    pub failed_backups: u64,
    /// Those on which an operation works.
    pub in_progress_backups: u64,
    /// Those whose archive somebody else removed.
    pub gone_backups: u64,
    /// GiB of those that are there, two decimals.
    pub total_size_gb: f64,
    /// MiB on average of those whose size is known, two decimals.
    pub average_size_mb: f64,
}

impl From<BackupSums> for BackupStats {
    fn from(sums: BackupSums) -> Self {
        Self {
            total_backups: sums.total,
            completed_backups: sums.completed,
            failed_backups: sums.failed,
            in_progress_backups: sums.in_progress,
            gone_backups: sums.gone,
            total_size_gb: in_units(sums.size, GIB),
            average_size_mb: in_units(sums.size.checked_div(sums.sized).unwrap_or(0), MIB),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_decimals_and_nothing_is_divided_by_nothing() {
        let stats = BackupStats::from(BackupSums {
            total: 3,
            completed: 2,
            failed: 1,
            size: 5_637_144_576,
            sized: 2,
            ..BackupSums::default()
        });
        assert_eq!((stats.total_size_gb, stats.average_size_mb), (5.25, 2688.0));
        let none = BackupStats::from(BackupSums::default());
        assert_eq!((none.total_size_gb, none.average_size_mb), (0.0, 0.0));
    }
}
