//! Writes what happened: one transaction for the operation, its steps, what they change of the app, the log and the events; told to subscribers afterwards.

use super::{
    backup_record,
    params::{ConfigureParams, Data},
    reserve, side_record,
    step::{Change, SideChange},
    surroundings::{self, SurroundingsError},
};
use crate::{
    clock::{UnixMs, rfc3339},
    domain::app_state::Status,
    events::{Event, NewEvent},
    nodes::inventories::Inventories,
    store::{
        self, Connection, Store, StoreError, adopted_configurations, app_secrets,
        apps::{self, AppRow},
        deployment_logs::{self, LogLevel},
        fleet, operation_secrets,
        operations::{self, OperationRow, StepRow},
        reservations::{self, Choice},
    },
};
use proximity_protocol::ids::OperationId;
use serde_json::json;

/// One line for the app's log.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) level: LogLevel,
    pub(crate) step: String,
    pub(crate) message: String,
}

/// What one transaction writes.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    /// As it shall be.
    pub(crate) operation: OperationRow,
    /// Those that changed, as they shall be.
    pub(crate) steps: Vec<StepRow>,
    /// What changes of the app.
    pub(crate) changes: Vec<Change>,
    /// For the app's log.
    pub(crate) lines: Vec<Line>,
    /// How far the step is, where a node told.
    pub(crate) percent: Option<u8>,
}

impl Draft {
    /// Only the operation, as it is.
    pub(crate) fn of(operation: OperationRow) -> Self {
        Self {
            operation,
            steps: Vec::new(),
            changes: Vec::new(),
            lines: Vec::new(),
            percent: None,
        }
    }
}

/// A line of the app's log.
pub(crate) fn line(level: LogLevel, step: &str, message: String) -> Line {
    Line {
        level,
        step: step.to_owned(),
        message,
    }
}

/// Why a draft was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another operation of the same app is under way.
    #[error("another operation of the app is under way")]
    Behind,
    /// It has ended meanwhile: an operator gave it up.
    #[error("the operation has ended")]
    Ended,
    /// There is nothing left to choose from; the text is for the operator.
    #[error("{0}")]
    Exhausted(String),
}

/// Writes a draft and returns the events that are to be published now.
pub(crate) async fn write(
    store: &Store,
    inventories: &Inventories,
    now: UnixMs,
    draft: &mut Draft,
) -> Result<Vec<Event>, RecordError> {
    let mut tx = store.begin().await?;
    let mut events = Vec::new();
    let operation = &mut draft.operation;
    operation.updated_at = now;
    if !draft.changes.is_empty() {
        let app = apps::by_id(&mut tx, &operation.app_id).await?.ok_or_else(|| {
            StoreError::Corrupt(format!(
                "app {} of operation {} is gone",
                operation.app_id, operation.id
            ))
        })?;
        change_app(
            &mut tx,
            inventories,
            now,
            app,
            operation,
            &draft.changes,
            &mut draft.lines,
            &mut events,
        )
        .await?;
    }
    match operations::update(&mut tx, operation).await {
        Err(StoreError::Taken(_)) => return Err(RecordError::Behind),
        Ok(false) => return Err(RecordError::Ended),
        Ok(true) => {}
        Err(error) => return Err(error.into()),
    }
    for step in &draft.steps {
        operations::update_step(&mut tx, operation.id, step).await?;
    }
    let gone = draft.changes.contains(&Change::RemoveApp);
    for line in draft.lines.iter().filter(|_| !gone) {
        deployment_logs::append(
            &mut tx,
            now,
            &operation.app_id,
            Some(operation.id),
            line.level,
            &line.step,
            &line.message,
        )
        .await?;
    }
    let told = Told {
        step: draft.steps.last(),
        message: draft.lines.last().map(|l| l.message.as_str()),
        percent: draft.percent,
    };
    events.push(operation_event(&mut tx, now, &draft.operation, told).await?);
    tx.commit().await.map_err(StoreError::from)?;
    Ok(events)
}

/// What an operation's event tells besides the operation itself.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Told<'a> {
    /// The step that changed.
    pub(crate) step: Option<&'a StepRow>,
    /// The latest line of the log.
    pub(crate) message: Option<&'a str>,
    /// How far the step is.
    pub(crate) percent: Option<u8>,
}

/// Stores the event that tells how an operation is now.
pub(crate) async fn operation_event(
    tx: &mut Connection,
    now: UnixMs,
    operation: &OperationRow,
    told: Told<'_>,
) -> Result<Event, StoreError> {
    let Told { step, message, percent } = told;
    let event = NewEvent {
        kind: "operation",
        app_id: Some(operation.app_id.clone()),
        operation_id: Some(operation.id.to_string()),
        owner_id: Some(operation.owner_id),
        data: json!({
            "id": operation.id,
            "kind": operation.kind,
            "app_id": operation.app_id,
            "hostname": operation.hostname,
            "state": operation.state,
            "reason": operation.reason,
            "action": operation.action,
            "no_progress_since": operation.quiet_since.map(rfc3339),
            "step": step.map(|s| s.name.as_str()),
            "step_title": step.map(|s| s.title.as_str()),
            "step_state": step.map(|s| s.state),
            "message": message,
            "percent": percent,
        }),
    };
    store::insert_event(tx, now, event).await
}

/// The event that tells how an app is now.
pub(crate) fn app_event(app: &AppRow, removed: bool) -> NewEvent {
    NewEvent {
        kind: "app",
        app_id: Some(app.id.to_string()),
        operation_id: None,
        owner_id: Some(app.owner_id),
        data: json!({
            "id": app.id,
            "hostname": app.hostname,
            "status": app.status,
            "status_reason": app.status_reason,
            "public_port": app.public_port,
            "lxc_id": app.vmid.filter(|_| app.vmid_confirmed),
            "ip_address": app.ip_address,
            "removed": removed,
        }),
    }
}

#[allow(clippy::too_many_arguments)]
async fn change_app(
    tx: &mut Connection,
    inventories: &Inventories,
    now: UnixMs,
    mut app: AppRow,
    operation: &mut OperationRow,
    changes: &[Change],
    lines: &mut Vec<Line>,
    events: &mut Vec<Event>,
) -> Result<(), RecordError> {
    let mut data: Data = serde_json::from_value(operation.data.clone()).map_err(StoreError::from)?;
    let deletes = [super::delete::DELETE.name, super::forget::FORGET.name].contains(&operation.kind.as_str());
    let leaving = app.status == Status::Removing && !deletes;
    let mut removed = false;
    for change in changes {
        match change {
            Change::Status(_) | Change::Reason(_) if leaving => {}
            Change::Status(status) => app.status = *status,
            Change::Reason(reason) => app.status_reason.clone_from(reason),
            Change::Created(mac) => {
                app.vmid_confirmed = true;
                app.mac.clone_from(mac);
            }
            Change::Destroyed => {
                app.vmid_confirmed = false;
                app.mac = None;
                app.published = None;
            }
            Change::Stood { running, published } => {
                data.was_running = Some(*running);
                data.was_published = Some(*published);
            }
            Change::Adopted { mac, configuration } => {
                app.vmid_confirmed = true;
                app.mac.clone_from(mac);
                let (id, vmid) = (app.id.as_str(), app.vmid.unwrap_or_default());
                let node = fleet::node_by_id(&mut *tx, app.node_id).await?;
                let node = node.map(|node| node.name).unwrap_or_default();
                adopted_configurations::keep(&mut *tx, now, id, &node, vmid, configuration).await?;
            }
            Change::Pending(keys) => app.pending_restart.clone_from(keys),
            Change::Disk(disk_gb) => {
                app.resources.disk_gb = *disk_gb;
                apps::update_asked(&mut *tx, now, &app).await?;
            }
            Change::Configured(params) => configured(&mut *tx, now, &mut app, operation.id, params).await?,
            Change::NotConfigured => operation_secrets::forget(&mut *tx, operation.id).await?,
            Change::Address(address) => app.ip_address = Some(*address),
            Change::Published(address) => app.published = *address,
            Change::Archive(archive) => data.archive = Some(archive.clone()),
            Change::Template(volume) => data.template = Some(volume.clone()),
            Change::ChooseAgain(choice) => {
                data.choices += 1;
                let line = match side_record::own(&mut *tx, operation).await? {
                    Some(side) => side_record::choose_again(&mut *tx, inventories, now, &side).await?,
                    None => choose_again(&mut *tx, inventories, now, &mut app, *choice).await?,
                };
                lines.push(line);
            }
            Change::FreeReservations => {
                reservations::free_all(&mut *tx, app.id.as_str()).await?;
                app.vmid = None;
                app.vmid_confirmed = false;
                app.public_port = None;
                app.ip_address = None;
                app.published = None;
                app.mac = None;
                app.pending_restart.clear();
            }
            Change::RemoveApp => removed = true,
            Change::Moved(node) => {
                app.node_id = *node;
                app.published = None;
                operation.node_id = Some(*node);
                operations::move_queued(&mut *tx, app.id.as_str(), *node).await?;
            }
            Change::Side(change) => {
                side_record::apply(&mut *tx, now, operation, &mut app, &mut data, change).await?;
            }
            Change::Backup(change) => {
                events.extend(backup_record::apply(&mut *tx, now, operation, &mut data, change).await?);
            }
        }
    }
    operation.data = serde_json::to_value(&data).map_err(StoreError::from)?;
    if removed {
        app_secrets::forget(&mut *tx, app.id.as_str()).await?;
        operation_secrets::forget_app(&mut *tx, app.id.as_str()).await?;
        adopted_configurations::forget(&mut *tx, app.id.as_str()).await?;
        deployment_logs::forget(&mut *tx, app.id.as_str()).await?;
        apps::remove(&mut *tx, app.id.as_str()).await?;
    } else if changes.iter().all(beside_app) {
        // What is done beside the app changes nothing of it.
        return Ok(());
    } else {
        apps::update(&mut *tx, now, &app).await?;
    }
    events.push(store::insert_event(tx, now, app_event(&app, removed)).await?);
    Ok(())
}

/// Whether it changes nothing of the app itself.
fn beside_app(change: &Change) -> bool {
    match change {
        Change::Backup(_) => true,
        Change::Side(change) => *change != SideChange::TakesOver,
        _ => false,
    }
}

/// What was asked is in force: the app's row says so from now on.
async fn configured(
    tx: &mut Connection,
    now: UnixMs,
    app: &mut AppRow,
    operation: OperationId,
    params: &ConfigureParams,
) -> Result<(), StoreError> {
    let resources = &mut app.resources;
    resources.cpu_cores = params.cpu_cores.unwrap_or(resources.cpu_cores);
    resources.memory_mb = params.memory_mb.unwrap_or(resources.memory_mb);
    resources.swap_mb = params.swap_mb.unwrap_or(resources.swap_mb);
    app.config.clone_from(&params.config);
    if let Some(environment) = &params.environment {
        app.environment.clone_from(&environment.plain);
        for name in &environment.forget_secrets {
            app_secrets::forget_one(&mut *tx, app.id.as_str(), name).await?;
        }
        operation_secrets::settle(&mut *tx, operation).await?;
    }
    apps::update_asked(tx, now, app).await
}

/// Gives back what a node refused, remembers the refusal, and takes another.
async fn choose_again(
    tx: &mut Connection,
    inventories: &Inventories,
    now: UnixMs,
    app: &mut AppRow,
    choice: Choice,
) -> Result<Line, RecordError> {
    let fleet_nodes = fleet::nodes(&mut *tx).await?;
    let node = fleet_nodes.iter().find(|n| n.id == app.node_id);
    let (Some(node), Some(facts)) = (node, node.and_then(|n| n.facts.as_ref())) else {
        return Err(RecordError::Exhausted("the node is no longer in the registry".into()));
    };
    let around = match surroundings::of_node(&mut *tx, node, facts, &fleet_nodes, inventories).await {
        Ok(around) => around,
        Err(SurroundingsError::Store(error)) => return Err(error.into()),
        Err(other) => return Err(RecordError::Exhausted(other.to_string())),
    };
    let id = app.id.as_str();
    let full = |what: &str| RecordError::Exhausted(format!("{} has no other free {what}", node.name));
    let message = match choice {
        Choice::Vmid => {
            let refused = app.vmid.unwrap_or_default();
            reservations::refuse(&mut *tx, now, app.host_id, choice, &refused.to_string()).await?;
            reservations::free_vmid(&mut *tx, id, refused).await?;
            let next = reserve::vmid(tx, now, &around, id, app.generation)
                .await?
                .ok_or_else(|| full("VMID"))?;
            app.vmid = Some(next);
            format!("VMID {refused} is taken on {}; using {next}", node.name)
        }
        Choice::Port => {
            let refused = app.public_port.unwrap_or_default();
            reservations::refuse(&mut *tx, now, app.host_id, choice, &refused.to_string()).await?;
            reservations::free_port(&mut *tx, id, refused).await?;
            let next = reserve::port(tx, now, &around, id)
                .await?
                .ok_or_else(|| full("public port"))?;
            app.public_port = Some(next);
            format!("Port {refused} is taken on {}; using {next}", node.name)
        }
        Choice::Address => {
            let refused = reservations::address_of(&mut *tx, id)
                .await?
                .ok_or_else(|| full("address"))?;
            reservations::refuse(&mut *tx, now, app.host_id, choice, &refused.to_string()).await?;
            reservations::free_address(&mut *tx, id, refused).await?;
            let next = reserve::address(tx, now, &around, id)
                .await?
                .ok_or_else(|| full("address"))?;
            app.ip_address = Some(next);
            format!("Address {refused} is taken; using {next}")
        }
    };
    Ok(Line {
        level: LogLevel::Warning,
        step: "reserve".into(),
        message,
    })
}
