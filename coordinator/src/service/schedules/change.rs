//! Make, change, delete, run now.

use super::{MOST_OF_A_USER, MOST_OF_ALL, ScheduleBody, ScheduleView, Schedules, ServiceError, is_operator};
use crate::{
    service::{
        Caller,
        apps::{find, may_change, no_such_app, sees},
    },
    store::{
        StoreError,
        schedules::{self as rows, Covers},
    },
};
use serde::Serialize;

/// 202.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunAsked {
    /// True.
    pub success: bool,
    /// In words.
    pub message: String,
    /// For how many apps a run begins.
    pub apps: u64,
}

impl Schedules {
    /// Makes one.
    pub async fn create(&self, caller: &Caller, body: &ScheduleBody) -> Result<ScheduleView, ServiceError> {
        may_change(caller)?;
        let mut row = body.checked(self.now_s(), &self.zone, &caller.username)?;
        let mut tx = self.store.begin().await?;
        row.owner_id = match &row.covers {
            Covers::App(app) => {
                let found = find(&mut tx, app.as_str()).await?;
                let app = found
                    .filter(|found| sees(caller, found.app.owner_id))
                    .ok_or_else(|| no_such_app(app.as_str()))?;
                if body.name.is_none() {
                    row.name.clone_from(&app.app.hostname);
                }
                Some(app.app.owner_id)
            }
            Covers::Label(_) => (!is_operator(caller)).then_some(caller.user_id),
        };
        let most = row.owner_id.map_or(MOST_OF_ALL, |_| MOST_OF_A_USER);
        if rows::count(&mut tx, row.owner_id).await? >= most {
            return Err(ServiceError::Conflict(format!(
                "there are {most} schedules already, which is the most; cover several apps by a label, or delete one"
            )));
        }
        row.id = rows::insert(&mut tx, &row).await?;
        rows::bring_up_to_date(&mut tx, row.created_at).await?;
        let view = self.view(&mut tx, row, true).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.bell.notify_one();
        Ok(view)
    }

    /// Changes one.
    pub async fn change(&self, caller: &Caller, id: i64, body: &ScheduleBody) -> Result<ScheduleView, ServiceError> {
        may_change(caller)?;
        let now = self.clock.now_ms();
        let mut tx = self.store.begin().await?;
        let old = match self.visible(&mut tx, caller, id).await {
            Ok(old) => old,
            Err(error) => {
                // What is wrong with the request comes before what is not there.
                body.looked_at_alone(self.now_s(), &self.zone)?;
                return Err(error);
            }
        };
        let mut new = body.applied(&old, self.now_s(), &self.zone)?;
        if new != old {
            rows::update(&mut tx, now, &new).await?;
            new.updated_at = now;
            if new.retention != old.retention {
                rows::look_at_retention(&mut tx, Some(id)).await?;
            }
        }
        let view = self.view(&mut tx, new, true).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.bell.notify_one();
        Ok(view)
    }

    /// Deletes one. The backups that it has asked for stay, and nobody prunes them.
    pub async fn delete(&self, caller: &Caller, id: i64) -> Result<(), ServiceError> {
        may_change(caller)?;
        let mut tx = self.store.begin().await?;
        self.visible(&mut tx, caller, id).await?;
        rows::remove(&mut tx, id).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(())
    }

    /// Runs one now, for every app for which it is not running already.
    pub async fn run(&self, caller: &Caller, id: i64) -> Result<RunAsked, ServiceError> {
        may_change(caller)?;
        let now = self.clock.now_ms();
        let mut tx = self.store.begin().await?;
        let row = self.visible(&mut tx, caller, id).await?;
        rows::bring_up_to_date(&mut tx, now).await?;
        let all = rows::runs(&mut tx, Some(id)).await?.len();
        if all == 0 {
            return Err(ServiceError::Conflict(format!(
                "schedule {id} covers no app now: give an app the label, or delete the schedule"
            )));
        }
        let words = format!("asked for by {}", caller.username);
        let apps = rows::ask(&mut tx, now, id, &words).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.bell.notify_one();
        Ok(RunAsked {
            success: true,
            message: match all as u64 - apps {
                0 => format!("Backing up the {apps} apps of {}", row.name),
                busy => format!(
                    "Backing up {apps} apps of {}; of {busy} a backup is being made already",
                    row.name
                ),
            },
            apps,
        })
    }
}
