//! Apps: create, clone, list, act on, change, remove, and their log; containers that are none yet: discover and adopt.
//!
//! A request that starts work becomes rows in one transaction: the app, its reservations, its secrets (sealed), the operation with its steps. The answer goes
//! out after the commit, and the engine is woken. Nothing is sent to a node from here but questions, whose answers are not believed for longer than a refusal:
//! the node decides again when the operation comes.

mod act;
mod adopt;
mod change;
mod clone;
mod create;
mod discover;
mod drain;
mod examine;
mod input;
mod place;
mod quota;
mod room;
#[cfg(test)]
mod tests;
mod view;

pub use crate::domain::app_state::Action;
pub use act::{Acted, ActionAnswer, Deletion};
pub use adopt::{AdoptAnswer, AdoptContainer};
pub use change::{ChangeApp, Changed};
pub use clone::{CloneApp, CloneStarted, Cloned};
pub use create::Created;
pub use discover::{Discovered, DiscoveredContainer};
pub use drain::DrainedApp;
pub(crate) use input::check_page;
pub use input::{CreateApp, ListApps};
pub(crate) use room::check_room;
pub(crate) use view::plan_steps;
pub use view::{AdoptedView, AppPage, AppView, LogLine, LogPage, Plan, PlanPort, PlanStep};

use super::{Caller, Role, ServiceError, backups::Backups};
use crate::{
    clock::{SharedClock, rfc3339},
    domain::catalog::SharedCatalog,
    events::{Bus, Event},
    live::Live,
    nodes::{SharedQueries, inventories::Inventories},
    operations::Engine,
    secrets::Sealer,
    store::{
        Connection, Store, StoreError, adopted_configurations,
        apps::{self as rows, AppFilter, ListedApp},
        deployment_logs::{self, LogRow},
    },
};
use std::sync::Arc;

/// What the use cases work with.
#[derive(Clone)]
pub struct AppsDeps {
    /// The registry.
    pub store: Store,
    /// Carries out what is accepted.
    pub engine: Engine,
    /// Which nodes are connected.
    pub queries: SharedQueries,
    /// Figures.
    pub live: Live,
    /// What is in use on nodes.
    pub inventories: Inventories,
    /// What can be deployed.
    pub catalog: SharedCatalog,
    /// Time.
    pub clock: SharedClock,
    /// Whom to tell.
    pub bus: Bus,
    /// Seals the apps' secrets.
    pub secrets: Arc<Sealer>,
}

/// The use cases of apps; clones share.
#[derive(Clone)]
pub struct Apps(Arc<AppsDeps>);

/// Whether the caller sees what this user owns.
pub(crate) fn sees(caller: &Caller, owner_id: i64) -> bool {
    caller.role >= Role::Operator || caller.user_id == owner_id
}

/// Viewers change nothing.
pub(crate) fn may_change(caller: &Caller) -> Result<(), ServiceError> {
    if caller.role >= Role::User {
        Ok(())
    } else {
        Err(ServiceError::Forbidden(
            "viewers only read; ask an admin for the role `user` to manage apps".into(),
        ))
    }
}

pub(crate) fn no_such_app(id: &str) -> ServiceError {
    let id: String = id.chars().take(80).collect();
    ServiceError::NotFound(format!("there is no app {id:?}; GET /api/apps lists yours"))
}

impl Apps {
    /// The use cases over these ports.
    pub fn new(deps: AppsDeps) -> Self {
        Self(Arc::new(deps))
    }

    /// The use cases of their backups, over the same ports.
    pub fn backups(&self) -> Backups {
        Backups::new(Arc::clone(&self.0))
    }

    fn deps(&self) -> &AppsDeps {
        &self.0
    }

    /// A page of the apps that the caller sees.
    pub async fn list(&self, caller: &Caller, query: &ListApps) -> Result<AppPage, ServiceError> {
        let (filter, page, per_page) = query.checked(caller)?;
        let mut conn = self.deps().store.read().await?;
        let (found, total) = rows::list(&mut conn, &filter, per_page, (page - 1) * per_page).await?;
        Ok(AppPage {
            apps: found.iter().map(|app| self.view(app)).collect(),
            total,
            page,
            per_page,
        })
    }

    /// One app.
    pub async fn get(&self, caller: &Caller, id: &str) -> Result<AppView, ServiceError> {
        let mut conn = self.deps().store.read().await?;
        let app = self.visible(&mut conn, caller, id).await?;
        let mut view = self.view(&app);
        if app.app.adopted {
            let kept = adopted_configurations::of_app(&mut conn, app.app.id.as_str()).await?;
            view.adopted_configuration = kept.map(|kept| AdoptedView {
                node: kept.node,
                at: rfc3339(kept.created_at),
                text: kept.text,
            });
        }
        Ok(view)
    }

    /// A page of the app's deployment log, newest first.
    pub async fn logs(&self, caller: &Caller, id: &str, page: i64, per_page: i64) -> Result<LogPage, ServiceError> {
        check_page(page, per_page)?;
        let mut conn = self.deps().store.read().await?;
        let app = self.visible(&mut conn, caller, id).await?;
        let (found, total) =
            deployment_logs::page(&mut conn, app.app.id.as_str(), per_page, (page - 1) * per_page).await?;
        Ok(LogPage {
            logs: found.into_iter().map(LogLine::from).collect(),
            total,
            page,
            per_page,
        })
    }

    /// Lines of the app's deployment log after that one, oldest first, as events of their own: a line's id is its place.
    pub async fn log_after(
        &self,
        caller: &Caller,
        id: &str,
        after: i64,
        limit: i64,
    ) -> Result<Vec<Event>, ServiceError> {
        let mut conn = self.deps().store.read().await?;
        let app = self.visible(&mut conn, caller, id).await?;
        let lines = deployment_logs::after(&mut conn, app.app.id.as_str(), after, limit).await?;
        let event = |row: LogRow| {
            let (id, at, operation_id) = (row.id, row.at, row.operation_id.clone());
            Ok(Event {
                id,
                at,
                kind: "log".into(),
                app_id: Some(app.app.id.to_string()),
                operation_id,
                owner_id: Some(app.app.owner_id),
                data: serde_json::to_value(LogLine::from(row)).map_err(StoreError::from)?,
            })
        };
        lines.into_iter().map(event).collect()
    }

    /// An app of the caller's, or any for operators; what belongs to someone else does not exist.
    async fn visible(&self, conn: &mut Connection, caller: &Caller, id: &str) -> Result<ListedApp, ServiceError> {
        let found = find(conn, id).await?;
        found
            .filter(|a| sees(caller, a.app.owner_id))
            .ok_or_else(|| no_such_app(id))
    }

    fn view(&self, app: &ListedApp) -> AppView {
        let figures = app
            .app
            .vmid
            .filter(|_| app.app.vmid_confirmed)
            .and_then(|vmid| self.deps().live.container(app.app.node_id, vmid));
        AppView::new(app, figures)
    }
}

pub(crate) async fn find(conn: &mut Connection, id: &str) -> Result<Option<ListedApp>, StoreError> {
    let filter = AppFilter {
        id: Some(id.to_owned()),
        ..AppFilter::default()
    };
    Ok(rows::list(conn, &filter, 1, 0).await?.0.pop())
}
