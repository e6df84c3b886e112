//! Schedules of backups: make, list, change, delete, run now; what their retention would remove; and how well the apps are covered ([`coverage`]).
//!
//! A user's schedule covers apps of that user; one that an operator makes for a label covers everybody's apps that bear it. The schedules are run by
//! `reconcile::schedules`, which is rung for when something changes here.

mod change;
pub mod coverage;
mod input;
mod retention;
mod view;

pub use change::RunAsked;
pub use input::ScheduleBody;
pub use retention::{RetentionOfApp, RetentionPlan, RetentionVerdict};
pub use view::{RunView, SchedulePage, ScheduleView};

use super::{Caller, Role, ServiceError, apps::check_page};
use crate::{
    clock::SharedClock,
    store::{
        Connection, Store,
        schedules::{self as rows, ScheduleRow},
        users,
    },
};
use jiff::tz::TimeZone;
use std::sync::Arc;
use tokio::sync::Notify;

/// Most schedules of one user.
const MOST_OF_A_USER: u64 = 50;
/// Most that cover everybody's apps.
const MOST_OF_ALL: u64 = 500;

/// The use cases of schedules; clones share.
#[derive(Clone)]
pub struct Schedules {
    store: Store,
    clock: SharedClock,
    zone: TimeZone,
    bell: Arc<Notify>,
}

impl std::fmt::Debug for Schedules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Schedules(…)")
    }
}

fn no_such_schedule(id: i64) -> ServiceError {
    ServiceError::NotFound(format!(
        "there is no schedule {id}; GET /api/backups/schedules lists yours"
    ))
}

fn is_operator(caller: &Caller) -> bool {
    caller.role >= Role::Operator
}

impl Schedules {
    /// Over this registry; days begin as `zone` says, and `bell` wakes who runs them.
    pub fn new(store: Store, clock: SharedClock, zone: TimeZone, bell: Arc<Notify>) -> Self {
        Self {
            store,
            clock,
            zone,
            bell,
        }
    }

    fn now_s(&self) -> i64 {
        self.clock.now_ms().div_euclid(1000)
    }

    /// A page, newest first: operators see all, others their own.
    pub async fn list(&self, caller: &Caller, page: i64, per_page: i64) -> Result<SchedulePage, ServiceError> {
        check_page(page, per_page)?;
        let owner = (!is_operator(caller)).then_some(caller.user_id);
        let mut conn = self.store.read().await?;
        let (found, total) = rows::page(&mut conn, owner, per_page, (page - 1) * per_page).await?;
        let mut schedules = Vec::with_capacity(found.len());
        for row in found {
            schedules.push(self.view(&mut conn, row, false).await?);
        }
        Ok(SchedulePage {
            schedules,
            total,
            page,
            per_page,
        })
    }

    /// One, with how it stands for each app.
    pub async fn get(&self, caller: &Caller, id: i64) -> Result<ScheduleView, ServiceError> {
        let mut conn = self.store.read().await?;
        let row = self.visible(&mut conn, caller, id).await?;
        self.view(&mut conn, row, true).await
    }

    async fn visible(&self, conn: &mut Connection, caller: &Caller, id: i64) -> Result<ScheduleRow, ServiceError> {
        rows::by_id(conn, id)
            .await?
            .filter(|row| is_operator(caller) || row.owner_id == Some(caller.user_id))
            .ok_or_else(|| no_such_schedule(id))
    }

    async fn view(
        &self,
        conn: &mut Connection,
        row: ScheduleRow,
        with_runs: bool,
    ) -> Result<ScheduleView, ServiceError> {
        let owner = match row.owner_id {
            Some(id) => users::by_id(&mut *conn, id).await?.map(|user| user.username),
            None => None,
        };
        let runs = rows::runs(conn, Some(row.id)).await?;
        Ok(ScheduleView::new(
            row,
            owner,
            &runs,
            self.now_s(),
            &self.zone,
            with_runs,
        ))
    }
}
