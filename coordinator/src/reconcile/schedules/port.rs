//! What schedules ask for: the same use cases that answer a user's request, which `assemble` puts behind this port.

use crate::store::{StoreError, schedules::ScheduleRow};
use proximity_protocol::ids::{AppId, OperationId};
use std::{future::Future, pin::Pin};

/// Why something did not begin.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It may be possible later: the app is busy, its node is away.
    #[error("{why}")]
    Later {
        /// In words.
        why: String,
        /// Its node does not answer: nothing else there has to be tried now.
        silent: bool,
    },
    /// It is not possible as it is asked for.
    #[error("{0}")]
    Never(String),
    /// The registry.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A backup that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// The backup.
    pub backup_id: i64,
    /// What was said of it.
    pub message: String,
}

/// An answer that takes a while.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// Backs up, prunes, and tries out.
pub trait BackupWork: Send + Sync + 'static {
    /// Begins a backup as the schedule wants it.
    fn back_up<'a>(&'a self, schedule: &'a ScheduleRow, app_id: &'a AppId) -> Answer<'a, Begun>;
    /// Begins the removal of a backup that the schedule has asked for; refused for the last one of the app that can be restored.
    fn prune<'a>(&'a self, schedule: &'a ScheduleRow, app_id: &'a AppId, backup_id: i64) -> Answer<'a, ()>;
    /// Begins a restore of the backup beside the app, for proof.
    fn try_out<'a>(&'a self, schedule: &'a ScheduleRow, app_id: &'a AppId, backup_id: i64) -> Answer<'a, OperationId>;
}
