//! What an operator does about an operation that the engine gave up, or that waits for what never comes: let it go on from where it stands, or abandon it.
//!
//! It works on the registry's rows, so that the command line can do it beside a running coordinator: the engine sees an operation that goes on again when it
//! looks next, and writes nothing to one that has ended.

#[cfg(test)]
mod tests;

use super::{
    Caller, Role, ServiceError,
    operations::{OperationView, no_such_operation, view},
};
use crate::{
    clock::{SharedClock, UnixMs},
    domain::{
        app_state::Status,
        operation_state::{OperationState, StepState},
    },
    events::{Bus, Event},
    operations::{
        Engine, backup_record, kind,
        record::{Told, app_event, operation_event},
        recovery,
    },
    store::{
        self, AuditEntry, Connection, Store, StoreError,
        apps::{self, AppRow},
        deployment_logs::{self, LogLevel},
        fleet,
        operations::{self as rows, OperationFilter, OperationRow, StepRow},
        side_containers,
    },
};
use proximity_protocol::ids::OperationId;
use serde::Serialize;

/// An abandoned operation, and what it leaves.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Abandoned {
    /// As it stands now.
    pub operation: OperationView,
    /// What is or may be left, each with what to do about it.
    pub left: Vec<String>,
}

/// Which operations a list shows.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Those that have ended, too.
    pub all: bool,
    /// Only in this state.
    pub state: Option<OperationState>,
    /// Only of this app.
    pub app_id: Option<String>,
}

/// An operation with the name of its node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Placed {
    /// The node's name; `None`: it is no longer in the registry.
    pub node: Option<String>,
    /// The operation.
    #[serde(flatten)]
    pub operation: OperationView,
}

/// The use cases of operators.
#[derive(Clone)]
pub struct Rescue {
    store: Store,
    clock: SharedClock,
    /// Of this process, if it runs here.
    running: Option<(Engine, Bus)>,
}

impl std::fmt::Debug for Rescue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rescue(…)")
    }
}

fn only_operators(caller: &Caller) -> Result<(), ServiceError> {
    if caller.role >= Role::Operator {
        Ok(())
    } else {
        Err(ServiceError::Forbidden("this is for operators; ask one".into()))
    }
}

fn what(row: &OperationRow) -> String {
    format!("the {} of {}", row.kind, row.hostname)
}

impl Rescue {
    /// Beside an engine of this process, or for the command line without one.
    pub fn new(store: Store, clock: SharedClock, running: Option<(Engine, Bus)>) -> Self {
        Self { store, clock, running }
    }

    /// Operations, newest first, at most `limit`: unless all are wanted, those that go on and those that are stuck and not abandoned.
    pub async fn list(&self, wanted: &Wanted, limit: i64) -> Result<Vec<Placed>, ServiceError> {
        let mut conn = self.store.read().await?;
        let names = names(&mut conn).await?;
        let filter = OperationFilter {
            state: wanted.state,
            app_id: wanted.app_id.clone(),
            open: !wanted.all && wanted.state.is_none(),
            ..OperationFilter::default()
        };
        let (found, _) = rows::list(&mut conn, &filter, limit, 0).await?;
        let mut placed = Vec::with_capacity(found.len());
        for row in found {
            let steps = rows::steps(&mut conn, row.id).await?;
            placed.push(Placed {
                node: row
                    .node_id
                    .and_then(|id| names.iter().find(|n| n.id == id))
                    .map(|n| n.name.clone()),
                operation: view(row, steps),
            });
        }
        Ok(placed)
    }

    /// One operation.
    pub async fn show(&self, id: &str) -> Result<Placed, ServiceError> {
        let mut conn = self.store.read().await?;
        let row = find(&mut conn, id).await?;
        let steps = rows::steps(&mut conn, row.id).await?;
        let names = names(&mut conn).await?;
        Ok(Placed {
            node: row
                .node_id
                .and_then(|id| names.iter().find(|n| n.id == id))
                .map(|n| n.name.clone()),
            operation: view(row, steps),
        })
    }

    /// Lets a stuck operation go on from where it stands, with all its tries anew.
    pub async fn retry(&self, caller: &Caller, id: &str) -> Result<OperationView, ServiceError> {
        only_operators(caller)?;
        let now = self.clock.now_ms();
        let mut tx = self.store.begin().await?;
        let mut row = find(&mut tx, id).await?;
        let app = may_go_on(&mut tx, &row).await?;
        let steps = rows::steps(&mut tx, row.id).await?;
        let Some(kind) = kind(&row.kind) else {
            let why = format!(
                "this version knows no operation {:?}; install the one that began it",
                row.kind
            );
            return Err(ServiceError::Conflict(why));
        };
        let (state, place) = recovery::reopened(&row, &steps, kind.forward_only);
        row.state = state;
        (row.reason, row.action, row.finished_at, row.quiet_since) = (None, None, None, None);
        (row.abandoned_at, row.abandoned_by) = (None, None);
        if state != OperationState::Undoing {
            row.error = None;
        }
        row.updated_at = now;
        // It has all its time anew: what was stuck for days is not overdue the moment that it goes on.
        row.started_at = Some(now);
        rows::step_in(&mut tx, &row).await?;
        if let Some(place) = place {
            rows::update_step(&mut tx, row.id, &anew(&steps[place], state, now)).await?;
        }
        let mut told = Vec::new();
        if kind.forward_only && !kind.beside_app && app.status != Status::Removing {
            let removing = AppRow {
                status: Status::Removing,
                status_reason: None,
                ..app
            };
            apps::update(&mut tx, now, &removing).await?;
            told.push(store::insert_event(&mut tx, now, app_event(&removing, false)).await?);
        }
        let words = format!("{} lets it go on from where it stood", caller.username);
        told.push(self.tell(&mut tx, now, &row, caller, "operation.retry", &words).await?);
        let steps = rows::steps(&mut tx, row.id).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.after(&row, told);
        Ok(view(row, steps))
    }

    /// Gives an operation up for good and says what it leaves. Reservations stay until a reconciliation has seen that nothing is left.
    pub async fn abandon(&self, caller: &Caller, id: &str) -> Result<Abandoned, ServiceError> {
        only_operators(caller)?;
        let now = self.clock.now_ms();
        let mut tx = self.store.begin().await?;
        let mut row = find(&mut tx, id).await?;
        may_be_abandoned(&row)?;
        let steps = rows::steps(&mut tx, row.id).await?;
        let app = apps::by_id(&mut tx, &row.app_id).await?;
        let names = names(&mut tx).await?;
        let node = row
            .node_id
            .and_then(|id| names.iter().find(|n| n.id == id))
            .map(|n| n.name.clone());
        let left = left(&row, &steps, app.as_ref(), node.as_deref().unwrap_or("its node"));
        row.reason = Some(row.reason.unwrap_or_else(|| "it was abandoned".into()));
        row.action = Some(format!("Abandoned by {}. {}", caller.username, left.join(" ")));
        row.state = OperationState::Stuck;
        row.quiet_since = None;
        row.finished_at = row.finished_at.or(Some(now));
        (row.abandoned_at, row.abandoned_by) = (Some(now), Some(caller.username.clone()));
        row.updated_at = now;
        rows::step_in(&mut tx, &row).await?;
        let mut told = Vec::new();
        let words = format!("{} was abandoned. {}", what(&row), left.join(" "));
        side_containers::abandoned(&mut tx, row.id, &words).await?;
        told.extend(backup_record::abandoned(&mut tx, now, &row, &words).await?);
        let beside = kind(&row.kind).is_some_and(|kind| kind.beside_app);
        if let Some(mut app) = app.filter(|_| !beside) {
            app.status = Status::Error;
            app.status_reason = Some(words);
            apps::update(&mut tx, now, &app).await?;
            told.push(store::insert_event(&mut tx, now, app_event(&app, false)).await?);
        }
        let words = format!("{} abandoned it. {}", caller.username, left.join(" "));
        told.push(
            self.tell(&mut tx, now, &row, caller, "operation.abandon", &words)
                .await?,
        );
        tx.commit().await.map_err(StoreError::from)?;
        self.after(&row, told);
        Ok(Abandoned {
            operation: view(row, steps),
            left,
        })
    }

    /// Log, audit and event of what was done.
    async fn tell(
        &self,
        tx: &mut Connection,
        now: UnixMs,
        row: &OperationRow,
        caller: &Caller,
        action: &str,
        words: &str,
    ) -> Result<Event, StoreError> {
        deployment_logs::append(tx, now, &row.app_id, Some(row.id), LogLevel::Warning, "operator", words).await?;
        let entry = AuditEntry {
            actor: caller.username.clone(),
            action: action.to_owned(),
            target: Some(row.id.to_string()),
            remote: caller.remote.clone(),
            outcome: "ok".into(),
            detail: Some(format!("{} (app {})", what(row), row.app_id)),
            request_id: caller.request_id.clone(),
        };
        store::audit(tx, now, &entry).await?;
        tracing::info!(operation_id = %row.id, app_id = row.app_id, actor = caller.username, action, "an operator stepped in");
        operation_event(
            tx,
            now,
            row,
            Told {
                message: Some(words),
                ..Told::default()
            },
        )
        .await
    }

    fn after(&self, row: &OperationRow, told: Vec<Event>) {
        if let Some((engine, bus)) = &self.running {
            told.into_iter().for_each(|event| bus.publish(event));
            engine.wake();
            engine.kick(row.id);
        }
    }
}

async fn names(conn: &mut Connection) -> Result<Vec<fleet::FleetNode>, StoreError> {
    fleet::nodes(conn).await
}

async fn find(conn: &mut Connection, id: &str) -> Result<OperationRow, ServiceError> {
    let parsed: OperationId = id.parse().map_err(|_| no_such_operation(id))?;
    rows::by_id(conn, parsed).await?.ok_or_else(|| no_such_operation(id))
}

/// The app of an operation that may go on: nothing else has dealt with it since.
async fn may_go_on(conn: &mut Connection, row: &OperationRow) -> Result<AppRow, ServiceError> {
    let no = |why: String| Err(ServiceError::Conflict(why));
    if row.state != OperationState::Stuck {
        return no(format!(
            "{} is {}; only what is stuck can go on again",
            what(row),
            row.state
        ));
    }
    let Some(app) = apps::by_id(&mut *conn, &row.app_id).await? else {
        return no(format!("{} cannot go on: its app has been removed since", what(row)));
    };
    if let Some(later) = rows::latest_of(&mut *conn, &row.app_id)
        .await?
        .filter(|later| *later != row.id)
    {
        return no(format!(
            "{} cannot go on: a later operation ({later}) has dealt with {} since; start, stop or delete the app instead",
            what(row),
            row.hostname
        ));
    }
    Ok(app)
}

fn may_be_abandoned(row: &OperationRow) -> Result<(), ServiceError> {
    let why = match row.state {
        OperationState::Stuck if row.abandoned_at.is_some() => format!("{} is abandoned already", what(row)),
        OperationState::Stuck | OperationState::Waiting | OperationState::Undoing => return Ok(()),
        OperationState::Done | OperationState::Undone => {
            format!("{} has ended ({}); nothing is left to abandon", what(row), row.state)
        }
        OperationState::Queued | OperationState::Running => {
            format!(
                "{} is {}: cancel it, and abandon it only if it gets stuck",
                what(row),
                row.state
            )
        }
    };
    Err(ServiceError::Conflict(why))
}

/// The step as it is tried again: with a new key, and all its tries.
fn anew(step: &StepRow, direction: OperationState, now: UnixMs) -> StepRow {
    let mut step = step.clone();
    step.tries = 0;
    match (direction, step.state) {
        (OperationState::Undoing, StepState::Undoing) | (_, StepState::Waiting) => step.retry_at = Some(now),
        (OperationState::Undoing, _) | (_, StepState::Running | StepState::Pending) => {}
        _ => {
            step.state = StepState::Waiting;
            step.retry_at = Some(now);
        }
    }
    step
}

/// What may be left of an operation that nobody goes on with.
fn left(row: &OperationRow, steps: &[StepRow], app: Option<&AppRow>, node: &str) -> Vec<String> {
    let Some(app) = app else {
        return vec!["Its app has been removed already.".into()];
    };
    let mut left = Vec::new();
    let made = app.vmid_confirmed || steps.iter().any(|s| s.name == "create" && s.state.touched());
    if let Some(vmid) = app.vmid {
        if made {
            left.push(format!(
                "Container {vmid} may be left on {node}: see `pct config {vmid}` there, and /etc/pve/priv/proximity/{vmid}, which says whose it is."
            ));
        }
        let port = app.public_port.map(|port| format!(", port {port}")).unwrap_or_default();
        let address = app
            .ip_address
            .map(|address| format!(", address {address}"))
            .unwrap_or_default();
        left.push(format!(
            "VMID {vmid}{port}{address} stay reserved until a reconciliation has seen that nothing of the app is left."
        ));
    }
    left.push(format!(
        "The app {} stays in status error; delete it to remove what is left.",
        row.app_id
    ));
    left
}
