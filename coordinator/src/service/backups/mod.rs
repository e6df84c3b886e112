//! Backups of apps: make, list, look at, try out, restore, delete; and the containers that a restore has replaced.
//!
//! Before anything begins, the app's node is asked what its storages can do in the mode that was asked for: the answer to the request says what is fallen back to
//! and why. What the node tells is not believed for longer than that; its agent decides again when the operation comes.
//!
//! A backup outlives its app: under the id of an app that was deleted its owner still lists what is left.

mod create;
mod delete;
mod facts;
mod place;
mod previous;
mod protect;
mod restore;
#[cfg(test)]
mod tests;
mod verify;
mod view;

pub use create::{BackupStarted, CreateBackup};
pub use delete::{BackupDeleted, DeletionStarted};
pub use previous::{DiscardStarted, PreviousList, PreviousView};
pub use protect::ChangeBackup;
pub use restore::{BackupRestored, RestoreBackup, RestoreStarted};
pub use verify::TrialStarted;
pub use view::{BackupPage, BackupStats, BackupView};

use super::{
    Caller, ServiceError,
    apps::{AppsDeps, check_page, find, no_such_app, sees},
};
use crate::{
    operations::submit::Requester,
    store::{
        Connection,
        apps::ListedApp,
        backups::{self as rows, BackupRow},
        operations,
    },
};
use std::sync::Arc;

/// The use cases of backups; clones share.
#[derive(Clone)]
pub struct Backups(Arc<AppsDeps>);

/// Whose backups a path means.
enum Of {
    /// An app's.
    App(Box<ListedApp>),
    /// Those of an app that is gone.
    Gone,
}

fn requester(caller: &Caller) -> Requester {
    Requester {
        name: caller.username.clone(),
        request_id: caller.request_id.clone(),
    }
}

fn no_such_backup(id: i64, app_id: &str) -> ServiceError {
    ServiceError::NotFound(format!(
        "there is no backup {id} of {app_id}; GET /api/apps/{app_id}/backups lists them"
    ))
}

/// Refuses while another operation of the app is under way, in the transaction that would begin one.
async fn refuse_busy(tx: &mut Connection, app: &ListedApp) -> Result<(), ServiceError> {
    match operations::unfinished_of(tx, app.app.id.as_str()).await?.first() {
        None => Ok(()),
        Some(other) => Err(ServiceError::Conflict(format!(
            "{} of {} is under way (operation {}); wait until it has ended",
            other.kind, app.app.hostname, other.id
        ))),
    }
}

impl Backups {
    pub(super) fn new(deps: Arc<AppsDeps>) -> Self {
        Self(deps)
    }

    fn deps(&self) -> &AppsDeps {
        &self.0
    }

    /// A page of an app's backups, newest first.
    pub async fn list(
        &self,
        caller: &Caller,
        app_id: &str,
        page: i64,
        per_page: i64,
    ) -> Result<BackupPage, ServiceError> {
        check_page(page, per_page)?;
        let mut conn = self.deps().store.read().await?;
        self.of(&mut conn, caller, app_id).await?;
        let (found, total) = rows::of_app(&mut conn, app_id, per_page, (page - 1) * per_page).await?;
        Ok(BackupPage {
            backups: found.into_iter().map(|row| BackupView::new(row, false)).collect(),
            total,
            page,
            per_page,
        })
    }

    /// One backup, with its log.
    pub async fn get(&self, caller: &Caller, app_id: &str, id: i64) -> Result<BackupView, ServiceError> {
        let mut conn = self.deps().store.read().await?;
        self.of(&mut conn, caller, app_id).await?;
        Ok(BackupView::new(backup_of(&mut conn, app_id, id).await?, true))
    }

    /// Sums over an app's backups.
    pub async fn stats(&self, caller: &Caller, app_id: &str) -> Result<BackupStats, ServiceError> {
        let mut conn = self.deps().store.read().await?;
        self.of(&mut conn, caller, app_id).await?;
        Ok(rows::sums(&mut conn, app_id).await?.into())
    }

    /// The app of a path, or that it is gone and has left backups; what belongs to someone else does not exist.
    async fn of(&self, conn: &mut Connection, caller: &Caller, app_id: &str) -> Result<Of, ServiceError> {
        match find(conn, app_id).await? {
            Some(app) if sees(caller, app.app.owner_id) => Ok(Of::App(Box::new(app))),
            Some(_) => Err(no_such_app(app_id)),
            None => {
                let (left, _) = rows::of_app(conn, app_id, 1, 0).await?;
                match left.first() {
                    Some(row) if sees(caller, row.owner_id) => Ok(Of::Gone),
                    _ => Err(no_such_app(app_id)),
                }
            }
        }
    }

    /// The app of a path, which must be there.
    async fn app(&self, conn: &mut Connection, caller: &Caller, app_id: &str) -> Result<ListedApp, ServiceError> {
        find(conn, app_id)
            .await?
            .filter(|app| sees(caller, app.app.owner_id))
            .ok_or_else(|| no_such_app(app_id))
    }
}

/// The backup of that id, which must be that app's.
async fn backup_of(conn: &mut Connection, app_id: &str, id: i64) -> Result<BackupRow, ServiceError> {
    rows::by_id(conn, id)
        .await?
        .filter(|row| row.app_id.as_str() == app_id)
        .ok_or_else(|| no_such_backup(id, app_id))
}
