//! What operations change of backups, in the transaction that records their end. Which backup an operation is about stands in its parameters.

use super::{params::Data, step::BackupChange};
use crate::{
    clock::{UnixMs, rfc3339},
    domain::backups::BackupStatus,
    events::{Event, NewEvent},
    store::{
        self, Connection, StoreError,
        backups::{self, BackupRow},
        operations::OperationRow,
    },
};
use data_encoding::HEXLOWER;
use serde_json::json;

/// The event that tells how a backup is now.
pub(crate) fn backup_event(row: &BackupRow, removed: bool) -> NewEvent {
    NewEvent {
        kind: "backup",
        app_id: Some(row.app_id.to_string()),
        operation_id: Some(row.operation_id.to_string()),
        owner_id: Some(row.owner_id),
        data: json!({
            "id": row.id,
            "application_id": row.app_id,
            "hostname": row.hostname,
            "status": row.status,
            "error_message": row.error_message,
            "volid": row.volid,
            "size": row.size,
            "completed_at": row.completed_at.map(rfc3339),
            "removed": removed,
        }),
    }
}

/// Applies one; the event, unless its row is gone.
pub(super) async fn apply(
    tx: &mut Connection,
    now: UnixMs,
    operation: &OperationRow,
    data: &mut Data,
    change: &BackupChange,
) -> Result<Option<Event>, StoreError> {
    let id = operation.params["backup_id"]
        .as_i64()
        .ok_or_else(|| StoreError::Corrupt(format!("operation {} names no backup", operation.id)))?;
    let Some(mut row) = backups::by_id(&mut *tx, id).await? else {
        return Ok(None);
    };
    let mut removed = false;
    match change {
        BackupChange::Made(made) => {
            data.archive = Some(made.archive.clone());
            // The container may have moved since it was asked for.
            row.node_id = operation.node_id.unwrap_or(row.node_id);
            row.volid = Some(made.archive.clone());
            row.format = Some(made.format.clone());
            row.mode = made.mode.as_str().to_owned();
            row.size = made.size_bytes;
            row.volumes.clone_from(&made.volumes);
            row.log.clone_from(&made.log);
            row.duration_s = Some(made.duration_s);
        }
        BackupChange::Tested(tested) => {
            // One that was known has been compared.
            row.checksum = tested.sha256.map(|sum| format!("sha256:{}", HEXLOWER.encode(&sum)));
        }
        BackupChange::Completed => {
            row.status = BackupStatus::Completed;
            row.error_message = None;
            row.completed_at = Some(now);
        }
        BackupChange::Failed(why) => {
            row.status = BackupStatus::Failed;
            row.error_message = Some(why.clone());
            // It was removed, or never was.
            row.volid = None;
            row.size = None;
            row.checksum = None;
        }
        BackupChange::NotDeleted(why) => {
            row.status = BackupStatus::Completed;
            row.error_message = Some(why.clone());
        }
        BackupChange::Restored { proven } => {
            row.status = BackupStatus::Completed;
            row.error_message = None;
            if *proven {
                row.verified_at = Some(now);
            }
        }
        BackupChange::NotRestored(why) => {
            row.status = BackupStatus::Completed;
            row.error_message = Some(why.clone());
        }
        // What is listed as completed can be restored: this cannot. Its archive stays until somebody deletes the backup.
        BackupChange::Damaged(why) => {
            row.status = BackupStatus::Failed;
            row.error_message = Some(why.clone());
        }
        BackupChange::Gone(why) => {
            row.status = BackupStatus::Gone;
            row.error_message = Some(why.clone());
        }
        BackupChange::Removed => {
            backups::remove(&mut *tx, id).await?;
            removed = true;
        }
    }
    if !removed {
        backups::update(&mut *tx, now, &row).await?;
    }
    store::insert_event(tx, now, backup_event(&row, removed))
        .await
        .map(Some)
}

/// An operator gave the operation up: the backup that it is about is not waited for any more.
pub(crate) async fn abandoned(
    tx: &mut Connection,
    now: UnixMs,
    operation: &OperationRow,
    why: &str,
) -> Result<Option<Event>, StoreError> {
    let Some(id) = operation.params["backup_id"].as_i64() else {
        return Ok(None);
    };
    let Some(mut row) = backups::by_id(&mut *tx, id).await? else {
        return Ok(None);
    };
    if row.operation_id != operation.id || !row.status.in_progress() {
        return Ok(None);
    }
    row.status = match row.status {
        BackupStatus::Creating => BackupStatus::Failed,
        _ => BackupStatus::Completed,
    };
    row.error_message = Some(why.to_owned());
    backups::update(&mut *tx, now, &row).await?;
    store::insert_event(tx, now, backup_event(&row, false)).await.map(Some)
}
