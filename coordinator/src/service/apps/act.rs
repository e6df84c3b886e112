//! Start, stop, restart, delete.

use super::{Apps, Plan, PlanPort, ServiceError, find, may_change, no_such_app, sees, view::plan_steps};
use crate::{
    domain::app_state::{Action, Status},
    operations::{
        delete::DELETE,
        forget::FORGET,
        params::{ActionParams, DEFAULT_HEALTH_TIMEOUT_S},
        record::app_event,
        restart::RESTART,
        start::START,
        step::Kind,
        stop::STOP,
        submit::{self, Requester},
    },
    service::Caller,
    store::{
        self, StoreError,
        apps::{self, AppRow, ListedApp},
        fleet, operations,
    },
};
use proximity_protocol::{examined::Permission, ids::Vmid};
use serde::Serialize;

/// How an app is to be deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deletion {
    /// Only say what would be lost.
    pub dry_run: bool,
    /// Whether the container goes too. `None`: that of an adopted app stays, any other goes.
    pub destroy_container: Option<bool>,
}

impl Deletion {
    /// What carries it out: an adopted container is only forgotten, unless somebody says otherwise.
    fn kind(self, app: &AppRow) -> &'static Kind {
        if app.adopted && self.destroy_container != Some(true) {
            &FORGET
        } else {
            &DELETE
        }
    }
}

/// The answer to an action.
#[derive(Debug, Clone, PartialEq)]
pub enum Acted {
    /// 200, or 202 for a deletion.
    Accepted(ActionAnswer),
    /// 200, of a dry run.
    Plan(Box<Plan>),
}

/// `{success, message, operation_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ActionAnswer {
    /// True.
    pub success: bool,
    /// `Starting {hostname}`.
    pub message: String,
    /// Where its steps can be followed.
    pub operation_id: String,
}

fn kind_of(action: Action, deletion: Deletion, app: &AppRow) -> &'static Kind {
    match action {
        Action::Start => &START,
        Action::Stop => &STOP,
        Action::Restart => &RESTART,
        Action::Delete => deletion.kind(app),
    }
}

impl Apps {
    /// `DELETE /api/apps/{id}`; the same as the action.
    pub async fn delete(&self, caller: &Caller, id: &str, deletion: Deletion) -> Result<Acted, ServiceError> {
        self.act(caller, id, Action::Delete, deletion).await
    }

    /// Queues an action; `deletion` concerns deletions only, which alone can be tried out.
    pub async fn act(
        &self,
        caller: &Caller,
        id: &str,
        action: Action,
        deletion: Deletion,
    ) -> Result<Acted, ServiceError> {
        may_change(caller)?;
        if action == Action::Delete
            && let Some(destroys) = deletion.destroy_container
        {
            self.check_destroying(caller, id, destroys).await?;
        }
        let now = self.deps().clock.now_ms();
        let mut tx = self.deps().store.begin().await?;
        let listed = find(&mut tx, id)
            .await?
            .filter(|a| sees(caller, a.app.owner_id))
            .ok_or_else(|| no_such_app(id))?;
        let mut app = listed.app.clone();
        if !action.allowed_from(app.status) {
            return Err(ServiceError::Conflict(action.refusal(&app.hostname, app.status)));
        }
        let kind = kind_of(action, deletion, &app);
        if deletion.dry_run {
            return Ok(Acted::Plan(Box::new(plan(&listed, kind))));
        }
        let under_way = operations::unfinished_of(&mut tx, id).await?;
        if action != Action::Delete {
            if app.vmid.is_none() {
                let again = if app.adopted {
                    "adopt its container"
                } else {
                    "create it"
                };
                return Err(ServiceError::Conflict(format!(
                    "{} has no container; delete it and {again} again",
                    app.hostname
                )));
            }
            if let Some(other) = under_way.first() {
                return Err(ServiceError::Conflict(format!(
                    "{} of {} is under way (operation {}); wait until it has ended",
                    other.kind, app.hostname, other.id
                )));
            }
            self.check_room(&mut tx, app.node_id, &listed.node_name).await?;
        }
        for other in &under_way {
            operations::request_cancel(&mut tx, other.id).await?;
        }
        let catalog = self.deps().catalog.current();
        let health_timeout_s = catalog
            .get(&app.catalog_id)
            .and_then(|e| e.native().ok())
            .map_or(DEFAULT_HEALTH_TIMEOUT_S, |n| n.health_timeout_s);
        let params = serde_json::to_value(ActionParams {
            previous: app.status,
            health_timeout_s,
        })
        .map_err(StoreError::from)?;
        app.status = action.in_progress();
        app.status_reason = None;
        apps::update(&mut tx, now, &app).await?;
        let requester = Requester {
            name: caller.username.clone(),
            request_id: caller.request_id.clone(),
        };
        let operation = submit::queue(&mut tx, now, kind, &app, params, &requester).await?;
        let event = store::insert_event(&mut tx, now, app_event(&app, false)).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.deps().bus.publish(event);
        self.deps().engine.wake();
        for other in &under_way {
            self.deps().engine.kick(other.id);
        }
        tracing::info!(app_id = %app.id, operation_id = %operation, %action, request_id = caller.request_id, "accepted an action");
        Ok(Acted::Accepted(ActionAnswer {
            success: true,
            message: match app.vmid {
                Some(vmid) if kind.name == FORGET.name => {
                    format!("Forgetting {}; its container {vmid} stays as it is", app.hostname)
                }
                _ => format!("{} {}", action.participle(), app.hostname),
            },
            operation_id: operation.to_string(),
        }))
    }
}

impl Apps {
    /// Refuses what a caller says of the container if it cannot be so: 409 before anything is queued. The node asks its policy again when it comes to that.
    async fn check_destroying(&self, caller: &Caller, id: &str, destroys: bool) -> Result<(), ServiceError> {
        let (app, node) = {
            let mut conn = self.deps().store.read().await?;
            let listed = self.visible(&mut conn, caller, id).await?;
            let node = fleet::node_by_id(&mut conn, listed.app.node_id).await?;
            (listed.app, node)
        };
        if !app.adopted {
            return if destroys {
                Ok(())
            } else {
                Err(ServiceError::Conflict(format!(
                    "the container of {} was made for it and is deleted with it; only adopted containers can be left behind",
                    app.hostname
                )))
            };
        }
        let vmid = app.vmid.and_then(|vmid| Vmid::new(vmid).ok());
        let (true, Some(vmid), Some(node)) = (destroys, vmid, node) else {
            return Ok(());
        };
        let examination = self
            .examine(&node, Some(vmid))
            .await
            .map_err(|untold| untold.refusal(&node))?;
        match examination.destroys_adopted {
            Permission::Granted => Ok(()),
            Permission::Denied { because } => Err(ServiceError::Conflict(format!(
                "{because}; or delete {} without destroy_container, which leaves container {vmid} as it is",
                app.hostname
            ))),
        }
    }
}

fn plan(listed: &ListedApp, kind: &'static Kind) -> Plan {
    let app = &listed.app;
    let mut loses = Vec::new();
    if kind.name == DELETE.name {
        if let Some(vmid) = app
            .vmid
            .filter(|_| app.vmid_confirmed || app.status == Status::Deploying)
        {
            loses.push(format!(
                "container {vmid} on {} with its root volume of {} GB on {}",
                listed.node_name, app.resources.disk_gb, app.resources.storage
            ));
            loses.extend(
                app.volumes
                    .iter()
                    .map(|v| format!("the volume {} of {} GB with all data on it", v.path, v.size_gb)),
            );
        }
        loses.push("the app's deployment log and secrets".into());
    }
    if kind.name == FORGET.name {
        loses.push(
            "the app's deployment log, and the note of how its container was configured when it was adopted".into(),
        );
        loses.extend(app.vmid.map(|vmid| {
            format!(
                "nothing of container {vmid} on {}: it stays as it is, running or not; only its published port is closed",
                listed.node_name
            )
        }));
    }
    Plan {
        node: listed.node_name.clone(),
        steps: plan_steps(kind),
        ports: vec![PlanPort {
            public_port: app.public_port,
            internal_port: app.internal_port,
        }],
        loses,
        placement: None,
    }
}
