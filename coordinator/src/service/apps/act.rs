//! Start, stop, restart, delete.

use super::{Apps, Plan, PlanPort, ServiceError, find, may_change, no_such_app, sees, view::plan_steps};
use crate::{
    domain::app_state::{Action, Status},
    operations::{
        delete::DELETE,
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
        apps::{self, ListedApp},
        operations,
    },
};
use serde::Serialize;

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

fn kind_of(action: Action) -> &'static Kind {
    match action {
        Action::Start => &START,
        Action::Stop => &STOP,
        Action::Restart => &RESTART,
        Action::Delete => &DELETE,
    }
}

impl Apps {
    /// `DELETE /api/apps/{id}`; the same as the action.
    pub async fn delete(&self, caller: &Caller, id: &str, dry_run: bool) -> Result<Acted, ServiceError> {
        self.act(caller, id, Action::Delete, dry_run).await
    }

    /// Queues an action; only a deletion can be tried out.
    pub async fn act(&self, caller: &Caller, id: &str, action: Action, dry_run: bool) -> Result<Acted, ServiceError> {
        may_change(caller)?;
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
        let kind = kind_of(action);
        if dry_run {
            return Ok(Acted::Plan(Box::new(plan(&listed, kind))));
        }
        let under_way = operations::unfinished_of(&mut tx, id).await?;
        if action != Action::Delete {
            if app.vmid.is_none() {
                return Err(ServiceError::Conflict(format!(
                    "{} has no container; delete it and create it again",
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
            message: format!("{} {}", action.participle(), app.hostname),
            operation_id: operation.to_string(),
        }))
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
