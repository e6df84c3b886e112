//! `DELETE /api/apps/{id}/backups/{backup_id}`.

use super::{Backups, Of, ServiceError, backup_of, refuse_busy, requester};
use crate::{
    domain::backups::BackupStatus,
    operations::{backup_delete::BACKUP_DELETE, backup_record::backup_event, params::BackupDeleteParams, submit},
    service::{
        Caller,
        apps::{Plan, PlanStep, may_change},
    },
    store::{
        self, Connection, StoreError,
        backups::{self as rows, BackupRow},
        fleet::{self, FleetNode},
        scheduled_backups,
    },
};
use serde::Serialize;

/// The answer to a deletion.
#[derive(Debug, Clone, PartialEq)]
pub enum BackupDeleted {
    /// 202: the archive is being removed.
    Started(DeletionStarted),
    /// 204: there was no archive; the row is gone.
    Gone,
    /// 200, of a dry run.
    Plan(Box<Plan>),
}

/// 202.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeletionStarted {
    /// The backup.
    pub backup_id: i64,
    /// Its app.
    pub application_id: String,
    /// `deleting`.
    pub status: BackupStatus,
    /// In words.
    pub message: String,
    /// Where it can be followed.
    pub operation_id: String,
}

fn refuse(row: &BackupRow) -> Result<(), ServiceError> {
    let conflict = |why: String| Err(ServiceError::Conflict(why));
    if row.protected {
        return conflict(format!("backup {} is protected; take the protection off first", row.id));
    }
    match row.status {
        BackupStatus::Completed | BackupStatus::Failed | BackupStatus::Gone => Ok(()),
        BackupStatus::Creating => conflict(format!(
            "backup {} is being made (operation {}); wait until that has ended, or cancel it",
            row.id, row.operation_id
        )),
        BackupStatus::Restoring => conflict(format!(
            "backup {} is being restored (operation {}); wait until that has ended",
            row.id, row.operation_id
        )),
        BackupStatus::Deleting => conflict(format!(
            "backup {} is being deleted already (operation {})",
            row.id, row.operation_id
        )),
    }
}

/// What no retention may remove, whatever it was told before: what it did not ask for, and the last backup of an app that can be restored.
async fn refuse_pruning(tx: &mut Connection, row: &BackupRow, schedule_id: i64) -> Result<(), ServiceError> {
    if row.schedule_id != Some(schedule_id) {
        return Err(ServiceError::Refused(format!(
            "backup {} was not asked for by schedule {schedule_id}, which removes its own only",
            row.id
        )));
    }
    if scheduled_backups::good_besides(tx, row.app_id.as_str(), row.id).await? == 0 {
        return Err(ServiceError::Refused(format!(
            "backup {} is the only one of {} that can be restored",
            row.id, row.hostname
        )));
    }
    Ok(())
}

/// Where the archive can be removed: where it was made, or where its storage is reached as well.
async fn place(
    tx: &mut Connection,
    row: &BackupRow,
    online: impl Fn(&FleetNode) -> bool,
) -> Result<FleetNode, ServiceError> {
    let nodes = fleet::nodes(tx).await?;
    let made_there = nodes.iter().find(|node| node.id == row.node_id);
    let reaches = |node: &&FleetNode| {
        let has = node
            .facts
            .as_ref()
            .is_some_and(|facts| facts.storages.iter().any(|s| s.id == row.storage));
        node.host_id == row.host_id && row.shared && has && online(node)
    };
    let chosen = match made_there {
        Some(node) if online(node) => Some(node),
        other => nodes.iter().find(reaches).or(other),
    };
    chosen.cloned().ok_or_else(|| {
        ServiceError::Conflict(format!(
            "the node that made backup {} is no longer in the registry, and no other one reaches its storage {}",
            row.id, row.storage
        ))
    })
}

impl Backups {
    /// Deletes a backup, or says what that would lose.
    pub async fn delete(
        &self,
        caller: &Caller,
        app_id: &str,
        id: i64,
        dry_run: bool,
    ) -> Result<BackupDeleted, ServiceError> {
        self.remove(caller, app_id, id, dry_run, None).await
    }

    /// Deletes one that the retention of its schedule does not keep; never the last of the app that can be restored.
    pub async fn prune(
        &self,
        caller: &Caller,
        app_id: &str,
        id: i64,
        schedule_id: i64,
    ) -> Result<BackupDeleted, ServiceError> {
        self.remove(caller, app_id, id, false, Some(schedule_id)).await
    }

    async fn remove(
        &self,
        caller: &Caller,
        app_id: &str,
        id: i64,
        dry_run: bool,
        pruned_by: Option<i64>,
    ) -> Result<BackupDeleted, ServiceError> {
        may_change(caller)?;
        let now = self.deps().clock.now_ms();
        let mut tx = self.deps().store.begin().await?;
        let of = self.of(&mut tx, caller, app_id).await?;
        let mut row = backup_of(&mut tx, app_id, id).await?;
        refuse(&row)?;
        if let Some(schedule_id) = pruned_by {
            refuse_pruning(&mut tx, &row, schedule_id).await?;
        }
        let node = place(&mut tx, &row, |node| self.deps().queries.is_online(node.id)).await?;
        if dry_run {
            let last = row.status == BackupStatus::Completed && rows::count_good(&mut tx, app_id).await? == 1;
            return Ok(BackupDeleted::Plan(Box::new(plan(&row, &node, last))));
        }
        let Some(archive) = row.volid.clone() else {
            // It failed before there was an archive.
            rows::remove(&mut tx, row.id).await?;
            let event = store::insert_event(&mut tx, now, backup_event(&row, true)).await?;
            tx.commit().await.map_err(StoreError::from)?;
            self.deps().bus.publish(event);
            return Ok(BackupDeleted::Gone);
        };
        let Of::App(app) = of else {
            return Err(ServiceError::Conflict(format!(
                "the app of backup {id} is gone; remove its archive on {} with `pvesm free {archive}`",
                node.name
            )));
        };
        refuse_busy(&mut tx, &app).await?;
        let params = serde_json::to_value(BackupDeleteParams {
            backup_id: row.id,
            archive: archive.clone(),
            vmid: row.vmid,
        })
        .map_err(StoreError::from)?;
        let by = requester(caller);
        row.operation_id = submit::queue_at(&mut tx, now, &BACKUP_DELETE, &app.app, node.id, params, &by).await?;
        row.status = BackupStatus::Deleting;
        row.error_message = None;
        rows::update(&mut tx, now, &row).await?;
        let event = store::insert_event(&mut tx, now, backup_event(&row, false)).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.deps().bus.publish(event);
        self.deps().engine.wake();
        tracing::info!(app_id, operation_id = %row.operation_id, backup_id = id, request_id = caller.request_id, "accepted the deletion of a backup");
        Ok(BackupDeleted::Started(DeletionStarted {
            backup_id: id,
            application_id: app_id.to_owned(),
            status: row.status,
            message: format!("Deleting {archive} from {}", node.name),
            operation_id: row.operation_id.to_string(),
        }))
    }
}

fn plan(row: &BackupRow, node: &FleetNode, last: bool) -> Plan {
    let mut loses = Vec::new();
    if let Some(archive) = row.volid.as_ref().filter(|_| row.status != BackupStatus::Gone) {
        loses.push(format!("the archive {archive} on {}", node.name));
    }
    if last {
        loses.push(format!("the only backup of {} that can be restored", row.hostname));
    }
    Plan {
        node: node.name.clone(),
        steps: BACKUP_DELETE
            .steps
            .iter()
            .map(|step| PlanStep {
                name: step.name,
                title: step.title,
            })
            .collect(),
        ports: Vec::new(),
        loses,
        placement: None,
    }
}
