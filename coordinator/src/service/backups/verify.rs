//! `POST /api/apps/{id}/backups/{backup_id}/verify`: a restore of the backup is tried out beside the app.

use super::{
    Backups, ServiceError, backup_of,
    place::{checksum, insert_side, refuse_backup},
    refuse_busy, requester,
};
use crate::{
    domain::side_containers::{KeepPrevious, SideRole},
    operations::{backup_record::backup_event, params::RestoreParams, submit, verify::VERIFY},
    service::{
        Caller,
        apps::{check_room, may_change},
    },
    store::{
        self, StoreError,
        backups::{self as rows},
    },
};
use proximity_protocol::spec::Settings;
use serde::Serialize;

/// 202.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrialStarted {
    /// The backup.
    pub backup_id: i64,
    /// Its app.
    pub application_id: String,
    /// In words.
    pub message: String,
    /// Where it can be followed.
    pub operation_id: String,
}

impl Backups {
    /// Begins to try a backup out.
    pub async fn verify(&self, caller: &Caller, app_id: &str, id: i64) -> Result<TrialStarted, ServiceError> {
        may_change(caller)?;
        let (app, row) = {
            let mut conn = self.deps().store.read().await?;
            let app = self.app(&mut conn, caller, app_id).await?;
            (app, backup_of(&mut conn, app_id, id).await?)
        };
        let place = self.place(&app.app, &row, None, None).await?;

        let now = self.deps().clock.now_ms();
        let mut tx = self.deps().store.begin().await?;
        let listed = self.app(&mut tx, caller, app_id).await?;
        refuse_busy(&mut tx, &listed).await?;
        check_room(self.deps(), &mut tx, place.node.id, &place.node.name).await?;
        let app = &listed.app;
        let mut row = backup_of(&mut tx, app_id, id).await?;
        let archive = refuse_backup(&row)?;
        let new = self.reserve_side(&mut tx, now, app, &place.node).await?;
        let params = serde_json::to_value(RestoreParams {
            previous: app.status,
            health_timeout_s: self.health_timeout_s(app),
            backup_id: id,
            archive,
            archive_vmid: row.vmid,
            archive_node: (!row.shared).then_some(row.node_id),
            sha256: checksum(&row),
            storage: place.storage,
            settings: Settings::default(),
            disk_gb: None,
            has_old: false,
            keep: KeepPrevious::No,
            keep_note: None,
        })
        .map_err(StoreError::from)?;
        let operation = submit::queue(&mut tx, now, &VERIFY, app, params, &requester(caller)).await?;
        insert_side(&mut tx, now, app, new, SideRole::Trial, operation).await?;
        row.operation_id = operation;
        rows::update(&mut tx, now, &row).await?;
        let event = store::insert_event(&mut tx, now, backup_event(&row, false)).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.deps().bus.publish(event);
        self.deps().engine.wake();
        tracing::info!(app_id, operation_id = %operation, backup_id = id, request_id = caller.request_id, "accepted the trial of a backup");
        Ok(TrialStarted {
            backup_id: id,
            application_id: app_id.to_owned(),
            message: format!(
                "Trying backup {id} of {} out in container {}, which has no network and goes afterwards",
                app.hostname, new.0
            ),
            operation_id: operation.to_string(),
        })
    }
}
