//! `PATCH /api/apps/{id}/backups/{backup_id}`.

use super::{BackupView, Backups, ServiceError, backup_of};
use crate::{
    domain::backups::BackupStatus,
    operations::backup_record::backup_event,
    service::{Caller, apps::may_change},
    store::{self, StoreError, backups as rows},
};
use serde::Deserialize;

/// `{protected}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeBackup {
    /// Whether nobody may delete it, retention included.
    pub protected: bool,
}

impl Backups {
    /// Protects a backup from being deleted, or takes that back.
    pub async fn change(
        &self,
        caller: &Caller,
        app_id: &str,
        id: i64,
        body: ChangeBackup,
    ) -> Result<BackupView, ServiceError> {
        may_change(caller)?;
        let now = self.deps().clock.now_ms();
        let mut tx = self.deps().store.begin().await?;
        self.of(&mut tx, caller, app_id).await?;
        let mut row = backup_of(&mut tx, app_id, id).await?;
        if row.status == BackupStatus::Deleting {
            return Err(ServiceError::Conflict(format!(
                "backup {id} is being deleted already (operation {})",
                row.operation_id
            )));
        }
        if row.protected != body.protected {
            row.protected = body.protected;
            rows::update(&mut tx, now, &row).await?;
            row.updated_at = now;
            let event = store::insert_event(&mut tx, now, backup_event(&row, false)).await?;
            tx.commit().await.map_err(StoreError::from)?;
            self.deps().bus.publish(event);
        }
        Ok(BackupView::new(row, true))
    }
}
