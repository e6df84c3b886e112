//! What schedules ask for, as the use cases that answer a user's request.

use crate::{
    reconcile::schedules::port::{Answer, BackupWork, Begun, Refusal},
    service::{
        Caller, Role, ServiceError,
        backups::{Backups, CreateBackup},
    },
    store::schedules::ScheduleRow,
};
use proximity_protocol::ids::{AppId, OperationId};

/// Backups behind the port.
pub(crate) struct Scheduled(pub(crate) Backups);

/// It stands in the operation as who asked.
fn caller(schedule: &ScheduleRow) -> Caller {
    Caller {
        user_id: 0,
        username: format!("schedule {}", schedule.name),
        role: Role::Operator,
        remote: None,
        request_id: None,
    }
}

impl From<ServiceError> for Refusal {
    fn from(error: ServiceError) -> Self {
        let later = |why, silent| Self::Later { why, silent };
        match error {
            ServiceError::Conflict(why) => later(why, false),
            ServiceError::Unavailable { message, .. } => later(message, true),
            ServiceError::TooMany { message, .. } => later(message, false),
            ServiceError::Store(error) => Self::Store(error),
            other => Self::Never(other.to_string()),
        }
    }
}

impl BackupWork for Scheduled {
    fn back_up<'a>(&'a self, schedule: &'a ScheduleRow, app_id: &'a AppId) -> Answer<'a, Begun> {
        Box::pin(async move {
            let body = CreateBackup {
                backup_type: Some(schedule.backup_type.clone()),
                compression: Some(schedule.compression.clone()),
                storage: schedule.storage.clone(),
            };
            let caller = caller(schedule);
            let started = self
                .0
                .create_for(&caller, app_id.as_str(), &body, Some(schedule.id))
                .await?;
            Ok(Begun {
                backup_id: started.id,
                message: started.message,
            })
        })
    }

    fn prune<'a>(&'a self, schedule: &'a ScheduleRow, app_id: &'a AppId, backup_id: i64) -> Answer<'a, ()> {
        Box::pin(async move {
            let caller = caller(schedule);
            self.0.prune(&caller, app_id.as_str(), backup_id, schedule.id).await?;
            Ok(())
        })
    }

    fn try_out<'a>(&'a self, schedule: &'a ScheduleRow, app_id: &'a AppId, backup_id: i64) -> Answer<'a, OperationId> {
        Box::pin(async move {
            let caller = caller(schedule);
            let started = self.0.verify(&caller, app_id.as_str(), backup_id).await?;
            let id = started
                .operation_id
                .parse()
                .map_err(|_| Refusal::Never(format!("the trial's operation {:?} is no id", started.operation_id)))?;
            Ok(OperationId(id))
        })
    }
}
